package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// loads are the sums that limits are asked of, kept in memory: to sum the tables
// for each agreement and each part costs as much as there is open, and on
// PostgreSQL makes every two transactions conflict.
//
// They are never less than what the tables sum to. Only the process that holds the
// lease changes the tables, and its every transaction is fenced. A transaction that
// adds something counts from the moment that it is admitted, before it commits,
// until it is known to have changed nothing. One that takes something away counts
// once it has committed. What is admitted is admitted under the lock, so that of
// two that would exceed a cap together one is refused. At every start they are
// read from the tables, and checkLoads compares the two.
type loads struct {
	mu  sync.Mutex
	sum *lsp.Loads
	// seqs are the transitions that shares come from: those that a commit tells
	// late change nothing.
	seqs map[string]int64
	// changes counts changes, and unsure what waits to be read again.
	changes uint64
	unsure  int
}

func newLoads() *loads { return &loads{sum: lsp.NewLoads(), seqs: make(map[string]int64)} }

// shareOf is what the row of a payment counts for.
func shareOf(p lspdb.LspPayment) (lsp.Share, error) {
	client, err := ln.PubKeyFromBytes(p.Client)
	if err != nil {
		return lsp.Share{}, fmt.Errorf("payment %s: %w", p.ID, err)
	}
	held, err := holdingOf(p.HeldMsat, p.HeldSatBlocks, p.HeldSlots)
	if err != nil {
		return lsp.Share{}, fmt.Errorf("payment %s: %w", p.ID, err)
	}
	return lsp.Share{
		Client: client, Newcomer: p.Newcomer, QuotedSat: ln.Sat(p.CapacitySat), Funded: p.Funded, Holding: held, //nolint:gosec // never negative
	}, nil
}

func shareOfOrder(o lspdb.LspOrder) (lsp.Share, error) {
	client, err := ln.PubKeyFromBytes(o.Client)
	if err != nil {
		return lsp.Share{}, fmt.Errorf("order %s: %w", o.ID, err)
	}
	held, err := holdingOf(o.HeldMsat, o.HeldSatBlocks, o.HeldSlots)
	if err != nil {
		return lsp.Share{}, fmt.Errorf("order %s: %w", o.ID, err)
	}
	return lsp.Share{
		Client: client, Newcomer: o.Newcomer, QuotedSat: ln.Sat(o.LspBalanceSat + o.ClientBalanceSat), Funded: o.Funded, Holding: held, //nolint:gosec // never negative
	}, nil
}

// holdingOf reads what a row says that is held.
func holdingOf(msat, satBlocks int64, slots string) (lsp.Holding, error) {
	parsed, err := lsp.ParseSlots(slots)
	return lsp.Holding{HeldMsat: ln.Msat(msat), SatBlocks: uint64(satBlocks), Slots: parsed}, err //nolint:gosec // never negative
}

// tableLoads are the sums of the tables. A row may call a client a newcomer that has
// paid in the moment in which it was written: the table of opens decides.
func tableLoads(ctx context.Context, tx *store.Tx) (*lsp.Loads, error) {
	sum, q := lsp.NewLoads(), lspdb.New(tx)
	fresh := make(map[ln.PubKey]bool)
	put := func(id string, share lsp.Share) (err error) {
		if share.Newcomer {
			isNew, asked := fresh[share.Client]
			if !asked {
				if isNew, err = newcomer(ctx, tx, share.Client); err != nil {
					return err
				}
				fresh[share.Client] = isNew
			}
			share.Newcomer = isNew
		}
		sum.Put(id, share)
		return nil
	}
	payments, err := q.OpenPayments(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what is agreed and held: %w", err)
	}
	for _, p := range payments {
		share, err := shareOf(p)
		if err != nil {
			return nil, err
		}
		if err := put(p.ID, share); err != nil {
			return nil, err
		}
	}
	orders, err := q.UndecidedOrders(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what is ordered: %w", err)
	}
	for _, o := range orders {
		share, err := shareOfOrder(o)
		if err != nil {
			return nil, err
		}
		if err := put(o.ID, share); err != nil {
			return nil, err
		}
	}
	return sum, nil
}

// loadLoads reads the sums from the tables, before anything changes them.
func (e *Engine) loadLoads(ctx context.Context) error {
	return e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		sum, err := tableLoads(ctx, tx)
		if err != nil {
			return err
		}
		e.loads.mu.Lock()
		defer e.loads.mu.Unlock()
		e.loads.sum = sum
		return nil
	})
}

// errDrift says that memory and tables disagree.
var errDrift = errors.New("what limits are asked of differs from what the tables sum to")

// checkLoads compares the sums with those of the tables. While something changes
// it says nothing: they agree at rest.
func (e *Engine) checkLoads(ctx context.Context) error {
	l := e.loads
	l.mu.Lock()
	before, unsure := l.changes, l.unsure
	l.mu.Unlock()
	if unsure > 0 {
		return nil
	}
	var tables *lsp.Loads
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		tables, err = tableLoads(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changes != before || l.unsure > 0 {
		return nil
	}
	if diff := l.sum.Differs(tables); diff != "" {
		return fmt.Errorf("%w: %s", errDrift, diff)
	}
	return nil
}

// keepLoadsChecked compares now and then. It repairs nothing: sums that differ are
// a mistake in this program, and a start reads them anew.
func (e *Engine) keepLoadsChecked(ctx context.Context) {
	const (
		every = 10 * time.Minute
		again = time.Second
	)
	for wait, before := every, ""; ; {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		err := e.checkLoads(ctx)
		switch {
		case !errors.Is(err, errDrift):
			wait, before = every, ""
		case err.Error() != before:
			// A commit that this process is about to learn of looks the same.
			wait, before = again, err.Error()
		default:
			e.log.Error("limits are asked of sums that differ from the tables: please report this, and restart sluiced, which reads them anew", zap.Error(err))
			wait, before = every, ""
		}
	}
}

// admit counts a share from now on if the limits bear the request, and no longer
// once the transaction is known to have changed nothing.
func (e *Engine) admit(tx *store.Tx, name string, share lsp.Share, r lsp.Request, fundable lsp.Fundable) (isNew bool, err error) {
	if err := e.mayAdmit(name, &share, r, fundable); err != nil {
		return share.Newcomer, err
	}
	tx.OnRollback(func() { e.dropShare(name) })
	return share.Newcomer, nil
}

// mayAdmit holds a request against the limits; a share with a name counts from now
// on. Whether its client is a newcomer is what its other shares say, if it has any.
func (e *Engine) mayAdmit(name string, share *lsp.Share, r lsp.Request, fundable lsp.Fundable) error {
	draining, caps := !e.accepting(), e.limits().caps
	l := e.loads
	l.mu.Lock()
	defer l.mu.Unlock()
	if isNew, ok := l.sum.Newcomer(share.Client); ok {
		share.Newcomer = isNew
	}
	u := l.sum.Usage(share.Client)
	u.Newcomer, u.Fundable, u.Draining = share.Newcomer, fundable, draining
	u.Incoming, u.NewcomersIncoming = l.sum.Incoming(r.HoldSlots)
	if err := lsp.Admit(r, u, caps); err != nil {
		return err
	}
	if name != "" {
		l.changes++
		l.sum.Put(name, *share)
	}
	return nil
}

func (e *Engine) dropShare(name string) {
	l := e.loads
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes++
	l.sum.Drop(name)
	delete(l.seqs, name)
}

// knownNewcomer is newcomer, from memory if the client has anything there.
func (e *Engine) knownNewcomer(ctx context.Context, client ln.PubKey) (isNew bool, err error) {
	e.loads.mu.Lock()
	isNew, ok := e.loads.sum.Newcomer(client)
	e.loads.mu.Unlock()
	if ok {
		return isNew, nil
	}
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		isNew, err = newcomer(ctx, tx, client)
		return err
	})
	return isNew, err
}

// holdFor holds what a payment or an order is about to hold against the limits, for
// HTLCs that lnd intercepted and for sets that a hold invoice accepted alike: the
// interceptor never sees the latter (law 12), and its limits do not bound them.
// It counts until settle is called, which is when the share itself has it, or the
// transaction is known to have changed nothing.
func (e *Engine) holdFor(ctx context.Context, tx *store.Tx, id, part string, client ln.PubKey, h lsp.Holding) (refusal lsp.Reason, settle func(), err error) {
	if many := lsp.CheckCount(h.Slots.Total(), e.cfg.MaxParts); !many.IsZero() {
		return many, func() {}, nil
	}
	e.loads.mu.Lock()
	share, ok := e.loads.sum.Get(id)
	e.loads.mu.Unlock()
	if !ok {
		if share.Newcomer, err = newcomer(ctx, tx, client); err != nil {
			return lsp.Reason{}, nil, err
		}
	}
	name := holdName(id, part)
	r := lsp.Request{HoldSat: h.HeldMsat.ToSatCeil(), HoldSatBlocks: h.SatBlocks, HoldSlots: h.Slots}
	_, err = e.admit(tx, name, lsp.Share{Client: client, Newcomer: share.Newcomer, Holding: h, Only: true}, r, lsp.Fundable{})
	if err != nil {
		return overLimit(err), func() {}, nil
	}
	return lsp.Reason{}, func() { e.dropShare(name) }, nil
}

// countStaying counts an HTLC whose hash lnd is paying until it has gone. It was refused,
// as far as its payment knows, and takes a slot and its amount all the same.
func (e *Engine) countStaying(ev HtlcEvent) {
	h, name := ev.Htlc, "stays/"+ev.Htlc.Key.String()
	if ev.Kind != HtlcOffered || !ev.Paying {
		e.loads.mu.Lock()
		_, counts := e.loads.sum.Get(name)
		e.loads.mu.Unlock()
		if counts {
			e.dropShare(name)
		}
		return
	}
	share := lsp.Share{Newcomer: true, Only: true, Stays: true, Holding: lsp.Holding{
		HeldMsat: h.IncomingMsat, SatBlocks: lsp.SatBlocks(h.IncomingMsat, e.moment().Height, h.AutoFailHeight), Slots: lsp.Slots{{Chan: h.Key.ChanID, Htlcs: 1}},
	}}
	id, known, err := e.offerFor(h.OutgoingSCID)
	if err == nil && known {
		err = e.db.Read(e.ctx, func(ctx context.Context, tx *store.Tx) (err error) {
			if share.Client, err = e.clientOf(ctx, tx, id); err == nil {
				share.Newcomer, err = newcomer(ctx, tx, share.Client)
			}
			return err
		})
	}
	if err != nil && e.ctx.Err() == nil {
		e.log.Info("whose an HTLC is that cannot go back yet could not be looked up: it counts as a stranger's", zap.Stringer("htlc", h.Key), zap.Error(err))
	}
	e.loads.mu.Lock()
	defer e.loads.mu.Unlock()
	if isNew, ok := e.loads.sum.Newcomer(share.Client); ok {
		share.Newcomer = isNew
	}
	e.loads.changes++
	e.loads.sum.Put(name, share)
}

// holdName is under what a part counts until its payment has it.
func holdName(id, part string) string { return id + "/" + part }

// shareMoved follows a transition: what is held now, or that the agreement is over.
func (e *Engine) shareMoved(tx *store.Tx, machine, id string, seq int64, over bool, h lsp.Holding) {
	tx.OnUnknown(func() { e.doubtShare(machine, id) })
	tx.OnCommit(func() {
		e.changeShare(id, seq, func(s *lsp.Share) { s.Holding = h }, over)
	})
}

// changeShare changes a share that is there; seq 0 is not a transition's.
func (e *Engine) changeShare(id string, seq int64, change func(*lsp.Share), over bool) {
	l := e.loads
	l.mu.Lock()
	defer l.mu.Unlock()
	share, ok := l.sum.Get(id)
	if !ok || seq != 0 && seq < l.seqs[id] {
		return
	}
	l.changes++
	if over {
		l.sum.Drop(id)
		delete(l.seqs, id)
		return
	}
	if seq != 0 {
		l.seqs[id] = seq
	}
	change(&share)
	l.sum.Put(id, share)
}

// clientPaid takes note that a client is no newcomer any more.
func (e *Engine) clientPaid(client ln.PubKey) {
	l := e.loads
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes++
	l.sum.Known(client)
}

// doubtFor is how long a commit whose answer was lost may still be under way.
const doubtFor = 30 * time.Second

// doubtShare reads a share from its row when a commit's outcome is unknown, until
// the commit can no longer be under way. What was admitted counts meanwhile.
func (e *Engine) doubtShare(machine, id string) {
	l := e.loads
	l.mu.Lock()
	l.unsure++
	l.mu.Unlock()
	e.spawn(func() {
		defer func() {
			l.mu.Lock()
			l.unsure--
			l.mu.Unlock()
		}()
		until := e.opt.Now().Add(doubtFor)
		for wait := 100 * time.Millisecond; e.ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
			last := !e.opt.Now().Before(until)
			if err := e.readShare(machine, id, last); err != nil && e.ctx.Err() == nil {
				e.log.Warn("what a payment counts for could not be read; trying again", zap.String("id", id), zap.Error(err))
				last = false
			}
			if last {
				return
			}
			select {
			case <-time.After(wait):
			case <-e.ctx.Done():
			}
		}
	})
}

// readShare puts a share as its row has it, and with last takes one out that has
// none.
func (e *Engine) readShare(machine, id string, last bool) error {
	var (
		share   lsp.Share
		version int64
		found   bool
		open    bool
	)
	err := e.db.Read(e.ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		q := lspdb.New(tx)
		found = false
		if machine == machineOrder {
			row, err := q.GetOrder(ctx, id)
			if errors.Is(store.MapError(err), store.ErrNotFound) {
				return nil
			}
			if err == nil {
				found, open = true, row.Undecided
				share, err = shareOfOrder(row)
			}
			if err == nil {
				version, err = versionOf(ctx, tx, e.orders, id)
			}
			return err
		}
		row, err := q.GetPayment(ctx, id)
		if errors.Is(store.MapError(err), store.ErrNotFound) {
			return nil
		}
		if err == nil {
			found, open = true, !row.Terminal
			share, err = shareOf(row)
		}
		switch {
		case err != nil:
		case machine == machineWrap:
			version, err = versionOf(ctx, tx, e.wraps, id)
		default:
			version, err = versionOf(ctx, tx, e.jits, id)
		}
		return err
	})
	if err != nil {
		return err
	}
	l := e.loads
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !found && last, found && !open && version >= l.seqs[id]:
		l.changes++
		l.sum.Drop(id)
		delete(l.seqs, id)
	case found && open && version >= l.seqs[id]:
		l.changes++
		l.seqs[id] = version
		l.sum.Put(id, share)
	}
	return nil
}

func versionOf[S fsm.State, V fsm.Event, F fsm.Effect](ctx context.Context, tx *store.Tx, m *fsm.Engine[S, V, F], id string) (int64, error) {
	inst, err := m.GetTx(ctx, tx, id)
	return inst.Version, err
}
