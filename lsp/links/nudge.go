package links

import (
	"context"
	"crypto/rand"
	"fmt"
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
	// nudgeBlocks keeps a nudge that its peer does not answer, because it goes away, from
	// closing the channel for two weeks; lnd sends none that expires after 2016 blocks.
	nudgeBlocks = 2000
	// nudgeFor is how long an answer is waited for; the HTLC may outlast it.
	nudgeFor = 30 * time.Second
	// nudgesAtOnce bounds what a node that has just been restarted signs for it.
	nudgesAtOnce = 8
)

// nudgeAll makes channels sign that stand still: each gets a payment of one satoshi
// to the peer, whose hash nobody has the preimage of, and which the peer so fails. Both
// sides sign to add it, and with it all that one of them owes.
func (k *Keeper) nudgeAll(ctx context.Context, standing *Standing) error {
	// In this order: a payment that ends in between is in neither.
	underWay := k.underWay()
	channels, err := k.node.ListChannels(ctx)
	if err != nil {
		return err
	}
	due := standing.Look(k.now(), channels, underWay)
	if len(due) == 0 {
		return nil
	}
	info, err := k.node.Info(ctx)
	if err != nil {
		return err
	}
	places := make(chan struct{}, nudgesAtOnce)
	var all sync.WaitGroup
	defer all.Wait()
	for _, c := range due {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			k.nudge(ctx, c, info.BlockHeight+nudgeBlocks)
		})
	}
	return nil
}

func (k *Keeper) nudge(ctx context.Context, c ln.Channel, expiry uint32) {
	ctx, cancel := context.WithTimeout(ctx, nudgeFor)
	defer cancel()
	p := ln.DirectPayment{AmountMsat: nudgeMsat, ChanID: c.ChanID, Peer: c.Peer, ExpiryHeight: expiry}
	// A hash that is drawn is nobody's.
	_, _ = rand.Read(p.Hash[:])
	_, _ = rand.Read(p.PaymentAddr[:])
	log := k.log.With(zap.Stringer("peer", c.Peer), zap.Stringer("channel", c.Outpoint), zap.String("hash", p.Hash.String()))
	log.Info("a payment of one satoshi that its peer fails makes both sides of a channel sign: an HTLC may be signed by one only, as after a restart")
	switch paid, err := k.payer.PayDirect(ctx, p); {
	case err != nil:
		log.Debug("its outcome is not known", zap.Error(err))
	default:
		log.Debug("it has ended", zap.String("state", fmt.Sprint(paid.State)), zap.String("failure", paid.Failure))
	}
}
