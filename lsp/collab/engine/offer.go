package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/collab"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// Terms are what a wallet may ask for now.
type Terms struct {
	Config
	FeeRate ln.FeeRateSatPerKW
	// Refusal says why nothing is offered at the moment; nil when it is.
	Refusal error
}

// Terms are those of the moment.
func (e *Engine) Terms() Terms {
	rate := e.opt.Desk.Rate()
	t := Terms{Config: e.cfg, FeeRate: rate.Rate}
	if rate.Stale || rate.High {
		t.Refusal = errRate
	}
	return t
}

var errRate = errkind.New(errkind.Unavailable, "the gateway opens no channels at the moment, because the chain's fees are too high or not known: try again in about 10 minutes")

// Offer is what a wallet asks for.
type Offer struct {
	Client ln.PubKey
	// Nonce is the wallet's and drawn at random; the same one is the same offer.
	Nonce [32]byte
	// WalletSat is the wallet's balance in the channel, InboundSat the gateway's.
	WalletSat, InboundSat ln.Sat
	Inputs                []collab.Input
	ChangeScript          []byte
	// MaxServiceFeeSat and MaxChainFeeSat are the most that the wallet pays.
	MaxServiceFeeSat, MaxChainFeeSat ln.Sat
	ZeroConf, Taproot                bool
	// Replaces is an open of the same wallet's that is signed and lags; empty where
	// there is none.
	Replaces string
}

// Offer begins a joint funding, or finds the one of the same nonce.
func (e *Engine) Offer(ctx context.Context, o Offer) (View, error) {
	id := collab.ID(o.Client, o.Nonce)
	if view, err := e.Get(ctx, o.Client, id); !errors.Is(err, store.ErrNotFound) && !errors.Is(err, errNone) {
		return view, err
	}
	plan, err := e.plan(id, o)
	if err != nil {
		return View{}, err
	}
	err = e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		loads, err := lspdb.New(tx).CollabLoads(ctx, o.Client[:])
		if err != nil {
			return fmt.Errorf("sum the joint fundings: %w", store.MapError(err))
		}
		most := int64(e.cfg.MaxEach)
		if plan.Replaces != "" {
			if err := e.mayReplace(ctx, tx, plan); err != nil {
				return err
			}
			most += maxReplacements
		}
		switch {
		case loads.ClientCollabs >= most:
			return errkind.Newf(errkind.Exhausted, "this wallet has %d joint fundings that are not confirmed, and may have %d: wait for them, or end them", loads.ClientCollabs, most)
		case loads.Collabs >= int64(e.cfg.MaxLive), loads.UnconfirmedSat+int64(o.InboundSat) > int64(e.cfg.MaxUnconfirmedSat): //nolint:gosec // bounded by the capacity
			return errkind.New(errkind.Exhausted, "the gateway has as much in unconfirmed channels as it risks: try again after the next block")
		}
		spend, err := spendOf(ctx, tx, o.Client)
		if err != nil {
			return err
		}
		plan.SpendSat = min(spend.LeftSat(), plan.CapacitySat)
		_, err = e.opens.CreateTx(ctx, tx, id, collab.Checking{Plan: plan}, collab.Start{Moment: e.moment()})
		return err
	})
	if err != nil && !errors.Is(err, store.ErrUnique) {
		return View{}, err
	}
	return e.Get(ctx, o.Client, id)
}

// plan checks an offer, and says what can never succeed as it stands.
func (e *Engine) plan(id string, o Offer) (collab.Plan, error) {
	wrong := func(format string, args ...any) (collab.Plan, error) {
		return collab.Plan{}, errkind.Newf(errkind.Invalid, format, args...)
	}
	terms := e.Terms()
	switch {
	case o.Nonce == [32]byte{}:
		return wrong("the nonce is empty: draw 32 random bytes")
	case o.WalletSat < e.cfg.MinWalletSat || o.WalletSat > e.cfg.MaxCapacitySat:
		return wrong("the wallet's part is %s: it may be %s to %s", o.WalletSat, e.cfg.MinWalletSat, e.cfg.MaxCapacitySat)
	case o.InboundSat < e.cfg.MinInboundSat || o.InboundSat > e.cfg.MaxCapacitySat:
		return wrong("the gateway's part is %s: it may be %s to %s", o.InboundSat, e.cfg.MinInboundSat, e.cfg.MaxCapacitySat)
	case o.WalletSat+o.InboundSat > e.cfg.MaxCapacitySat:
		return wrong("the channel would have %s: the largest is %s", o.WalletSat+o.InboundSat, e.cfg.MaxCapacitySat)
	case len(o.Inputs) == 0:
		return wrong("no coins are offered")
	case len(o.Inputs) > e.cfg.MaxInputs:
		return wrong("%d coins are offered: at most %d are taken, so join them first", len(o.Inputs), e.cfg.MaxInputs)
	case o.ZeroConf && !e.cfg.ZeroConf:
		return wrong("the gateway does not open these channels before they confirm: ask without zero-conf")
	case terms.Refusal != nil:
		return collab.Plan{}, terms.Refusal
	}
	fee := e.cfg.Fee(o.InboundSat)
	if fee > o.MaxServiceFeeSat {
		return collab.Plan{}, errkind.Newf(errkind.Conflict, "the gateway asks %s for its part, more than the %s that the wallet allows: ask for the terms again", fee, o.MaxServiceFeeSat)
	}
	seen := make(map[ln.Outpoint]bool)
	for _, in := range o.Inputs {
		cost, err := funding.InputFee(in.PkScript, terms.FeeRate)
		switch {
		case seen[in.Outpoint]:
			return wrong("coin %s is offered twice", in.Outpoint)
		case err != nil:
			return wrong("coin %s pays to a script that is neither P2WPKH nor P2TR", in.Outpoint)
		case in.AmountSat <= cost || in.AmountSat > ln.MaxMsat.ToSatFloor():
			return wrong("coin %s holds %s, which costs %s to spend: leave it out", in.Outpoint, in.AmountSat, cost)
		case in.Height == 0:
			return wrong("coin %s is not confirmed", in.Outpoint)
		}
		seen[in.Outpoint] = true
	}
	if len(o.ChangeScript) > 0 {
		if _, err := funding.DustLimit(o.ChangeScript); err != nil {
			return wrong("the change must go to a P2WPKH, P2WSH or P2TR output")
		}
	}
	kind := ln.CommitmentAnchors
	if o.Taproot {
		kind = ln.CommitmentSimpleTaproot
	}
	now := e.opt.Now().UTC()
	return collab.Plan{
		ID: id, Client: o.Client, Nonce: o.Nonce, CapacitySat: o.WalletSat + o.InboundSat, WalletSat: o.WalletSat, ServiceFeeSat: fee,
		Inputs: o.Inputs, ChangeScript: o.ChangeScript, MaxWalletFeeSat: o.MaxChainFeeSat, FeeRate: terms.FeeRate,
		Type: kind, ZeroConf: o.ZeroConf, MaxLocalCSV: e.cfg.MaxLocalCSV, MinInputConfs: e.cfg.MinInputConfs,
		BuriedConfs: e.cfg.BuriedConfs, BumpAfterBlocks: e.cfg.BumpAfterBlocks,
		NegotiateBy: now.Add(e.cfg.NegotiateFor), SignFor: e.cfg.SignFor, Replaces: o.Replaces, OfferedAt: now,
	}, nil
}

// Sign takes the wallet's signatures. What is not the agreed transaction, or not
// validly signed, is refused and changes nothing.
func (e *Engine) Sign(ctx context.Context, client ln.PubKey, id string, psbt []byte) (View, error) {
	inst, err := e.own(ctx, client, id)
	if err != nil {
		return View{}, err
	}
	r, ok := inst.State.(collab.Ready)
	if !ok {
		if collab.CanAbort(inst.State) && inst.State.StateName() != (collab.Countersigning{}).StateName() {
			return View{}, errkind.Newf(errkind.Conflict, "the channel is %s: sign it once it is ready", inst.State.StateName())
		}
		return e.Get(ctx, client, id) // signed before, or over: the view says which
	}
	var theirs []ln.Outpoint
	for _, in := range r.Inputs {
		theirs = append(theirs, in.Outpoint)
	}
	half, err := funding.TakeSignatures(r.Psbt, psbt, theirs)
	if err != nil {
		return View{}, err
	}
	return e.send(ctx, client, id, collab.WalletSigned{Moment: e.moment(), Half: half})
}

// Abort ends a joint funding of which no signature has left.
func (e *Engine) Abort(ctx context.Context, client ln.PubKey, id string) (View, error) {
	inst, err := e.own(ctx, client, id)
	if err != nil {
		return View{}, err
	}
	if collab.Final(inst.State) {
		return e.Get(ctx, client, id)
	}
	return e.send(ctx, client, id, collab.Abort{Moment: e.moment()})
}

// End is the operator's Abort.
func (e *Engine) End(ctx context.Context, id string) (View, error) {
	return e.send(ctx, ln.PubKey{}, id, collab.Abort{Moment: e.moment(), ByOperator: true})
}

func (e *Engine) send(ctx context.Context, client ln.PubKey, id string, event collab.Event) (View, error) {
	_, err := e.opens.Send(ctx, id, event)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return View{}, errNone
	case errors.Is(err, fsm.ErrIllegal):
		// Something else came first: the view says what.
	case err != nil:
		return View{}, err
	}
	return e.Get(ctx, client, id)
}

// View is one joint funding as people see it.
type View struct {
	ID      string
	Client  ln.PubKey
	State   string
	Reason  string
	Over    bool
	Created time.Time
	Updated time.Time
	// Plan is what was agreed.
	Plan collab.Plan
	// Ours and Tx are zero until they are known.
	Ours collab.Ours
	Tx   funding.JointTx
	// SignBy is set while the wallet is to sign.
	SignBy          time.Time
	ConfirmedHeight uint32
}

// errNone answers ids that do not exist, or not for this client.
var errNone = errkind.New(errkind.NotFound, "there is no such joint funding: check the id")

func (e *Engine) own(ctx context.Context, client ln.PubKey, id string) (fsm.Instance[collab.State], error) {
	inst, err := e.opens.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) || (err == nil && !client.IsZero() && collab.PlanOf(inst.State).Client != client) {
		return inst, errNone
	}
	return inst, err
}

// Get reads one. A client that is not zero sees only its own.
func (e *Engine) Get(ctx context.Context, client ln.PubKey, id string) (View, error) {
	inst, err := e.own(ctx, client, id)
	if err != nil {
		return View{}, err
	}
	return viewOf(inst), nil
}

func viewOf(inst fsm.Instance[collab.State]) View {
	s := inst.State
	v := View{
		ID: inst.ID, Client: collab.PlanOf(s).Client, State: s.StateName(), Reason: collab.ReasonOf(s).String(), Over: collab.Final(s),
		Created: inst.Created, Updated: inst.Updated, Plan: collab.PlanOf(s), ConfirmedHeight: collab.ConfirmedHeight(s),
	}
	v.Ours, _ = collab.OursOf(s)
	v.Tx, _ = collab.TxOf(s)
	if f, failed := s.(collab.Failed); failed {
		v.Tx.Funding = f.Channel
	}
	if r, ready := s.(collab.Ready); ready {
		v.SignBy = r.SignBy
	}
	return v
}

// Watch gives a joint funding whenever it has changed, the present first, until it
// is over or ctx ends.
func (e *Engine) Watch(ctx context.Context, client ln.PubKey, id string) (<-chan View, error) {
	if _, err := e.own(ctx, client, id); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	changes, err := e.opens.Watch(ctx, id)
	if err != nil {
		cancel()
		return nil, err
	}
	out := make(chan View)
	go func() {
		defer cancel()
		defer close(out)
		for range changes {
			now, err := e.Get(ctx, client, id)
			if err != nil {
				return
			}
			select {
			case out <- now:
			case <-ctx.Done():
				return
			}
			if now.Over {
				return
			}
		}
	}()
	return out, nil
}

// Filter selects joint fundings.
type Filter struct {
	Client   ln.PubKey
	OpenOnly bool
	BeforeID string
	Limit    int
}

// mostListed bounds a page; maxID sorts after every id.
const (
	mostListed = 500
	maxID      = "~"
)

// List reads a page, by id downwards.
func (e *Engine) List(ctx context.Context, f Filter) ([]View, error) {
	if f.BeforeID == "" {
		f.BeforeID = maxID
	}
	if f.Limit <= 0 || f.Limit > mostListed {
		f.Limit = mostListed
	}
	bit := func(b bool) int64 {
		if b {
			return 1
		}
		return 0
	}
	var out []View
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		rows, err := lspdb.New(tx).FindCollabs(ctx, lspdb.FindCollabsParams{
			BeforeID: f.BeforeID, OneClient: bit(!f.Client.IsZero()), Client: f.Client[:], OpenOnly: bit(f.OpenOnly), Most: int32(f.Limit), //nolint:gosec // bounded
		})
		if err != nil {
			return fmt.Errorf("list joint fundings: %w", store.MapError(err))
		}
		for _, row := range rows {
			inst, err := e.opens.GetTx(ctx, tx, row.ID)
			if err != nil {
				return err
			}
			out = append(out, viewOf(inst))
		}
		return nil
	})
	return out, err
}

// Show is one with its story, for the operator.
func (e *Engine) Show(ctx context.Context, id string) (View, []fsm.Record, error) {
	view, err := e.Get(ctx, ln.PubKey{}, id)
	if err != nil {
		return View{}, nil, err
	}
	story, err := e.opens.History(ctx, id)
	return view, story, err
}
