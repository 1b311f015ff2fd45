package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/batch"
	"github.com/sluice-lsp/sluice/lsp/books"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// Payment is one agreement as people see it.
type Payment struct {
	ID           string
	Client       ln.PubKey
	ReceiverPays bool
	Hash         ln.Hash
	AmountMsat   ln.Msat
	FeeMsat      ln.Msat
	HeldMsat     ln.Msat
	State        string
	Reason       string
	Terminal     bool
	Created      time.Time
	Updated      time.Time
	Expires      time.Time
	SCID         ln.SCID
	Outpoint     string
	// GivenUp are channels that were negotiated for it and never funded.
	GivenUp    []string
	BlocksLeft int32
}

// StoryEvent is one entry of a payment's history.
type StoryEvent struct {
	At       time.Time
	Machine  string
	Event    string
	From, To string
	Reason   string
	// Detail is what lnd, a peer or the gateway's wallet said, for the operator
	// alone: it may name addresses and figures.
	Detail string
}

// errNoPayment answers ids that do not exist, or not for this client.
var errNoPayment = errkind.New(errkind.NotFound, "there is no such payment: check the id (finished ones are deleted after a while, lsp.keep_history)")

// Payment reads one payment. A client that is not zero sees only its own.
func (e *Engine) Payment(ctx context.Context, client ln.PubKey, id string) (Payment, error) {
	var p Payment
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		row, err := lspdb.New(tx).GetPayment(ctx, id)
		if err != nil {
			return err
		}
		p, err = e.paymentFromRow(ctx, tx, row)
		return err
	})
	if errors.Is(err, store.ErrNotFound) || (err == nil && !client.IsZero() && p.Client != client) {
		return Payment{}, errNoPayment
	}
	return p, err
}

// PaymentByHash is the newest payment with the hash.
func (e *Engine) PaymentByHash(ctx context.Context, hash ln.Hash) (Payment, error) {
	var p Payment
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		rows, err := lspdb.New(tx).PaymentsByHash(ctx, hash[:])
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return errNoPayment
		}
		p, err = e.paymentFromRow(ctx, tx, rows[0])
		return err
	})
	return p, err
}

// PaymentFilter selects payments.
type PaymentFilter struct {
	Client   ln.PubKey
	Hash     *ln.Hash
	State    string
	OpenOnly bool
	BeforeID string
	Limit    int
}

// checkState tells a state that does not exist from one that no payment is in.
func checkState(name string) error {
	if name == "" {
		return nil
	}
	known := map[string]bool{}
	for _, s := range jit.Machine().States {
		known[s.StateName()] = true
	}
	for _, s := range wrap.Machine().States {
		known[s.StateName()] = true
	}
	if known[name] {
		return nil
	}
	return errkind.Newf(errkind.Invalid, "there is no state %q: choose from %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
}

// maxID sorts after every id.
const maxID = "~"

// Payments lists payments, newest first.
func (e *Engine) Payments(ctx context.Context, f PaymentFilter) ([]Payment, error) {
	if f.BeforeID == "" {
		f.BeforeID = maxID
	}
	if err := checkState(f.State); err != nil {
		return nil, err
	}
	var out []Payment
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		q := lspdb.New(tx)
		var rows []lspdb.LspPayment
		var err error
		if f.Hash != nil {
			rows, err = q.PaymentsByHash(ctx, f.Hash[:])
		} else {
			rows, err = q.FindPayments(ctx, lspdb.FindPaymentsParams{
				BeforeID: f.BeforeID, OneClient: flag(!f.Client.IsZero()), Client: f.Client[:], OpenOnly: flag(f.OpenOnly),
				InState: f.State, Most: int32(limit(f.Limit)), //nolint:gosec // bounded by limit
			})
		}
		if err != nil {
			return err
		}
		for _, row := range rows {
			if !f.Client.IsZero() && !bytes.Equal(row.Client, f.Client[:]) {
				continue
			}
			p, err := e.paymentFromRow(ctx, tx, row)
			if err != nil {
				return err
			}
			out = append(out, p)
		}
		return nil
	})
	return out, err
}

func (e *Engine) paymentFromRow(ctx context.Context, tx *store.Tx, row lspdb.LspPayment) (Payment, error) {
	client, err := ln.PubKeyFromBytes(row.Client)
	if err != nil {
		return Payment{}, fmt.Errorf("payment %s: %w", row.ID, err)
	}
	hash, err := ln.HashFromBytes(row.PaymentHash)
	if err != nil {
		return Payment{}, fmt.Errorf("payment %s: %w", row.ID, err)
	}
	p := Payment{
		ID: row.ID, Client: client, ReceiverPays: row.Machine == machineWrap, Hash: hash,
		AmountMsat: ln.Msat(row.AmountMsat), FeeMsat: ln.Msat(row.FeeMsat), HeldMsat: ln.Msat(row.HeldMsat), //nolint:gosec // never negative
		State: row.State, Reason: row.Reason, Terminal: row.Terminal,
		Created: time.UnixMilli(row.CreatedMs), Updated: time.UnixMilli(row.UpdatedMs), Expires: time.UnixMilli(row.ExpiresMs),
	}
	if len(row.JitScid) > 0 {
		if p.SCID, err = ln.SCIDFromBytes(row.JitScid); err != nil {
			return Payment{}, fmt.Errorf("payment %s: %w", row.ID, err)
		}
	}
	opens, err := lspdb.New(tx).OpeningsOfPayment(ctx, row.ID)
	if err != nil {
		return Payment{}, err
	}
	for _, o := range opens {
		switch {
		case o.Outpoint == "":
		case o.State == (opening.Failed{}).StateName(), o.State == (opening.Rejected{}).StateName():
			p.GivenUp = append(p.GivenUp, o.Outpoint)
		default:
			p.Outpoint = o.Outpoint
		}
	}
	if row.Terminal || row.HeldMsat == 0 {
		return p, nil
	}
	p.BlocksLeft, err = e.blocksLeft(ctx, tx, row.Machine, row.ID)
	return p, err
}

// blocksLeft is how many blocks are left until held money must go back.
func (e *Engine) blocksLeft(ctx context.Context, tx *store.Tx, machine, id string) (int32, error) {
	var deadline uint32
	switch machine {
	case machineJit:
		inst, err := e.jits.GetTx(ctx, tx, id)
		if err != nil {
			return 0, err
		}
		deadline = jit.BackAt(inst.State)
	case machineWrap:
		inst, err := e.wraps.GetTx(ctx, tx, id)
		if err != nil {
			return 0, err
		}
		deadline = wrap.BackAt(inst.State)
	}
	return int32(deadline) - int32(e.world.tip()), nil //nolint:gosec // heights
}

// Story is what happened to a payment and to its opens, oldest first.
func (e *Engine) Story(ctx context.Context, id string) ([]StoryEvent, error) {
	var rows []lspdb.LspOpening
	var machine string
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := lspdb.New(tx)
		row, err := q.GetPayment(ctx, id)
		if err != nil {
			return err
		}
		machine = row.Machine
		rows, err = q.OpeningsOfPayment(ctx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	history := e.jits.History
	if machine == machineWrap {
		history = e.wraps.History
	}
	records, err := history(ctx, id)
	if err != nil {
		return nil, err
	}
	out := storyOf("payment", records)
	for _, o := range rows {
		records, err := e.openings.History(ctx, o.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, storyOf(o.ID, records)...)
	}
	slices.SortStableFunc(out, func(a, b StoryEvent) int { return a.At.Compare(b.At) })
	return out, nil
}

func storyOf(machine string, records []fsm.Record) []StoryEvent {
	out := make([]StoryEvent, 0, len(records))
	for _, r := range records {
		out = append(out, StoryEvent{
			At: r.At, Machine: machine, Event: r.Event, From: r.From, To: r.To,
		})
		out[len(out)-1].Reason, out[len(out)-1].Detail = reasonIn(r.Data)
	}
	return out
}

// reasonIn finds the sentence and the words of others that an event carries,
// whatever its type.
func reasonIn(data json.RawMessage) (reason, detail string) {
	var fields struct {
		Text    string          `json:"text"`
		Reason  json.RawMessage `json:"reason"`
		Refusal json.RawMessage `json:"refusal"`
	}
	if json.Unmarshal(data, &fields) != nil {
		return "", ""
	}
	for _, raw := range []json.RawMessage{fields.Reason, fields.Refusal} {
		var why lsp.Reason
		if json.Unmarshal(raw, &why) == nil && !why.IsZero() {
			return why.String(), fields.Text
		}
	}
	return "", fields.Text
}

// Cancel withdraws a payment where that is safe. A client that is not zero may
// cancel only its own.
func (e *Engine) Cancel(ctx context.Context, client ln.PubKey, id, why string) (Payment, error) {
	p, err := e.Payment(ctx, client, id)
	if err != nil {
		return Payment{}, err
	}
	reason := lsp.Because(lsp.ReasonCancelled, "%s", why)
	if p.ReceiverPays {
		_, err = e.wraps.Send(ctx, id, wrap.Cancel{Moment: e.moment(), Reason: reason})
	} else {
		_, err = e.jits.Send(ctx, id, jit.Cancel{Moment: e.moment(), Reason: reason})
	}
	if errors.Is(err, fsm.ErrIllegal) {
		return Payment{}, errkind.Wrap(errkind.Conflict, err, "the payment is over or on its way: it can no longer be cancelled")
	}
	if err != nil {
		return Payment{}, err
	}
	return e.Payment(ctx, client, id)
}

// Watch sends the payment now and at each change, and closes the channel after
// a terminal state or when ctx ends.
func (e *Engine) Watch(ctx context.Context, client ln.PubKey, id string) (<-chan Payment, error) {
	p, err := e.Payment(ctx, client, id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	changes := make(chan bool)
	if p.ReceiverPays {
		err = forwardChanges(ctx, e.wraps, id, wrap.Final, changes)
	} else {
		err = forwardChanges(ctx, e.jits, id, jit.Final, changes)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	out := make(chan Payment)
	go func() {
		defer cancel()
		defer close(out)
		for final := range changes {
			now, err := e.Payment(ctx, client, id)
			if err != nil {
				return
			}
			select {
			case out <- now:
			case <-ctx.Done():
				return
			}
			if final || now.Terminal {
				return
			}
		}
	}()
	return out, nil
}

// forwardChanges signals every change of an instance, saying whether it is
// final, and closes the channel when no more can come.
func forwardChanges[S fsm.State, V fsm.Event, F fsm.Effect](
	ctx context.Context, m *fsm.Engine[S, V, F], id string, final func(S) bool, changes chan<- bool,
) error {
	states, err := m.Watch(ctx, id)
	if err != nil {
		return err
	}
	go func() {
		defer close(changes)
		for t := range states {
			select {
			case changes <- final(t.To):
			case <-ctx.Done():
				return
			}
		}
	}()
	return nil
}

// Status is the operator's overview.
type Status struct {
	Accepting     bool
	StoppedReason string
	// RestoredWhy is how the database was recognised as an older copy, while anything
	// distrusts it.
	RestoredWhy string
	Usage       lsp.Usage
	Caps        lsp.Caps
	Payments    map[string]int64
	Openings    map[string]int64
	FeesEarned  ln.Msat
	ChainFees   ln.Msat
	ReserveSat  ln.Sat
	Fees        FeeStatus
	Height      uint32
	Drained     bool
	// Pruned counts stories of old payments that were deleted since start.
	Pruned uint64
	// LeasesEnding are the ordered channels whose lease is nearly over, or over while
	// they are being closed.
	LeasesEnding int64
	// Queued are the orders that wait for others to share their funding transaction,
	// Batches those transactions by state, and BatchedChannels what they funded in all.
	Queued          int
	Batches         map[string]int64
	BatchedChannels int64
	// Busiest is the incoming channel of which most HTLCs wait here.
	Busiest lsp.Slot
}

// Status sums up how business stands.
func (e *Engine) Status(ctx context.Context) (Status, error) {
	usage, err := e.usage(ctx, ln.PubKey{})
	if err != nil {
		return Status{}, err
	}
	e.mu.Lock()
	b, pruned := e.business, e.pruned
	queued := len(e.queued)
	busy := len(e.waitingJit) + len(e.waitingWrap) + len(e.waitingOrder) + len(e.queued) + len(e.liveBatches)
	for range e.negotiations {
		busy++
	}
	e.mu.Unlock()
	s := Status{
		Accepting: !b.Stopped, StoppedReason: b.Reason, RestoredWhy: e.opt.RestoredWhy, Usage: usage, Caps: e.limits().caps, Fees: e.feeStatus(),
		Height: e.world.tip(), Pruned: pruned, Queued: queued, Payments: map[string]int64{}, Openings: map[string]int64{}, Batches: map[string]int64{},
	}
	e.loads.mu.Lock()
	s.Busiest = e.loads.sum.Busiest()
	e.loads.mu.Unlock()
	if s.Usage.Fundable, err = e.fundable(ctx); err != nil {
		return Status{}, err
	}
	channels, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return Status{}, err
	}
	s.ReserveSat = e.anchorReserve(len(channels))
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := lspdb.New(tx)
		payments, err := q.PaymentStates(ctx)
		if err != nil {
			return err
		}
		for _, p := range payments {
			s.Payments[p.Machine+"/"+p.State] = p.Payments
		}
		orders, err := q.OrderStates(ctx)
		if err != nil {
			return err
		}
		for _, o := range orders {
			s.Payments[machineOrder+"/"+o.State] = o.Orders
		}
		if s.LeasesEnding, err = q.LeasesEnding(ctx, e.leasesEndBy()); err != nil {
			return err
		}
		batches, err := q.BatchStates(ctx)
		if err != nil {
			return err
		}
		for _, b := range batches {
			s.Batches[b.State] = b.Batches
			if b.State == (batch.Signed{}).StateName() {
				s.BatchedChannels = b.Channels
			}
		}
		openings, err := q.OpeningStates(ctx)
		if err != nil {
			return err
		}
		for _, o := range openings {
			s.Openings[o.State] = o.Openings
			if o.State == "planned" || o.State == "joined" || o.State == "leased" || o.State == "built" || o.State == "unknown" || o.State == "pending" || o.State == "signed" {
				busy += int(o.Openings)
			}
		}
		earned, err := ledger.Balance(ctx, tx, books.OpeningFee)
		if err != nil {
			return err
		}
		paid, err := ledger.Balance(ctx, tx, books.ChainFee)
		if err != nil {
			return err
		}
		s.FeesEarned, s.ChainFees = ln.Msat(max(0, -earned)), ln.Msat(max(0, paid)) //nolint:gosec // not negative here
		return nil
	})
	s.Drained = b.Stopped && busy == 0
	return s, err
}

// Config is how the gateway does business.
func (e *Engine) Config() Config { return e.cfg }

// Accepting reports whether new business is accepted.
func (e *Engine) Accepting() bool { return e.accepting() }

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func limit(n int) int {
	if n <= 0 {
		return 50
	}
	return min(n, 500)
}
