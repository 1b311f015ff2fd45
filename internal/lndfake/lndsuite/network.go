// Package lndsuite holds what stock lnd was observed to do, as tests: every row of sections A, D, F and H of the
// facts about on-demand channels, and of the table about replayed HTLCs. They run against a Network, which is either
// internal/lndfake or real nodes, and so keep the fake honest. Rows lists the rows and the cases that hold each.
package lndsuite

import (
	"testing"
	"time"

	"google.golang.org/grpc"
)

// The nodes of a Network.
const (
	Payer   = "payer"
	Gateway = "gateway"
	Wallet  = "wallet"
)

// Options is how the gateway is run.
type Options struct {
	// RequireInterceptor is --requireinterceptor.
	RequireInterceptor bool
	// CommitInterval is --channel-commit-interval, lnd's 50 ms if zero: the window between RESUME and commitment.
	CommitInterval time.Duration
	// PayerBatch makes the payer sign what it sends within half a second in one commitment.
	PayerBatch bool
	// PayerDelay is how long each byte between the payer and the gateway is under way, each way.
	PayerDelay time.Duration
	// ZeroFees is --bitcoin.basefee=0 --bitcoin.feerate=0.
	ZeroFees bool
	// FeeRateSatPerKW is what the estimator says, if not zero.
	FeeRateSatPerKW int64
	// Ruins says that no other case can use the network after this one: channels of the gateway's go on chain, or lnd
	// is left with an HTLC that it will offer for ever.
	Ruins bool
}

// Network is a payer, a gateway and a wallet on a regtest chain. The payer has a confirmed, announced channel of
// 16,000,000 sat to the gateway, 4,000,000 of it the gateway's, and the gateway has confirmed coins. The wallet is
// connected to the gateway, and has no channel. Peers reconnect by themselves.
type Network interface {
	// Conn is a connection for RPCs to a node, which outlives the node's restarts.
	Conn(t *testing.T, node string) *grpc.ClientConn
	// Kill is kill -9, Stop an orderly end. Start starts such a node and returns when its RPCs are served.
	Kill(t *testing.T, node string)
	Stop(t *testing.T, node string)
	Start(t *testing.T, node string)
	// Flap cuts the connection of two nodes for a moment. Disconnect cuts it until Connect.
	Flap(t *testing.T, a, b string)
	Disconnect(t *testing.T, a, b string)
	Connect(t *testing.T, a, b string)
	// Freeze is SIGSTOP, Thaw is SIGCONT.
	Freeze(t *testing.T, node string)
	Thaw(t *testing.T, node string)
	// Mine adds blocks and returns when every running node knows them.
	Mine(t *testing.T, blocks int)
}

// Factory gives a Network with a wallet that no other case had, for as long as the test lives. The other nodes may have
// served cases before that ran with the same options: none of their HTLCs is left then, and the payer remembers no route.
type Factory func(t *testing.T, opts Options) Network

// Runner runs one case; a fake runs it in a bubble with a virtual clock.
type Runner func(t *testing.T, name string, f func(t *testing.T))

// Run runs the whole suite.
func Run(t *testing.T, run Runner, make Factory) {
	t.Helper()
	number := 0
	for _, section := range sections() {
		for _, name := range sorted(section) {
			number++
			n := number
			run(t, name, func(t *testing.T) { section[name](newEnv(t, make, n)) })
		}
	}
}

func sections() []map[string]func(*env) {
	return []map[string]func(*env){sectionA(), sectionD(), sectionF(), sectionH(), replays()}
}
