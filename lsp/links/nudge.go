package links

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Payer sends one HTLC over a channel.
type Payer interface {
	PayDirect(ctx context.Context, p ln.DirectPayment) (ln.Payment, error)
}

const (
	// nudgeMsat is what every implementation takes, and dust: no output, no fee.
	nudgeMsat ln.Msat = 1000
	// nudgeBlocks is how long a peer that goes away may take to answer: then the channel is
	// closed by force, as over the HTLC that is stuck in it. lnd sends none that expires
	// after 2016 blocks.
	nudgeBlocks = 2000
	// nudgeFor is how long an answer is waited for; the HTLC may outlast it.
	nudgeFor = 10 * time.Second
	// nudgesAtOnce bounds what a node signs for it at a time.
	nudgesAtOnce = 8
)

// nudgeAll makes channels sign that stand still: each gets a payment of one satoshi
// to the peer, whose hash nobody has the preimage of, and which the peer so fails. Both
// sides sign to add it, and with it all that one of them owes.
func (k *Keeper) nudgeAll(ctx context.Context, standing *Standing) error {
	// In this order: a payment that ends in between is in neither.
	payments := k.payments()
	channels, err := k.node.ListChannels(ctx)
	if err != nil {
		return err
	}
	turns := standing.Look(k.now(), channels, payments)
	if len(turns) == 0 {
		return nil
	}
	info, err := k.node.Info(ctx)
	if err != nil {
		return err // a turn is gone, the next comes
	}
	places := make(chan struct{}, nudgesAtOnce)
	var all sync.WaitGroup
	defer all.Wait()
	for _, t := range turns {
		if nudged(t.Channel, info.BlockHeight) {
			continue
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		all.Go(func() {
			defer func() { <-places }()
			k.nudge(ctx, t, info.BlockHeight+nudgeBlocks)
		})
	}
	return nil
}

// nudged tells whether an earlier nudge still waits for the peer's answer. Others pay
// less than half as far ahead, or more.
func nudged(c ln.Channel, height uint32) bool {
	return offered(c, func(h ln.ChannelHtlc) bool { return h.AmtMsat == nudgeMsat && h.Expiry > height+nudgeBlocks/2 })
}

func (k *Keeper) nudge(ctx context.Context, t Turn, expiry uint32) {
	ctx, cancel := context.WithTimeout(ctx, nudgeFor)
	defer cancel()
	p := ln.DirectPayment{AmountMsat: nudgeMsat, ChanID: t.Channel.ChanID, Peer: t.Channel.Peer, ExpiryHeight: expiry}
	// A hash that is drawn is nobody's.
	_, _ = rand.Read(p.Hash[:])
	_, _ = rand.Read(p.PaymentAddr[:])
	log := k.log.With(zap.Stringer("peer", p.Peer), zap.Stringer("channel", t.Channel.Outpoint), zap.String("hash", p.Hash.String()), zap.Int("attempt", t.Before+1))
	paid, err := k.payer.PayDirect(ctx, p)
	switch {
	case err != nil:
		log.Info("a payment of one satoshi was to make both sides of a channel sign: its outcome is not known yet", zap.Error(err))
	case paid.FailedHere:
		log.Warn("a channel may stand still, signed by one side only, and takes no payment of one satoshi that would make both sign: it goes on with the next payment over it", zap.String("failure", paid.Failure))
	case t.Before+1 >= deadAfter:
		log.Warn("payments of one satoshi do not make a channel go on in which an HTLC waits: see the runbook, \"One side alone has signed\"", zap.String("failure", paid.Failure))
	default:
		log.Info("a payment of one satoshi that its peer failed made both sides of a channel sign: one alone may have, as when a node was killed", zap.String("failure", paid.Failure))
	}
}
