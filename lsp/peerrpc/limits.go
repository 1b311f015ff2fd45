package peerrpc

import (
	"errors"
	"time"
)

// Limits bound what peers may ask for.
type Limits struct {
	// PeerPending is how many requests of one peer may be in flight (10 is what
	// LDK's service allows, too), AllPending of all together.
	PeerPending, AllPending int
	// PeerPerSecond and PeerBurst bound the requests of one peer; AllPerSecond
	// and AllBurst those of all.
	PeerPerSecond, AllPerSecond float64
	PeerBurst, AllBurst         int
	// PeerBytesPerSecond and AllBytesPerSecond bound what is parsed at all. A
	// burst is as large as one message for a peer, or a second for all.
	PeerBytesPerSecond, AllBytesPerSecond int
	// Peers is how many peers are remembered.
	Peers int
	// CallFor bounds one method, SendFor the writing of its answer.
	CallFor, SendFor time.Duration
}

// DefaultLimits are for a gateway with some thousands of wallets.
func DefaultLimits() Limits {
	return Limits{
		PeerPending: 10, AllPending: 1000,
		PeerPerSecond: 5, PeerBurst: 20, AllPerSecond: 5000, AllBurst: 5000,
		PeerBytesPerSecond: 16 << 10, AllBytesPerSecond: 16 << 20,
		Peers: 10_000, CallFor: 30 * time.Second, SendFor: 10 * time.Second,
	}
}

// Validate refuses limits under which nobody would be served.
func (l Limits) Validate() error {
	if l.PeerPending < 1 || l.AllPending < l.PeerPending || l.PeerPerSecond <= 0 || l.PeerBurst < 1 || l.AllPerSecond <= 0 ||
		l.AllBurst < 1 || l.PeerBytesPerSecond < 1 || l.AllBytesPerSecond < l.PeerBytesPerSecond || l.Peers < 1 ||
		l.CallFor <= 0 || l.SendFor <= 0 {
		return errors.New("limits of LSPS requests: each must be above zero, and what all may do at least what one may")
	}
	return nil
}
