package engine

import (
	"context"
	"errors"
	"slices"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

func waitingJit(f jit.WakeWallet) Waiting {
	return Waiting{PaymentID: f.OfferID, Client: f.Client, Hash: f.Hash, AmountMsat: f.AmountMsat, Until: f.Until}
}

func waitingWrap(f wrap.WakeWallet) Waiting {
	return Waiting{PaymentID: f.OfferID, Client: f.Client, Hash: f.Hash, AmountMsat: f.AmountMsat, Until: f.Until}
}

// errNobodyToAsk stands for a gateway without a waker.
var errNobodyToAsk = errors.New("no way to reach wallets that are offline is set up")

// wake never fails its payment: the wallet may come by itself.
func (e *Engine) wake(ctx context.Context, w Waiting) {
	err := errNobodyToAsk
	if e.opt.Waker != nil {
		err = e.opt.Waker.Wake(ctx, w)
	}
	log := e.log.With(zap.String("payment", w.PaymentID), zap.Stringer("client", w.Client), zap.Time("until", w.Until))
	if err != nil {
		log.Info("a payment waits for its wallet, which could not be told", zap.Error(err))
		return
	}
	log.Info("a payment waits for its wallet, which was told")
}

// Waiting lists what is held for a wallet and waits for it to come online:
// what it was told while nobody listened.
func (e *Engine) Waiting(ctx context.Context, client ln.PubKey) ([]Waiting, error) {
	if e.world.online(client) {
		return nil, nil
	}
	e.mu.Lock()
	jits, wraps := idsOf(e.waitingJit, client), idsOf(e.waitingWrap, client)
	e.mu.Unlock()
	var out []Waiting
	for _, id := range jits {
		inst, err := e.jits.Get(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if f, waits := jit.Waits(inst.State); waits {
			out = append(out, waitingJit(f))
		}
	}
	for _, id := range wraps {
		inst, err := e.wraps.Get(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if f, waits := wrap.Waits(inst.State); waits {
			out = append(out, waitingWrap(f))
		}
	}
	return out, nil
}

// idsOf are the payments of one wallet.
func idsOf(m map[string]ln.PubKey, client ln.PubKey) []string {
	var out []string
	for id, c := range m {
		if c == client {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}
