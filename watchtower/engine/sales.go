package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/credit"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
)

// Invoices holds payments until the credit that they buy is recorded.
type Invoices interface {
	// AddHoldInvoice of a hash that lnd has already is ln.ErrExists.
	AddHoldInvoice(ctx context.Context, r ln.HoldInvoiceRequest) (bolt11 string, err error)
	LookupInvoice(ctx context.Context, hash ln.Hash) (ln.Invoice, error)
	// SubscribeInvoice gives the present state first, and blocks until its stream
	// ends.
	SubscribeInvoice(ctx context.Context, hash ln.Hash, handle func(ln.Invoice)) error
	// SettleInvoice of a settled one is success; of a cancelled one ln.ErrInvoiceClosed.
	SettleInvoice(ctx context.Context, preimage ln.Preimage) error
	CancelInvoice(ctx context.Context, hash ln.Hash) error
}

// Channels tells whether those that a payment came over are safe.
type Channels interface {
	ListChannels(ctx context.Context) ([]ln.Channel, error)
}

// How credit is sold.
const (
	// invoiceFor is how long an invoice may be paid.
	invoiceFor = time.Hour
	// openPurchases bounds a tenant's invoices that nobody has paid yet.
	openPurchases = 5
	// leastPurchase is one satoshi: less cannot be settled on chain or shown.
	leastPurchase ln.Msat = 1000
	// forgetPurchases is how long purchases that came to nothing are shown.
	forgetPurchases = 7 * 24 * time.Hour
	forgetEvery     = time.Hour
	// offerWithin bounds how long a buyer waits for the invoice.
	offerWithin = 20 * time.Second
)

// sales is the sale of credit during one tenure of the lease.
type sales struct {
	e        *Engine
	machine  *fsm.Engine[credit.State, credit.Event, credit.Effect]
	ctx      context.Context //nolint:containedctx // the tenure's
	wg       sync.WaitGroup
	mu       sync.Mutex
	followed map[string]bool
}

// sell takes up the purchases of earlier processes and serves new ones until ctx
// ends. Purchases that were paid are settled also when nothing is sold any more.
func (e *Engine) sell(ctx context.Context, fence func(context.Context, *store.Tx) error) {
	if e.o.Invoices == nil {
		return
	}
	for ctx.Err() == nil {
		if err := e.sellOnce(ctx, fence); err != nil && ctx.Err() == nil {
			e.o.Log.Warn("credit cannot be sold; trying again", zap.Error(err))
			_ = pace.Pause(ctx, time.Second)
		}
	}
}

func (e *Engine) sellOnce(ctx context.Context, fence func(context.Context, *store.Tx) error) error {
	s := &sales{e: e, followed: map[string]bool{}}
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithCancel(ctx)
	var err error
	s.machine, err = fsm.New(credit.Machine(), fsm.Options[credit.State, credit.Event, credit.Effect]{
		Context: s.ctx, DB: e.o.DB, Execute: s.execute, Reconcile: s.reconcile, Fence: fence, RetryMax: 5 * time.Second, Log: e.o.Log.Named("credit"),
		InTx: func(ctx context.Context, tx *store.Tx, t fsm.Transition[credit.State, credit.Event]) error {
			return tower.RecordPurchase(ctx, tx, t.From, t.To, t.Seq, t.At)
		},
	})
	if err != nil {
		cancel()
		return err
	}
	defer func() {
		e.sales.Store(nil)
		cancel()
		s.machine.Close()
		s.wg.Wait()
	}()
	report, err := s.machine.Recover(ctx)
	if err != nil {
		return fmt.Errorf("purchases of credit: %w", err)
	}
	if report.Unfinished > 0 {
		e.o.Log.Info("took up purchases of credit", zap.Int("unfinished", report.Unfinished), zap.Int("reconciled", report.Reconciled))
	}
	e.sales.Store(s)
	pace.Every(ctx, forgetEvery, s.forget)
	return nil
}

func (s *sales) forget(ctx context.Context) {
	for ctx.Err() == nil {
		n, err := s.e.store.ForgetPurchases(ctx, s.e.o.Now().Add(-forgetPurchases), s.machine.ForgetTx)
		if err != nil && ctx.Err() == nil {
			s.e.o.Log.Warn("purchases that came to nothing were not deleted", zap.Error(err))
		}
		if n == 0 || err != nil {
			return
		}
	}
}

// BuyCredit gives a tenant an invoice for updates beyond its free ones.
func (e *Engine) BuyCredit(ctx context.Context, t watchtower.Tenant, updates int64) (tower.Purchase, error) {
	plan, err := e.planPurchase(t, updates)
	if err != nil {
		return tower.Purchase{}, err
	}
	s := e.sales.Load()
	if s == nil {
		return tower.Purchase{}, errkind.New(errkind.Unavailable, "This process sells no credit now: it is starting, or another one does. Try again in a few seconds.")
	}
	if err := e.o.DB.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		n, err := tower.OpenPurchases(ctx, tx, t.ID)
		if err != nil {
			return err
		}
		if n >= openPurchases {
			return errkind.Newf(errkind.Exhausted, "%d invoices of this registration wait to be paid: pay one, or wait until they expire.", n)
		}
		_, err = s.machine.CreateTx(ctx, tx, plan.ID(), credit.Planned{Plan: plan}, credit.Start{Moment: s.moment()})
		return err
	}); err != nil {
		return tower.Purchase{}, err
	}
	if err := s.await(ctx, plan.ID()); err != nil {
		return tower.Purchase{}, err
	}
	p, err := e.store.Purchase(ctx, t.ID, plan.Hash())
	if err == nil && p.Bolt11 == "" && p.PaidMsat == 0 {
		return p, errkind.New(errkind.Unavailable, "The purchase came to nothing: "+p.Reason)
	}
	return p, err
}

func (e *Engine) planPurchase(t watchtower.Tenant, updates int64) (credit.Plan, error) {
	terms := e.o.Config.Terms
	price, err := terms.PriceMsat.Int64()
	if err != nil {
		return credit.Plan{}, err
	}
	limit := terms.Limits.With(t.Own).Updates
	switch standing := t.Standing(terms, e.o.Now()); {
	case price == 0 || e.o.Invoices == nil:
		return credit.Plan{}, errkind.New(errkind.Invalid, "This tower sells nothing: its updates have no price.")
	case standing == watchtower.Suspended || standing == watchtower.Expired:
		return credit.Plan{}, errkind.Newf(errkind.Denied, "The registration is %s: credit would be of no use now.", standing)
	case updates < 1 || updates > limit || updates > math.MaxInt64/price:
		return credit.Plan{}, errkind.Newf(errkind.Invalid, "Credit is sold for 1 to %d updates, which is all that the registration may store.", limit)
	}
	amount := ln.Msat(updates * price) //nolint:gosec // both are positive, and their product is in range
	if amount < leastPurchase {
		return credit.Plan{}, errkind.Newf(errkind.Invalid, "An invoice is for at least one satoshi: buy %d updates or more.", (int64(leastPurchase)+price-1)/price)
	}
	var preimage ln.Preimage
	if _, err := io.ReadFull(e.o.Random, preimage[:]); err != nil {
		return credit.Plan{}, fmt.Errorf("draw a preimage: %w", err)
	}
	now := e.o.Now().UTC()
	return credit.Plan{
		Tenant: t.ID, Identity: t.Identity, Preimage: credit.NewSecret(preimage), AmountMsat: amount, At: now, Expires: now.Add(invoiceFor),
	}, nil
}

// await waits until a purchase has its invoice, or came to nothing.
func (s *sales) await(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, offerWithin)
	defer cancel()
	states, err := s.machine.Watch(ctx, id)
	if err != nil {
		return err
	}
	for t := range states {
		if _, waiting := t.To.(credit.Planned); !waiting {
			return nil
		}
	}
	return errkind.New(errkind.Unavailable, "The tower's node gave no invoice in time: nothing was bought; try again.")
}

// Purchases lists a tenant's purchases, newest first.
func (e *Engine) Purchases(ctx context.Context, tenant int64, limit int) ([]tower.Purchase, error) {
	return e.store.Purchases(ctx, tenant, limit)
}

func (s *sales) moment() credit.Moment { return credit.Moment{At: s.e.o.Now().UTC()} }

func (s *sales) execute(ctx context.Context, t fsm.Task[credit.Effect]) ([]credit.Event, error) {
	invoices := s.e.o.Invoices
	released := []credit.Event{credit.PaymentReleased{Moment: s.moment()}}
	switch f := t.Effect.(type) {
	case credit.MakeInvoice:
		return s.makeInvoice(ctx, f.Plan)
	case credit.WatchInvoice:
		s.follow(t.ID, f.Hash)
		return nil, nil
	case credit.SettleInvoice:
		err := invoices.SettleInvoice(ctx, f.Preimage.Preimage())
		if errors.Is(err, ln.ErrInvoiceClosed) || errors.Is(err, ln.ErrNotFound) {
			s.e.o.Log.Error("a payment went back before it was settled: its credit is taken back", zap.String("purchase", t.ID), zap.Error(err))
			return released, nil
		}
		if err != nil {
			return nil, err
		}
		return []credit.Event{credit.PaymentSettled{Moment: s.moment(), PaidMsat: f.PaidMsat}}, nil
	case credit.CancelInvoice:
		if err := invoices.CancelInvoice(ctx, f.Hash); err != nil && !errors.Is(err, ln.ErrNotFound) {
			return nil, err
		}
		return released, nil
	default:
		return nil, fmt.Errorf("the purchase asks for %q, which this version does not know", t.Effect.EffectName())
	}
}

func memo(p credit.Plan) string { return "sluice watchtower credit " + p.ID()[:16] }

// makeInvoice adds the invoice, or finds the one that an earlier attempt added.
func (s *sales) makeInvoice(ctx context.Context, p credit.Plan) ([]credit.Event, error) {
	request := ln.HoldInvoiceRequest{Hash: p.Hash(), AmountMsat: p.AmountMsat, Memo: memo(p), Expiry: invoiceFor}
	inv, no, err := payhash.HoldInvoice(ctx, s.e.o.Invoices, request)
	if err != nil {
		return nil, err
	}
	if no != "" {
		s.e.o.Log.Warn("lnd makes no invoice for credit", zap.String("purchase", p.ID()), zap.String("because", no))
		return []credit.Event{credit.InvoiceRefused{Moment: s.moment(), Text: no}}, nil
	}
	return []credit.Event{credit.InvoiceMade{Moment: s.moment(), Bolt11: inv.Bolt11}}, nil
}

// reconcile takes up a purchase that an earlier process left.
func (s *sales) reconcile(ctx context.Context, id string, state credit.State) ([]credit.Event, error) {
	if _, planned := state.(credit.Planned); planned {
		return nil, nil // the effect that is pending runs again by itself
	}
	hash := credit.PlanOf(state).Hash()
	_, err := s.e.o.Invoices.LookupInvoice(ctx, hash)
	if errors.Is(err, ln.ErrNotFound) {
		return []credit.Event{credit.PaymentReleased{Moment: s.moment()}}, nil
	}
	if err != nil {
		return nil, err
	}
	s.follow(id, hash)
	return nil, nil
}

// follow hears of an invoice until it is settled or cancelled.
func (s *sales) follow(id string, hash ln.Hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.followed[id] || s.ctx.Err() != nil {
		return
	}
	s.followed[id] = true
	s.wg.Go(func() {
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.followed, id)
		}()
		ctx, over := context.WithCancel(s.ctx)
		defer over()
		pace.Keep(ctx, pace.Backoff{First: followAgain, Most: 10 * followAgain, Healthy: time.Minute}, func(ctx context.Context) error {
			ended, err := s.hear(ctx, id, hash)
			if ended {
				over()
			}
			return err
		}, func(err error) {
			s.e.o.Log.Debug("lnd ended the stream of an invoice; following it again", zap.String("purchase", id), zap.Error(err))
		})
	})
}

// followAgain is the pause before an invoice is followed again whose stream
// ended.
const followAgain = 500 * time.Millisecond

// hear follows an invoice until its stream ends, or what it said could not be
// stored: the stream that follows says it again.
func (s *sales) hear(ctx context.Context, id string, hash ln.Hash) (over bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err = s.e.o.Invoices.SubscribeInvoice(ctx, hash, func(inv ln.Invoice) {
		if over || ctx.Err() != nil {
			return
		}
		event, err := s.heard(ctx, inv)
		if err == nil && event != nil {
			if _, err = s.machine.Send(ctx, id, event); errors.Is(err, fsm.ErrIllegal) {
				err = nil // it has moved on
			}
		}
		if err != nil {
			s.e.o.Log.Warn("a payment for credit waits", zap.String("purchase", id), zap.Error(err))
			cancel()
			return
		}
		if over = inv.State == ln.InvoiceSettled || inv.State == ln.InvoiceCanceled; over {
			cancel()
		}
	})
	return over, err
}

func (s *sales) heard(ctx context.Context, inv ln.Invoice) (credit.Event, error) {
	switch inv.State {
	case ln.InvoiceAccepted:
		unsafe, err := s.unsafe(ctx, inv)
		return credit.PaymentHeld{Moment: s.moment(), PaidMsat: paid(inv, ln.InvoiceAccepted), Unsafe: unsafe}, err
	case ln.InvoiceSettled:
		return credit.PaymentSettled{Moment: s.moment(), PaidMsat: paid(inv, ln.InvoiceSettled)}, nil
	case ln.InvoiceCanceled:
		return credit.PaymentReleased{Moment: s.moment()}, nil
	case ln.InvoiceOpen:
	}
	return nil, nil
}

func paid(inv ln.Invoice, state ln.InvoiceState) (sum ln.Msat) {
	for _, h := range inv.HtlcsIn(state) {
		sum += h.AmtMsat // parts of what lnd holds: below 2^63 together
	}
	return sum
}

// unsafe is law 12 (ln.DoubtOf); a doubt that passes is an error.
func (s *sales) unsafe(ctx context.Context, inv ln.Invoice) (string, error) {
	channels, err := s.e.o.Channels.ListChannels(ctx)
	if err != nil {
		return "", err
	}
	tip, err := s.e.o.Chain.Best(ctx)
	if err != nil {
		return "", err
	}
	why, _ := ln.DoubtOf(inv.HtlcsIn(ln.InvoiceAccepted), channels, uint32(max(tip, 0))) //nolint:gosec // a height
	if err := why.TooEarly(); err != nil {
		return "", err
	}
	return string(why), nil
}
