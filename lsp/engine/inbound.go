package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// inboundFor is how long what the network can bring is taken for true: it moves
// with every forward, and is a guess for a payment that comes later in any case.
const inboundFor = 10 * time.Second

// inbound is what payers can bring to the gateway over its public channels.
type inbound struct {
	mu   sync.Mutex
	at   time.Time
	msat ln.Msat
}

// errInbound refuses what could not arrive.
func errInbound() error {
	return errkind.Wrap(errkind.Unavailable, lsp.ErrTooLarge,
		"the gateway's public channels cannot bring a payment of that size at the moment: receive less, or try again later")
}

// checkInbound is bLIP-52's: a client shall not pay for a channel over which
// nothing can come, because the gateway has too little inbound liquidity itself.
func (e *Engine) checkInbound(ctx context.Context, size ln.Msat) error {
	i := &e.inbound
	i.mu.Lock()
	defer i.mu.Unlock()
	if now := e.opt.Now(); i.at.IsZero() || now.Sub(i.at) > inboundFor {
		channels, err := e.node.Channels.ListChannels(ctx)
		if err != nil {
			return fmt.Errorf("list the channels: %w", err)
		}
		i.at, i.msat = now, publicInbound(channels)
	}
	if size > i.msat {
		return errInbound()
	}
	return nil
}

// publicInbound adds up what the other side of every public channel that works
// can send. Private channels are wallets'.
func publicInbound(channels []ln.Channel) ln.Msat {
	var sum ln.Sat
	for _, c := range channels {
		if c.Private || !c.Active || c.RemoteSat <= c.RemoteReserveSat {
			continue
		}
		sum += c.RemoteSat - c.RemoteReserveSat // balances of real coins: no sum of them wraps
	}
	msat, err := sum.Msat()
	if err != nil {
		return ln.MaxMsat
	}
	return msat
}
