package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/in"
)

// InWish is what a client wants to swap in.
type InWish struct {
	Hash                   ln.Hash
	Sender, SenderInternal ln.PubKey
	AmountSat              ln.Sat
	SwapInvoice, Probe     string
	LastHop                ln.PubKey
	// Client is what it calls itself, Caller what it is capped by.
	Client, Caller string
}

// InOffer is what it gets.
type InOffer struct {
	Receiver, ReceiverInternal ln.PubKey
	ExpiryHeight               uint32
}

// InTerms tells the limits as they are now.
func (e *Engine) InTerms(ctx context.Context) (least, most ln.Sat, err error) {
	outbound, err := e.outbound(ctx)
	if err != nil {
		return 0, 0, err
	}
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		free, _, err := e.inFree(ctx, tx, outbound, "")
		most = min(e.cfg.In.MaxSat, free)
		return err
	})
	if err == nil && most < e.cfg.In.MinSat {
		err = errkind.New(errkind.Exhausted, "the gateway has no room for a swap in now: try again later")
	}
	return e.cfg.In.MinSat, most, err
}

// outbound is what the gateway's channels could pay.
func (e *Engine) outbound(ctx context.Context) (ln.Sat, error) {
	channels, err := e.node.Events.ListChannels(ctx)
	if err != nil {
		return 0, err
	}
	var sum ln.Sat
	for _, c := range channels {
		if c.Active && c.LocalSat > c.LocalReserveSat {
			sum += c.LocalSat - c.LocalReserveSat
		}
	}
	return sum, nil
}

// inFree is what a new swap in may take, and what the caller's own take.
func (e *Engine) inFree(ctx context.Context, tx *store.Tx, outbound ln.Sat, caller string) (ln.Sat, ofCaller, error) {
	var own ofCaller
	live, err := e.liveInsTx(ctx, tx)
	if err != nil {
		return 0, own, err
	}
	var promised, open ln.Sat
	probing, waiting := 0, 0
	tip := e.moment().Height
	for _, inst := range live {
		if in.Lapsed(inst.State, tip) {
			continue
		}
		p := in.PlanOf(inst.State)
		promised += in.Promised(inst.State)
		open += p.AmountSat
		unpaid, probes := 0, 0
		switch s := inst.State.(type) {
		case in.Probing, in.ProbeHeld:
			unpaid, probes = 1, 1
		case in.Waiting:
			if s.Outpoint.IsZero() && s.Open == nil {
				waiting++
				unpaid = 1
			}
		}
		probing += probes
		if caller != "" && p.Caller == caller {
			own.open += p.AmountSat
			own.unpaid += unpaid
			own.probes += probes
		}
	}
	if probing >= e.cfg.In.MaxProbes || waiting >= e.cfg.MaxUnpaid {
		return 0, own, errkind.New(errkind.Exhausted, "too many swaps in are being begun: try again in a minute")
	}
	less := func(a, b ln.Sat) ln.Sat { return a - min(a, b) }
	return min(less(outbound, promised), less(e.cfg.MaxOpenSat, open)), own, nil
}

// liveIns are the unfinished swaps in.
func (e *Engine) liveIns(ctx context.Context) (all []fsm.Instance[in.State], err error) {
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		all, err = e.liveInsTx(ctx, tx)
		return err
	})
	return all, err
}

func (e *Engine) liveInsTx(ctx context.Context, tx *store.Tx) (all []fsm.Instance[in.State], err error) {
	const page = 500
	for after := ""; ; after = all[len(all)-1].ID {
		list, err := e.ins.ListTx(ctx, tx, fsm.Filter{Live: true, After: after, Limit: page, Shared: true})
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
		if len(list) < page {
			return all, nil
		}
	}
}

// QuoteIn prices a swap in from the latest rates.
func (e *Engine) QuoteIn(ctx context.Context, amount ln.Sat) (fee ln.Sat, err error) {
	least, most, err := e.InTerms(ctx)
	if err != nil {
		return 0, err
	}
	if amount < least || amount > most {
		return 0, errkind.Newf(errkind.Invalid, "a swap in is %s to %s now: choose an amount between", least, most)
	}
	rates, err := e.window().Latest(e.opt.Now(), e.cfg.StaleAfter)
	if err != nil {
		return 0, err
	}
	return e.cfg.In.Price.In(amount, rates.Of(false))
}

// OfferIn probes the client's wallet and agrees on a swap in. It answers within
// the half minute that stock clients wait.
func (e *Engine) OfferIn(ctx context.Context, w InWish) (InOffer, error) {
	plan, err := e.planIn(ctx, w)
	if err != nil {
		return InOffer{}, err
	}
	outbound, err := e.outbound(ctx)
	if err != nil {
		return InOffer{}, err
	}
	err = e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := unused(e.outs.GetTx(ctx, tx, plan.ID())); err != nil {
			return err
		}
		free, own, err := e.inFree(ctx, tx, outbound, w.Caller)
		if err != nil {
			return err
		}
		if err := own.check(w.AmountSat, e.cfg); err != nil {
			return err
		}
		if own.probes >= e.cfg.In.MaxProbesPerClient {
			return errkind.Newf(errkind.Exhausted, "%d probes to your wallet are under way or held: give them back first", own.probes)
		}
		if w.AmountSat > free {
			return errkind.New(errkind.Exhausted, "the gateway has no room for a swap in of this amount now: try again later, or with less")
		}
		if err := payhash.Claim(ctx, tx, plan.Terms.Hash, "swap_in/"+plan.ID()); err != nil {
			return err
		}
		_, err = e.ins.CreateTx(ctx, tx, plan.ID(), in.Probing{Plan: plan}, in.Start{Moment: e.moment()})
		return err
	})
	if errors.Is(err, store.ErrUnique) {
		return InOffer{}, errUsedHash
	}
	if err != nil {
		return InOffer{}, err
	}
	s, err := await(ctx, e.ins, plan.ID(), func(s in.State) bool {
		_, probing := s.(in.Probing)
		return !probing
	})
	if err != nil {
		return InOffer{}, err
	}
	if _, held := s.(in.ProbeHeld); held {
		return InOffer{}, errkind.New(errkind.Unavailable, "your wallet did not give the probe back in time: nothing is begun, and it counts among your swaps until it does")
	}
	if in.Final(s) {
		return InOffer{}, errkind.New(errkind.Unavailable, in.ReasonOf(s).Text)
	}
	return InOffer{Receiver: plan.Terms.Receiver, ReceiverInternal: plan.Terms.ReceiverInternal, ExpiryHeight: plan.Terms.ExpiryHeight}, nil
}

var errUsedHash = errkind.New(errkind.Conflict, "a swap with this hash exists: every swap needs a hash of its own")

// unused turns the look-up of a hash into whether it may be used.
func unused[S fsm.State](_ fsm.Instance[S], err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil {
		return store.ErrUnique
	}
	return err
}

// ProbeHash is the hash of the only probe that is paid for a swap: it follows
// from the swap's, so that the client cannot know its preimage and keep the
// money.
func ProbeHash(swap ln.Hash) ln.Hash {
	h := sha256.Sum256(swap[:])
	h[0] ^= 1
	return h
}

// maxFinalDelta is the longest final delta of an invoice that is paid: a client
// that holds a probe locks our money for so long. lnd's default is 80.
const maxFinalDelta = 200

// probeRouteBlocks are what the route to the client may take besides.
const probeRouteBlocks = 288

func (e *Engine) planIn(ctx context.Context, w InWish) (in.Plan, error) {
	invalid := func(format string, args ...any) (in.Plan, error) {
		return in.Plan{}, errkind.Newf(errkind.Invalid, format, args...)
	}
	c := e.cfg.In
	if w.AmountSat < c.MinSat || w.AmountSat > c.MaxSat {
		return invalid("a swap in is %s to %s: choose an amount between", c.MinSat, c.MaxSat)
	}
	now := e.opt.Now()
	rate, err := e.window().Firm(now, e.cfg.StaleAfter, e.cfg.FirmFor, false)
	if err != nil {
		return in.Plan{}, err
	}
	fee, err := c.Price.In(w.AmountSat, rate)
	if err != nil {
		return in.Plan{}, err
	}
	invoice, err := e.opt.DecodeBolt11(w.SwapInvoice)
	if err != nil {
		return invalid("the swap invoice cannot be read: %v", err)
	}
	probe, err := e.opt.DecodeBolt11(w.Probe)
	if err != nil {
		return invalid("the probe invoice cannot be read: %v", err)
	}
	most, err := (w.AmountSat - min(fee, w.AmountSat)).Msat()
	if err != nil {
		return in.Plan{}, err
	}
	switch {
	case invoice.Hash != w.Hash:
		return invalid("the swap invoice has another hash than the swap")
	case probe.Hash != ProbeHash(w.Hash):
		return invalid("the probe invoice's hash does not follow from the swap's: it is not paid")
	case invoice.AmountMsat == 0 || invoice.AmountMsat > most:
		return invalid("the swap invoice asks for %s, the amount less the fee is %s: ask for a new quote", invoice.AmountMsat, most)
	case probe.AmountMsat > invoice.AmountMsat || probe.AmountMsat == 0:
		return invalid("the probe invoice asks for another amount than the swap invoice")
	case invoice.FinalCltvDelta > maxFinalDelta || probe.FinalCltvDelta > maxFinalDelta:
		return invalid("an invoice wants to be locked for more than %d blocks at its end", maxFinalDelta)
	case !now.Before(invoice.ExpiresAt()) || !now.Before(probe.ExpiresAt()):
		return invalid("an invoice has expired")
	case invoice.Payee == e.cfg.Self || probe.Payee == e.cfg.Self:
		return invalid("the invoices are the gateway's own")
	}
	if err := e.unknownHash(ctx, w.Hash, probe.Hash); err != nil {
		return in.Plan{}, err
	}
	receiver, err := e.key(ctx, "in", w.Hash)
	if err != nil {
		return in.Plan{}, err
	}
	internal, err := e.key(ctx, "in/internal", w.Hash)
	if err != nil {
		return in.Plan{}, err
	}
	routing, err := c.Price.RoutingMsat(w.AmountSat)
	if err != nil {
		return in.Plan{}, err
	}
	tip := e.moment().Height
	plan := in.Plan{
		Terms: htlc.Terms{
			Hash: w.Hash, ExpiryHeight: tip + c.ExpiryDelta, Sender: w.Sender, Receiver: receiver.PubKey(),
			SenderInternal: w.SenderInternal, ReceiverInternal: internal.PubKey(),
		},
		AmountSat: w.AmountSat, Invoice: w.SwapInvoice, InvoiceMsat: invoice.AmountMsat, Probe: w.Probe, ProbeHash: probe.Hash,
		LastHop: w.LastHop, MaxRoutingMsat: routing, ProbeBy: now.Add(c.ProbeFor + c.ProbeFor/4).UTC(),
		Confs: c.confs(w.AmountSat), DeepConfs: c.DeepConfs, PayMarginBlocks: c.PayMarginBlocks,
		MinCltvBlocks: invoice.FinalCltvDelta + 10, MaxAttempts: c.MaxAttempts, KeyFor: c.KeyFor, WaitBlocks: c.WaitBlocks, BeginHeight: tip, ReserveBlocks: c.ReserveBlocks,
		Client: ln.Clip(w.Client, 100), Caller: w.Caller,
	}
	if err := plan.Terms.Check(); err != nil {
		return invalid("the swap's keys make no contract: %v", err)
	}
	return plan, nil
}

// key is one of the gateway's keys of a swap, from lnd's seed.
func (e *Engine) key(ctx context.Context, purpose string, hash ln.Hash) (htlc.Key, error) {
	shared, err := e.node.Keys.SharedKey(ctx, ln.KeyLocator{Family: keyFamily, Index: keyIndex}, htlc.Tweak(purpose, hash))
	if err != nil {
		return htlc.Key{}, err
	}
	return htlc.KeyFromShared(shared)
}

// PushKey takes a client's internal private key, which makes the claim small.
func (e *Engine) PushKey(ctx context.Context, hash ln.Hash, raw [32]byte) error {
	inst, err := e.ins.Get(ctx, hash.String())
	if errors.Is(err, store.ErrNotFound) {
		return errNoSwap
	}
	if err != nil {
		return err
	}
	if _, err := htlc.ParseKey(raw, in.PlanOf(inst.State).Terms.SenderInternal); err != nil {
		return err
	}
	_, err = e.ins.Send(ctx, hash.String(), in.KeyPushed{Moment: e.moment(), Key: swaps.NewSecret(raw)})
	if errors.Is(err, fsm.ErrIllegal) {
		return errkind.New(errkind.Conflict, "this swap is not paid yet, or is over: keep the key")
	}
	return err
}

// WatchIn tells the present state and each that follows, until the swap is over
// or ctx ends.
func (e *Engine) WatchIn(ctx context.Context, hash ln.Hash, tell func(in.State, time.Time) error) error {
	return watch(ctx, e.ins, hash, in.Final, tell)
}

// InExpiryDelta is how many blocks a client's output is ours alone.
func (e *Engine) InExpiryDelta() uint32 { return e.cfg.In.ExpiryDelta }
