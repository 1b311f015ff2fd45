package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/collab"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// check holds what the LSP shows against what the wallet's own node shows. It
// waits a moment for the node: the LSP hears of the commitments first.
func (a *Agent) check(ctx context.Context, r Record) (Record, error) {
	deadline := time.After(20 * time.Second)
	for {
		shown, err := a.shown(ctx, r)
		if err != nil {
			return r, err
		}
		if shown {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return r, ctx.Err()
		case <-deadline:
			return r, errkind.Newf(errkind.Conflict, "this wallet's node does not show a channel at %s: nothing is signed", r.Channel)
		}
	}
	script, err := a.ports.Channels.FundingScript(ctx, r.Channel, r.CapacitySat())
	if err != nil {
		return r, err
	}
	want := funding.Expected{
		ChangeScript: r.ChangeScript, FundingScript: script, CapacitySat: r.CapacitySat(), OutlaySat: r.WalletSat + r.ServiceFeeSat, MaxFeeSat: r.MaxChainFee,
	}
	want.Inputs = r.coins()
	r.ChainFeeSat, r.ChangeSat, err = want.Examine(r.Psbt, r.Channel)
	if err != nil {
		return r, errkind.Wrap(errkind.Conflict, err, "what the LSP wants signed is not what was agreed, and nothing is signed: "+err.Error())
	}
	return r, nil
}

// shown says that the wallet's node has the channel, as agreed. One that is there
// and different is an error.
func (a *Agent) shown(ctx context.Context, r Record) (bool, error) {
	differs := func(capacity, local ln.Sat, initiator bool) error {
		if capacity == r.CapacitySat() && local == r.WalletSat && !initiator {
			return nil
		}
		return errkind.Newf(errkind.Conflict, "this wallet's node shows channel %s with %s of %s, not with %s of %s: nothing is signed", r.Channel, local, capacity, r.WalletSat, r.CapacitySat())
	}
	pending, err := a.ports.Channels.PendingChannels(ctx)
	if err != nil {
		return false, err
	}
	for _, p := range pending {
		if p.Outpoint == r.Channel && p.Kind == ln.PendingOpen {
			return true, differs(p.CapacitySat, p.LocalSat, p.Initiator)
		}
	}
	open, err := a.ports.Channels.ListChannels(ctx)
	if err != nil {
		return false, err
	}
	for _, c := range open {
		if c.Outpoint == r.Channel {
			return true, differs(c.CapacitySat, c.LocalSat, c.Initiator)
		}
	}
	return false, nil
}

// Sign checks everything once more, signs, and hands the signature over. That it
// leaves is on disk before it leaves. The signatures of another wallet's coins come
// from there; elsewhere is nil where the coins are this wallet's.
func (a *Agent) Sign(ctx context.Context, key string, elsewhere []byte) (Record, error) {
	r, release, err := a.claim(ctx, key)
	if err != nil {
		return r, err
	}
	defer release()
	switch {
	case r.Phase == PhaseSigned:
		return a.deliver(ctx, r)
	case r.Phase != PhaseReady:
		return r, errkind.Newf(errkind.Conflict, "the joint funding is %s: there is nothing to sign", r.Phase)
	}
	if r, err = a.check(ctx, r); err != nil {
		return r, err
	}
	signed, err := a.sign(ctx, r, elsewhere)
	if err != nil {
		return r, err
	}
	r.Phase, r.Signed = PhaseSigned, signed
	if err := a.save(r); err != nil {
		return r, err
	}
	defer a.wake()
	return a.deliver(ctx, r)
}

// deliver hands the signature over. The same one may be handed over again. Of a restored
// one the LSP is only asked what became of it.
func (a *Agent) deliver(ctx context.Context, r Record) (Record, error) {
	before := r
	l, err := a.lsp(r.LSP)
	if err != nil {
		return r, err
	}
	err = a.call(ctx, l, r.Self, func(ctx context.Context, c collabv1.JointFundingServiceClient) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		var got interface{ GetFunding() *collabv1.Funding }
		var err error
		if r.Restored {
			got, err = c.GetFunding(ctx, &collabv1.GetFundingRequest{FundingId: r.ID})
		} else {
			got, err = c.SignFunding(ctx, &collabv1.SignFundingRequest{FundingId: r.ID, SignedPsbt: r.Signed})
		}
		if err != nil {
			return err
		}
		r.State, r.Reason = got.GetFunding().GetState(), ln.Clip(got.GetFunding().GetReason(), 500)
		return nil
	})
	if err != nil {
		return r, err
	}
	switch {
	case r.Alarm == takingBack:
	case r.State == collab.Failed{}.StateName():
		r.Alarm = "the LSP says that it gave the channel up, and it has this wallet's signature: take the coins back with `sluice-wallet fund reclaim " + r.Key() + "`"
	case r.State == collab.Conflicted{}.StateName():
		// Of this wallet's coins none is spent in a block, or it would not be asked.
		r.Alarm = "the LSP says that the channel can never exist, because a coin of its own was spent otherwise: take the coins back with `sluice-wallet fund reclaim " + r.Key() + "`"
	}
	if r.State == before.State && r.Reason == before.Reason && r.Alarm == before.Alarm {
		return r, nil
	}
	return r, a.save(r)
}

// Abort ends a joint funding that was not signed: nobody can publish it, so the
// coins are free and the channel is forgotten, whatever the LSP says to that.
func (a *Agent) Abort(ctx context.Context, key string) (Record, error) {
	r, release, err := a.claim(ctx, key)
	if err != nil {
		return r, err
	}
	defer release()
	switch {
	case r.Phase.Over():
		return r, nil
	case r.Phase == PhaseSigned:
		return r, errkind.Newf(errkind.Conflict, "it is signed, and the LSP can publish it: `sluice-wallet fund reclaim %s` takes the coins back by spending them", key)
	}
	if err := a.giveUp(ctx, r, "ended by the user"); err != nil {
		return r, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all[key], nil
}

// giveUp lets go of everything of a joint funding that was never signed.
func (a *Agent) giveUp(ctx context.Context, r Record, why string) error {
	if r.Phase == PhaseSigned || r.Phase.Over() {
		return fmt.Errorf("joint funding %s is %s and cannot be given up", r.Key(), r.Phase)
	}
	// On disk before the LSP forgets it: lnd may be away for a while.
	known := r.Channel
	if r = a.learn(ctx, r); r.Channel != known {
		if err := a.save(r); err != nil {
			return err
		}
	}
	if r.ID != "" {
		// A courtesy: the LSP's coins are free at once, not after its time-out.
		if l, err := a.lsp(r.LSP); err == nil {
			err = a.call(ctx, l, r.Self, func(ctx context.Context, c collabv1.JointFundingServiceClient) error {
				ctx, cancel := context.WithTimeout(ctx, callTimeout)
				defer cancel()
				_, err := c.AbortFunding(ctx, &collabv1.AbortFundingRequest{FundingId: r.ID})
				return err
			})
			if err != nil {
				a.log.Info("the LSP was not told that a joint funding is given up; it finds out by itself", zap.String("joint", r.Key()), zap.Error(err))
			}
		}
	}
	if a.isOwn(r) {
		if err := a.ports.Channels.AbandonChannel(ctx, r.Channel); err != nil {
			return err
		}
	}
	if r.Replaces == "" {
		// The coins of a replacement are still those of what it was to replace.
		if err := a.release(ctx, r); err != nil {
			return err
		}
	}
	r.Phase, r.Reason = PhaseGivenUp, ln.Clip(why, 500)
	return a.save(r)
}

func (a *Agent) release(ctx context.Context, r Record) error {
	_, err := leases.Release(ctx, a.ports.Wallet, r.leaseID())
	return err
}

const takingBack = "the coins are being taken back: the channel is kept until that is buried"

// Reclaim takes the coins of a signed joint funding back, by spending them to the
// wallet itself. If the LSP publishes at the same time, one of the two confirms;
// the channel is kept until it is known which.
func (a *Agent) Reclaim(ctx context.Context, key string) (Record, error) {
	r, release, err := a.claim(ctx, key)
	if err != nil {
		return r, err
	}
	defer release()
	if r.Phase != PhaseSigned {
		return r, errkind.Newf(errkind.Conflict, "the joint funding is %s: only what is signed and not confirmed is taken back", r.Phase)
	}
	if r.Elsewhere {
		return r, errkind.Newf(errkind.Conflict, "its coins are another wallet's: have that sign and broadcast what `sluice-wallet fund export %s FILE` writes, or spend one of them otherwise", key)
	}
	if r, err = a.knowChange(ctx, r); err != nil {
		return r, err
	}
	raw, err := a.ports.Spender.FinalizePsbt(ctx, r.Own)
	if err != nil {
		return r, err
	}
	if err := a.ports.Spender.Publish(ctx, raw, "sluice joint funding "+r.Key()+" taken back"); err != nil {
		if errors.Is(err, ln.ErrDoubleSpend) {
			return r, errkind.Wrap(errkind.Conflict, err, "the network has the channel's transaction already: the channel will open")
		}
		return r, err
	}
	r.Alarm = takingBack
	return r, a.save(r)
}
