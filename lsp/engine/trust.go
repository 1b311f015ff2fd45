package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// settingTrust is the setting's name: what the operator set for single clients.
const settingTrust = "trust"

// claimedWithin is how long after an open began its payment counts as on its way.
const claimedWithin = 5 * time.Minute

// maxTrustSet bounds what an operator can set for single clients.
const maxTrustSet = 10_000

// Trust is how the gateway asks for trust now.
type Trust struct {
	Policy lsp.TrustPolicy
	// Opens are the unclaimed ones that count, Attacked that they are too many.
	Opens    lsp.Unclaimed
	Attacked bool
}

// trustPolicy is the configured one, with what was set at run time.
func (e *Engine) trustPolicy() lsp.TrustPolicy {
	p, l := e.cfg.Trust, e.limits()
	p.UnclaimedEach, p.Unclaimed = l.trustEach, l.trustAll
	return p
}

// TrustNow is for people.
func (e *Engine) TrustNow(ctx context.Context, client ln.PubKey) (Trust, error) {
	t := Trust{Policy: e.trustPolicy()}
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		t.Opens, err = e.unclaimed(ctx, tx, client)
		return err
	})
	t.Attacked = t.Policy.Attacked(t.Opens)
	return t, err
}

func (e *Engine) unclaimed(ctx context.Context, tx *store.Tx, client ln.PubKey) (lsp.Unclaimed, error) {
	now := e.opt.Now()
	row, err := lspdb.New(tx).UnclaimedOpens(ctx, lspdb.UnclaimedOpensParams{
		Client: client[:], SinceMs: now.Add(-e.cfg.Trust.Window).UnixMilli(), BeforeMs: now.Add(-claimedWithin).UnixMilli(),
	})
	if err != nil {
		return lsp.Unclaimed{}, fmt.Errorf("count opens that nobody claimed: %w", err)
	}
	return lsp.Unclaimed{Client: int(row.ClientOpens), All: int(row.Opens)}, nil
}

// WantsTrust says whether the funding of a channel for this client is withheld.
func (e *Engine) WantsTrust(ctx context.Context, client ln.PubKey) (wants bool, err error) {
	own, policy := e.TrustOf(client), e.trustPolicy()
	if own == lsp.TrustNever || own == "" && policy.Mode == lsp.TrustNever {
		return false, nil
	}
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		var u lsp.Unclaimed
		newcomer, err := newcomer(ctx, tx, client)
		if err == nil {
			u, err = e.unclaimed(ctx, tx, client)
		}
		wants = policy.Wants(own, newcomer, u)
		return err
	})
	return wants, err
}

// agreeOnTrust is WantsTrust for a wallet that says how far it trusts.
func (e *Engine) agreeOnTrust(ctx context.Context, client ln.PubKey, amount ln.Msat, w Wish) (bool, error) {
	wants, err := e.WantsTrust(ctx, client)
	switch {
	case err != nil || !wants:
		return false, err
	case !w.ZeroConf:
		return false, errkind.New(errkind.Unavailable, "at the moment this gateway funds channels on demand only once their payment is claimed, which takes zero-conf: allow it, order a channel instead, or try again later")
	case amount > w.TrustMsat:
		return false, errkind.Newf(errkind.Unavailable, "at the moment this gateway funds channels on demand only once their payment is claimed, so that it must be trusted with %s: allow that (sluice-wallet: trust.max_sat), order a channel instead, or try again later", amount)
	}
	return true, nil
}

// TrustOf is what the operator set for a client; empty is nothing.
func (e *Engine) TrustOf(client ln.PubKey) lsp.TrustMode {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.trusts[client.String()]
}

// SetTrust sets for one client when the funding of its channels is withheld; empty
// takes back what was set. What was agreed before stands.
func (e *Engine) SetTrust(ctx context.Context, client ln.PubKey, mode lsp.TrustMode) error {
	if mode != "" && !mode.Known() {
		return errkind.Newf(errkind.Invalid, "%q is none of never, under_attack and always", ln.Clip(string(mode), 40))
	}
	var set map[string]lsp.TrustMode
	err := e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) (err error) {
		if set, err = readTrust(ctx, tx); err != nil {
			return err
		}
		if mode == "" {
			delete(set, client.String())
		} else {
			set[client.String()] = mode
		}
		if len(set) > maxTrustSet {
			return errkind.Newf(errkind.Exhausted, "for %d clients it is set already: take some back", maxTrustSet)
		}
		value, err := json.Marshal(set)
		if err != nil {
			return err
		}
		return lspdb.New(tx).PutSetting(ctx, lspdb.PutSettingParams{Name: settingTrust, Value: value, UpdatedMs: e.opt.Now().UnixMilli()})
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.trusts = set
	e.mu.Unlock()
	e.log.Info("the operator set when the funding of a client's channels is withheld", zap.Stringer("client", client), zap.String("mode", string(mode)))
	return nil
}

func readTrust(ctx context.Context, tx *store.Tx) (map[string]lsp.TrustMode, error) {
	set := map[string]lsp.TrustMode{}
	value, err := lspdb.New(tx).GetSetting(ctx, settingTrust)
	if errors.Is(store.MapError(err), store.ErrNotFound) {
		return set, nil
	}
	if err == nil {
		err = json.Unmarshal(value, &set)
	}
	if err != nil {
		return nil, fmt.Errorf("read of whom trust is wanted: %w", err)
	}
	return set, nil
}

func (e *Engine) loadTrust(ctx context.Context) error {
	var set map[string]lsp.TrustMode
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		set, err = readTrust(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.trusts = set
	return nil
}

// errNothingToPromise answers a wallet that asks too early or too late.
var errNothingToPromise = errkind.New(errkind.Conflict, "no channel waits for this payment's preimage: it was not opened yet, or given up; ask again when the payment has arrived")

// PromisedFunding is a promise with the signature of the gateway's node.
type PromisedFunding struct {
	lsp.FundingPromise
	Signature string
}

// PromiseFunding signs that the channel of a payment is funded once the preimage is
// known. Nothing is promised of a channel that its payment wants no more.
func (e *Engine) PromiseFunding(ctx context.Context, client ln.PubKey, paymentID string) (PromisedFunding, error) {
	p, err := e.Payment(ctx, client, paymentID)
	if err != nil {
		return PromisedFunding{}, err
	}
	hash := p.Hash
	if !p.ReceiverPays {
		inst, err := e.jits.Get(ctx, paymentID)
		if err != nil {
			return PromisedFunding{}, err
		}
		offer := jit.OfferOf(inst.State)
		if offer.Withhold != nil && !offer.Withhold.Bound {
			return PromisedFunding{}, errNothingToPromise
		}
		hash = offer.Hash
	}
	op, err := ln.ParseOutpoint(p.Outpoint)
	if err != nil {
		return PromisedFunding{}, errNothingToPromise
	}
	e.mu.Lock()
	id, live := e.byOutpoint[op]
	e.mu.Unlock()
	if !live {
		return PromisedFunding{}, errNothingToPromise
	}
	inst, err := e.openings.Get(ctx, id)
	if err != nil {
		return PromisedFunding{}, err
	}
	switch s := inst.State.(type) {
	case opening.Withheld:
		if !s.Withdrawn.IsZero() {
			return PromisedFunding{}, errNothingToPromise
		}
	case opening.Released, opening.Signed, opening.Published, opening.Usable, opening.Confirmed, opening.Buried:
	default:
		return PromisedFunding{}, errNothingToPromise
	}
	promise := lsp.FundingPromise{Gateway: e.cfg.Self, Wallet: client, Hash: hash, Outpoint: op, CapacitySat: opening.PlanOf(inst.State).CapacitySat}
	signature, err := e.node.Orders.SignMessage(ctx, []byte(promise.Text()))
	if err != nil {
		return PromisedFunding{}, errkind.Wrap(errkind.Unavailable, err, "the gateway's node does not answer: ask again")
	}
	return PromisedFunding{FundingPromise: promise, Signature: signature}, nil
}
