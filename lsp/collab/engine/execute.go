package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/cpfp"
	"github.com/sluice-lsp/sluice/internal/forget"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/collab"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// leaseFor is how long a coin stays ours without being renewed; leases are
// renewed with every block.
const leaseFor = 24 * time.Hour

// minChangeSat is what our change must be worth to hurry a transaction.
const minChangeSat = 5_000

func (e *Engine) execute(ctx context.Context, t fsm.Task[collab.Effect]) ([]collab.Event, error) {
	switch f := t.Effect.(type) {
	case collab.CheckInputs:
		return e.checkInputs(ctx, f)
	case collab.LeaseCoins:
		return e.leaseCoins(ctx, f)
	case collab.Negotiate:
		return e.negotiate(ctx, f)
	case collab.Verify:
		return e.verify(ctx, f)
	case collab.Sign:
		return e.sign(ctx, f)
	case collab.Publish:
		return e.publish(ctx, f)
	case collab.WatchInputs:
		e.watchInputs(f, false)
		return nil, nil
	case collab.AbandonChannel:
		return nil, e.abandon(ctx, f)
	case collab.ForgetTx:
		return nil, forget.Txs(ctx, e.node.Channels, e.log.With(zap.String("joint", f.ID)), f.TxID)
	case collab.ReleaseCoins:
		return nil, e.releaseCoins(ctx, f.LeaseID)
	case collab.BumpFee:
		return nil, e.bump(ctx, f)
	default:
		return nil, fmt.Errorf("the machine of joint fundings asks for %q, which this version does not know", t.Effect.EffectName())
	}
}

// coinbaseMaturity is for how many blocks a miner's coin cannot be spent, counted with
// its own: the same in every network.
const coinbaseMaturity = 100

// checkInputs reads every coin in the block that the wallet says it is in. What
// is unspent cannot be asked of lnd: spends are watched from here on, and a coin
// that was spent before makes a transaction that never confirms, which its spend
// then ends.
func (e *Engine) checkInputs(ctx context.Context, f collab.CheckInputs) ([]collab.Event, error) {
	refused := func(format string, args ...any) ([]collab.Event, error) {
		return []collab.Event{collab.InputsRefused{Moment: e.moment(), Text: fmt.Sprintf(format, args...)}}, nil
	}
	tip := e.moment().Height
	for _, in := range f.Inputs {
		if confs := ln.Confirmations(in.Height, tip); in.Height > tip || confs < f.MinInputConfs {
			return refused("coin %s has %d confirmations at height %d, and %d are needed: try again after the next block", in.Outpoint, confs, tip, f.MinInputConfs)
		}
		raw, err := e.node.Chain.TxInBlock(ctx, in.Height, in.Outpoint.TxID)
		switch {
		case errors.Is(err, ln.ErrNotFound):
			return refused("block %d has no transaction %s: name the block that each coin is in", in.Height, in.Outpoint.TxID)
		case errors.Is(err, ln.ErrUnavailable):
			return nil, err
		case err != nil:
			e.log.Warn("a block with a wallet's coin cannot be read", zap.Uint32("height", in.Height), zap.Error(err))
			return refused("the gateway cannot read block %d, in which coin %s is: offer younger coins", in.Height, in.Outpoint)
		}
		var tx wire.MsgTx
		if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
			return nil, fmt.Errorf("transaction %s of block %d: %w", in.Outpoint.TxID, in.Height, err)
		}
		if confs := ln.Confirmations(in.Height, tip); blockchain.IsCoinBaseTx(&tx) && confs < coinbaseMaturity {
			return refused("coin %s is a miner's, with %d confirmations, and can be spent with %d: offer others", in.Outpoint, confs, coinbaseMaturity)
		}
		if int(in.Outpoint.Index) >= len(tx.TxOut) {
			return refused("transaction %s has no output %d", in.Outpoint.TxID, in.Outpoint.Index)
		}
		out := tx.TxOut[in.Outpoint.Index]
		if amount, err := in.AmountSat.Int64(); err != nil || out.Value != amount || !bytes.Equal(out.PkScript, in.PkScript) {
			return refused("coin %s holds %d sat for another script than the wallet says, or another amount", in.Outpoint, out.Value)
		}
	}
	return []collab.Event{collab.InputsChecked{Moment: e.moment()}}, nil
}

// leaseCoins chooses and leases ours. Two opens may choose the same coin at the
// same time: lnd's lease decides, and the loser chooses again.
func (e *Engine) leaseCoins(ctx context.Context, f collab.LeaseCoins) ([]collab.Event, error) {
	inst, err := e.opens.Get(ctx, f.Plan.ID)
	if err != nil {
		return nil, err
	}
	if _, wanted := inst.State.(collab.Choosing); !wanted {
		// Its result is stored: what is leased now is what the open spends.
		return nil, nil
	}
	address, err := e.node.Coins.NewChangeAddress(ctx)
	if err != nil {
		return nil, err
	}
	change, err := funding.ScriptOf(address, e.cfg.Network)
	if err != nil {
		return nil, err
	}
	refused := func(short bool, err error) ([]collab.Event, error) {
		e.log.Info("a joint funding's coins are not to be had", zap.String("joint", f.Plan.ID), zap.Error(err))
		return []collab.Event{collab.CoinsRefused{Moment: e.moment(), Short: short, Text: err.Error()}}, nil
	}
	for {
		if err := e.releaseCoins(ctx, f.Plan.LeaseID()); err != nil {
			return nil, err
		}
		// Confirmed coins only: a wallet shall not wait for our chain of change.
		coins, err := e.node.Coins.ListCoins(ctx, 1)
		if err != nil {
			return nil, err
		}
		chosen, err := funding.Select(e.opt.Desk.Spendable(coins), funding.Request{
			FundingSat: f.Plan.GatewayOutlaySat(), FeeRate: f.Plan.FeeRate, ChangeScript: change, MinChangeSat: minChangeSat, ReserveSat: e.opt.Desk.ReserveSat(),
			BuriedConfs: e.cfg.BuriedConfs,
		})
		if err != nil {
			var short *funding.CoinsShortError
			return refused(errors.As(err, &short), err)
		}
		ours := collab.Ours{Gateway: funding.Party{
			Inputs: chosen.Inputs, OutlaySat: f.Plan.GatewayOutlaySat(), ChangeScript: change, MinChangeSat: minChangeSat,
		}}
		if ours.Joint, err = funding.Divide(f.Plan.CapacitySat, f.Plan.FeeRate, ours.Gateway, collab.WalletParty(f.Plan)); err != nil {
			return refused(false, err)
		}
		if enough, err := e.outbids(ctx, f.Plan, ours); err != nil {
			return nil, err
		} else if !enough {
			return refused(false, errors.New("the transaction would pay less than the one that it shall replace: try again when fees have risen further"))
		}
		err = leases.All(ctx, e.node.Coins, f.Plan.LeaseID(), chosen.Inputs, leaseFor)
		if err == nil {
			return []collab.Event{collab.CoinsLeased{Moment: e.moment(), Ours: ours}}, nil
		}
		if !errors.Is(err, ln.ErrLeased) {
			return nil, err
		}
		e.log.Debug("another open took a coin first; choosing again", zap.String("joint", f.Plan.ID))
	}
}

func (e *Engine) releaseCoins(ctx context.Context, id [32]byte) error {
	_, err := leases.Release(ctx, e.node.Coins, id)
	return err
}

// renewLeases keeps our coins until the transaction is in a block.
func (e *Engine) renewLeases(ctx context.Context, id string) error {
	inst, err := e.opens.Get(ctx, id)
	if err != nil {
		return err
	}
	ours, leased := collab.OursOf(inst.State)
	if !leased || collab.Final(inst.State) || collab.ConfirmedHeight(inst.State) > 0 {
		return nil
	}
	lease := collab.PlanOf(inst.State).LeaseID()
	_, signed := collab.SignedOf(inst.State)
	err = leases.Renew(ctx, e.node.Coins, lease, ours.Gateway.Inputs, leaseFor, signed)
	// The open may have ended, and let go of its coins, while they were leased
	// anew. If it ends from here on, that comes after.
	if inst, getErr := e.opens.Get(ctx, id); getErr == nil && collab.Final(inst.State) {
		err = errors.Join(err, e.releaseCoins(ctx, lease))
	}
	return err
}

// negotiate asks the wallet's node for the channel and builds the transaction on
// lnd's output. Nothing is verified: lnd may still be told to forget it.
func (e *Engine) negotiate(ctx context.Context, f collab.Negotiate) ([]collab.Event, error) {
	id := f.Plan.PendingID()
	ended := func(rejected bool, err error) ([]collab.Event, error) {
		e.dropNegotiation(id)
		if cancelErr := e.node.Opener.CancelShim(ctx, id); cancelErr != nil {
			e.log.Debug("a negotiation could not be cancelled", zap.Error(cancelErr))
		}
		return []collab.Event{collab.NegotiationEnded{Moment: e.moment(), Rejected: rejected, Text: err.Error()}}, nil
	}
	inst, err := e.opens.Get(ctx, f.Plan.ID)
	if err != nil {
		return nil, err
	}
	if _, wanted := inst.State.(collab.Negotiating); !wanted {
		return nil, nil
	}
	if err := e.node.Opener.CancelShim(ctx, id); err != nil && errors.Is(err, ln.ErrUnavailable) {
		return nil, err
	}
	// The stream outlives this call: Verify goes on with it.
	streamCtx, cancel := context.WithCancel(e.ctx)
	stream, err := e.node.Opener.OpenChannel(streamCtx, ln.OpenRequest{
		PendingID: id, Peer: f.Plan.Client, CapacitySat: f.Plan.CapacitySat, PushSat: f.Plan.WalletSat,
		Private: true, ScidAlias: true, ZeroConf: f.Plan.ZeroConf, Type: f.Plan.Type, MaxLocalCSV: f.Plan.MaxLocalCSV, Memo: f.Plan.Memo(),
	})
	var update ln.OpenUpdate
	if err == nil {
		update, err = stream.Next()
	}
	if err == nil && update.Fund == nil {
		err = errors.New("lnd did not ask for the funding transaction")
	}
	if err == nil && update.Fund.AmountSat != f.Plan.CapacitySat {
		err = fmt.Errorf("lnd asks for %s where %s were agreed", update.Fund.AmountSat, f.Plan.CapacitySat)
	}
	if err != nil {
		cancel()
		return ended(errors.Is(err, ln.ErrPeerRejected), err)
	}
	var built funding.JointTx
	script, err := funding.ScriptOf(update.Fund.Address, e.cfg.Network)
	if err == nil {
		gateway, wallet := collab.Parties(f.Plan, f.Ours)
		built, err = funding.BuildJoint(f.Joint, gateway, wallet, script)
	}
	if err != nil {
		cancel()
		return ended(false, err)
	}
	e.mu.Lock()
	e.negotiations[id] = &negotiation{stream: stream, cancel: cancel}
	e.mu.Unlock()
	if inst, err = e.opens.Get(ctx, f.Plan.ID); err == nil && collab.Final(inst.State) {
		// Given up while the wallet's node was asked.
		return ended(false, errors.New("it was given up"))
	}
	return []collab.Event{collab.FundingBuilt{Moment: e.moment(), JointTx: built}}, nil
}

func (e *Engine) takeNegotiation(id ln.PendingChanID) *negotiation {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.negotiations[id]
	delete(e.negotiations, id)
	return n
}

func (e *Engine) dropNegotiation(id ln.PendingChanID) {
	if n := e.takeNegotiation(id); n != nil {
		n.cancel()
	}
}

// verify hands lnd the stored transaction and waits for the wallet's commitment
// signature. An error leaves open whether lnd has the channel: nothing is signed,
// so it is given up either way, and lnd told to forget it.
func (e *Engine) verify(ctx context.Context, f collab.Verify) ([]collab.Event, error) {
	ended := func(text string) ([]collab.Event, error) {
		return []collab.Event{collab.NegotiationEnded{Moment: e.moment(), Text: text}}, nil
	}
	n := e.takeNegotiation(f.PendingID)
	if n == nil {
		return ended("sluiced restarted meanwhile: offer the coins again")
	}
	defer n.cancel()
	if err := e.node.Opener.VerifyPsbt(ctx, f.PendingID, f.Psbt); err != nil {
		return ended(err.Error())
	}
	for {
		update, err := n.stream.Next()
		if err != nil {
			return ended(err.Error())
		}
		if update.Pending == nil {
			continue
		}
		if inst, err := e.opens.Get(ctx, f.ID); err == nil && collab.Final(inst.State) {
			// It was given up, and lnd completed it all the same.
			return nil, e.forget(ctx, *update.Pending)
		}
		return []collab.Event{collab.FundingPending{Moment: e.moment(), Channel: *update.Pending}}, nil
	}
}

func (e *Engine) sign(ctx context.Context, f collab.Sign) ([]collab.Event, error) {
	raw, err := e.node.Chain.FinalizePsbt(ctx, f.Half)
	if errors.Is(err, ln.ErrUnavailable) {
		return nil, err
	}
	if err == nil {
		err = funding.Signed(raw, f.TxID)
	}
	if err != nil {
		return []collab.Event{collab.SigningFailed{Moment: e.moment(), Text: err.Error()}}, nil //nolint:nilerr // told as an event
	}
	return []collab.Event{collab.FundingSigned{Moment: e.moment(), TxID: f.TxID, Raw: raw}}, nil
}

func (e *Engine) publish(ctx context.Context, f collab.Publish) ([]collab.Event, error) {
	err := e.node.Chain.Publish(ctx, f.Raw, f.Label)
	if errors.Is(err, ln.ErrUnavailable) {
		return nil, err
	}
	if err != nil {
		return []collab.Event{collab.PublishFailed{Moment: e.moment(), Text: err.Error()}}, nil //nolint:nilerr // told as an event
	}
	return []collab.Event{collab.FundingPublished{Moment: e.moment()}}, nil
}

// watchInputs follows what spends each coin. When the stream broke off, or an
// earlier process followed it (again), what a reorg undid meanwhile would be told
// by nobody: so what was told before is forgotten first.
func (e *Engine) watchInputs(f collab.WatchInputs, again bool) {
	for _, in := range f.Inputs {
		key := f.ID + "/" + in.Outpoint.String()
		e.follow(key, func(ctx context.Context) {
			ctx, done := context.WithCancel(ctx)
			defer done()
			tell := func(event collab.Event) {
				if !e.tell(f.ID, event) {
					done()
				}
			}
			forget := again
			e.keep(ctx, key, func(ctx context.Context) error {
				if forget {
					tell(collab.SpendReorged{Moment: e.moment(), Input: in.Outpoint})
				}
				forget = true
				err := e.node.Chain.WatchSpend(ctx, in.Outpoint, in.PkScript, max(in.Height, 1), func(ev ln.SpendEvent) {
					event, err := e.spendEvent(in.Outpoint, ev)
					if err != nil {
						e.log.Error("a spend that lnd reports cannot be read", zap.String("joint", f.ID), zap.Error(err))
						return
					}
					tell(event)
					if !ev.Reorged {
						// What was spent long ago is over without another block.
						e.lookAgain()
					}
				})
				if err == nil {
					done()
				}
				return err
			})
		})
	}
}

func (e *Engine) spendEvent(op ln.Outpoint, ev ln.SpendEvent) (collab.Event, error) {
	if ev.Reorged {
		return collab.SpendReorged{Moment: e.moment(), Input: op}, nil
	}
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(ev.RawTx)); err != nil {
		return nil, fmt.Errorf("the transaction that spends %s: %w", op, err)
	}
	return collab.InputSpent{Moment: e.momentAt(ev.Height), Spend: collab.Spend{Input: op, By: ln.TxID(tx.TxHash()), Height: ev.Height}}, nil
}

func (e *Engine) abandon(ctx context.Context, f collab.AbandonChannel) error {
	e.dropNegotiation(f.PendingID)
	if err := e.node.Opener.CancelShim(ctx, f.PendingID); err != nil && errors.Is(err, ln.ErrUnavailable) {
		return err
	}
	switch {
	case f.Channel.IsZero():
		return nil
	case f.Signed:
		return e.drop(ctx, f.Channel)
	}
	return e.forget(ctx, f.Channel)
}

// forgetBlocks is how far back forget looks for a funding transaction.
const forgetBlocks = 4_032

// forget makes lnd forget a channel that nothing funds. lnd's wallet is asked
// first: a database that is an older copy may not know that the transaction was
// signed since.
func (e *Engine) forget(ctx context.Context, op ln.Outpoint) error {
	tip := e.moment().Height
	txs, err := e.node.Channels.Transactions(ctx, int32(tip-min(tip, forgetBlocks))) //nolint:gosec // a height
	if err != nil {
		return err
	}
	for _, tx := range txs {
		if tx.TxID == op.TxID {
			e.log.Error("a joint channel that the database has given up is funded: it is kept, and a person must look", zap.Stringer("channel", op))
			return nil
		}
	}
	return e.drop(ctx, op)
}

// drop makes lnd forget a channel, once no HTLC depends on it.
func (e *Engine) drop(ctx context.Context, op ln.Outpoint) error {
	open, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return err
	}
	for _, c := range open {
		if c.Outpoint == op && len(c.Htlcs) > 0 {
			return fmt.Errorf("channel %s, which can never exist, has %d HTLCs: it is forgotten once they are over", op, len(c.Htlcs))
		}
	}
	return e.node.Opener.AbandonChannel(ctx, op)
}

// sweepStrays abandons channels of joint fundings that were given up: lnd may
// complete a negotiation after that, when the wallet kept its signature back.
func (e *Engine) sweepStrays(ctx context.Context) error {
	pending, err := e.node.Channels.PendingChannels(ctx)
	if err != nil {
		return err
	}
	open, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return err
	}
	memos := make(map[ln.Outpoint]string)
	for _, p := range pending {
		if p.Kind == ln.PendingOpen {
			memos[p.Outpoint] = p.Memo
		}
	}
	for _, c := range open {
		memos[c.Outpoint] = c.Memo
	}
	for op, memo := range memos {
		terms, ours := ln.ReadJointTerms(memo)
		if !ours {
			continue
		}
		inst, err := e.opens.Get(ctx, terms.ID)
		if errors.Is(err, store.ErrNotFound) {
			continue // an older copy of the database does not know it
		}
		if err != nil {
			return err
		}
		if _, failed := inst.State.(collab.Failed); !failed {
			continue
		}
		if err := e.forget(ctx, op); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) bump(ctx context.Context, f collab.BumpFee) error {
	log := e.log.With(zap.String("joint", f.ID))
	return cpfp.Ask(ctx, cpfp.Node{Records: e.node.Channels, Coins: e.node.Coins, Sweeper: e.node.Chain}, log, cpfp.Request{
		Parent: cpfp.Parent{
			Change: f.Change, ChangeSat: f.ChangeSat, ChangeScript: f.ChangeScript, FeeSat: f.ParentFee, WeightWU: f.ParentWU,
		},
		LeaseID: f.LeaseID, Target: f.PackageRate, TipHeight: e.moment().Height,
		Limits: cpfp.Limits{Ceiling: e.cfg.Ceiling, MostSat: cpfp.AllOfTheChange},
	})
}
