package lnd

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// settlesWithin is how long after its channel is active an lnd that fails an HTLC which it
// took in before it was killed needs at most until it lists it no more: it fails it as
// soon as the channel is re-established, and lists it until the peer has signed.
const settlesWithin = 5 * time.Second

// inherited tells the HTLCs that an lnd may have taken in in an earlier life. An lnd that
// is killed after an invoice accepted an HTLC, and before the link has recorded that its
// package was processed (one write to the database later), takes the HTLC for a replay
// once the peer is back: it fails it, and goes on calling the invoice accepted.
//
// A life is a connection of ours. It may begin without lnd having been started: then what
// lnd holds is doubted for nothing, and for no longer than settlesWithin.
type inherited struct {
	connections atomic.Uint64

	mu    sync.Mutex
	known uint64 // the life that the rest is about
	htlcs map[inheritedHtlc]bool
	up    map[ln.Outpoint]time.Time // since when a channel was seen active in this life
}

type inheritedHtlc struct {
	channel ln.Outpoint
	index   uint64
}

// life names the present connection; it is asked before the call whose answer is marked.
func (i *inherited) life() uint64 { return i.connections.Load() }

// mark marks what cannot be relied on yet in a listing that was requested in a life. What
// the first listing of a life has was inherited; of one that was asked for in another life,
// nothing can be said.
func (i *inherited) mark(life uint64, now time.Time, channels []ln.Channel) {
	i.mu.Lock()
	defer i.mu.Unlock()
	current, first := i.life() == life, life != i.known
	if current && first {
		i.known, i.up = life, make(map[ln.Outpoint]time.Time)
	}
	unproven := make(map[inheritedHtlc]bool)
	for _, c := range channels {
		proven := current && i.settled(c, now)
		for n, h := range c.Htlcs {
			key := inheritedHtlc{c.Outpoint, h.Index}
			if !h.Incoming || proven || current && !first && !i.htlcs[key] {
				continue
			}
			c.Htlcs[n].Unproven = true
			unproven[key] = true
		}
	}
	if current {
		i.htlcs = unproven
	}
}

// settled says that a channel has been active for long enough in this life.
func (i *inherited) settled(c ln.Channel, now time.Time) bool {
	if !c.Active {
		delete(i.up, c.Outpoint)
		return false
	}
	since, seen := i.up[c.Outpoint]
	if !seen {
		i.up[c.Outpoint] = now
		return false
	}
	return now.Sub(since) >= settlesWithin
}

// countedCredentials begin a life with each handshake, which is over before the first
// call on its connection.
type countedCredentials struct {
	credentials.TransportCredentials
	inherited *inherited
}

// ClientHandshake is the wrapped credentials' own.
func (c countedCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c.inherited.connections.Add(1)
	return c.TransportCredentials.ClientHandshake(ctx, authority, raw)
}

// Clone counts for the same client.
func (c countedCredentials) Clone() credentials.TransportCredentials {
	return countedCredentials{c.TransportCredentials.Clone(), c.inherited}
}
