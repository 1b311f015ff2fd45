package collab

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// The reasons that only joint fundings have.
const (
	ReasonInputs   lsp.ReasonCode = "wallet_coins_refused"
	ReasonSpent    lsp.ReasonCode = "wallet_coin_spent"
	ReasonUnsigned lsp.ReasonCode = "wallet_did_not_sign"
)

// Step decides. It is pure; see fsm.Machine.
func Step(s State, v Event) (State, []Effect, error) {
	switch s := s.(type) {
	case Checking:
		return stepChecking(s, v)
	case Choosing:
		return stepChoosing(s, v)
	case Negotiating:
		return stepNegotiating(s, v)
	case Built:
		return stepBuilt(s, v)
	case Ready:
		return stepReady(s, v)
	case Countersigning:
		return stepCountersigning(s, v)
	case Signed, Published, Confirmed:
		l, _ := liveOf(s)
		return stepLive(s, l, v)
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepChecking(s Checking, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Start:
		return s, []Effect{CheckInputs{ID: s.ID, Inputs: s.Inputs, MinInputConfs: s.MinInputConfs}}, nil
	case InputsChecked:
		return Choosing(s), []Effect{WatchInputs{ID: s.ID, Inputs: s.Inputs}, LeaseCoins{Plan: s.Plan}}, nil
	case InputsRefused:
		return fail(s, lsp.Because(ReasonInputs, "%s", clip(v.Text)))
	}
	return early(s, v)
}

func stepChoosing(s Choosing, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case CoinsLeased:
		if v.Joint.FundingSat != s.CapacitySat || len(v.Gateway.Inputs) == 0 || v.Gateway.OutlaySat != s.GatewayOutlaySat() {
			return nil, nil, fmt.Errorf("joint funding %s: coins were leased for %s of %s, not for its %s", s.ID, v.Gateway.OutlaySat, v.Joint.FundingSat, s.CapacitySat)
		}
		if v.Joint.Wallet.FeeSat > s.MaxWalletFeeSat {
			return fail(s, lsp.Because(lsp.ReasonChainFees, "the wallet's share of the chain fee would be %s, more than the %s that it allows: try again later, or allow more", v.Joint.Wallet.FeeSat, s.MaxWalletFeeSat))
		}
		next := Negotiating{Plan: s.Plan, Ours: v.Ours}
		return next, []Effect{Negotiate{Plan: s.Plan, Ours: v.Ours}}, nil
	case CoinsRefused:
		if v.Short {
			return fail(s, lsp.Because(lsp.ReasonCoinsShort, "the gateway has too few free coins for its part of the channel: ask for less, or try again later"))
		}
		return fail(s, lsp.Because(ReasonInputs, "%s", clip(v.Text)))
	}
	return early(s, v)
}

func stepNegotiating(s Negotiating, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case FundingBuilt:
		if v.Funding.IsZero() || len(v.Psbt) == 0 {
			return nil, nil, fmt.Errorf("joint funding %s: a transaction without outpoint or PSBT", s.ID)
		}
		next := Built{Plan: s.Plan, Ours: s.Ours, JointTx: v.JointTx}
		return next, []Effect{Verify{ID: s.ID, PendingID: s.PendingID(), Psbt: v.Psbt}}, nil
	case NegotiationEnded:
		return fail(s, ended(v))
	}
	return early(s, v)
}

func stepBuilt(s Built, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case FundingPending:
		if v.Channel != s.Funding {
			return nil, nil, fmt.Errorf("joint funding %s: lnd says channel %s, its transaction makes %s", s.ID, v.Channel, s.Funding)
		}
		return Ready{Plan: s.Plan, Ours: s.Ours, JointTx: s.JointTx, SignBy: v.At.Add(s.SignFor)}, nil, nil
	case NegotiationEnded:
		// lnd may yet complete it: nothing was signed, so it is given up and
		// forgotten, whatever lnd has.
		return fail(s, ended(v))
	}
	return early(s, v)
}

func stepReady(s Ready, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case WalletSigned:
		if len(v.Half) == 0 {
			return nil, nil, fmt.Errorf("joint funding %s: an empty signature", s.ID)
		}
		next := Countersigning{Plan: s.Plan, Ours: s.Ours, JointTx: s.JointTx, Half: v.Half}
		return next, []Effect{Sign{ID: s.ID, TxID: s.Funding.TxID, Half: v.Half}}, nil
	case Tick:
		if v.At.Before(s.SignBy) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return fail(s, lsp.Because(ReasonUnsigned, "the wallet did not sign in time: both sides keep their coins"))
	}
	return early(s, v)
}

func stepCountersigning(s Countersigning, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case WalletSigned:
		// The wallet may not have heard that we have it.
		return s, nil, nil
	case FundingSigned:
		if v.TxID != s.Funding.TxID || len(v.Raw) == 0 {
			return nil, nil, fmt.Errorf("joint funding %s: the signed transaction is %s, both commitments name %s", s.ID, v.TxID, s.Funding.TxID)
		}
		next := Signed{Plan: s.Plan, Ours: s.Ours, JointTx: s.JointTx, Tx: Tx{Raw: v.Raw, SignedHeight: v.Height}}
		return next, []Effect{publish(live(next)), watch(live(next))}, nil
	case SigningFailed:
		return fail(s, lsp.Because(lsp.ReasonOpenFailed, "the gateway's wallet did not sign (%s): nothing was published, and nobody can publish without it", clip(v.Text)))
	case Abort:
		if !v.ByOperator {
			return nil, nil, ErrTooLate
		}
	case Tick:
		return nil, nil, fsm.Illegal(s, v)
	}
	return early(s, v)
}

// early is what every state does that no signature of ours has left.
func early(s State, v Event) (State, []Effect, error) {
	p := PlanOf(s)
	switch v := v.(type) {
	case Abort:
		if v.ByOperator {
			return fail(s, lsp.Because(lsp.ReasonCancelled, "the gateway's operator ended it: both sides keep their coins"))
		}
		return fail(s, lsp.Because(lsp.ReasonCancelled, "the wallet ended it: both sides keep their coins"))
	case Tick:
		if v.At.Before(p.NegotiateBy) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return fail(s, lsp.Because(lsp.ReasonOpenSlow, "the channel was not negotiated in time: is the wallet's node connected?"))
	case InputSpent:
		for _, in := range p.Inputs {
			if in.Outpoint == v.Spend.Input {
				return fail(s, lsp.Because(ReasonSpent, "coin %s was spent by transaction %s meanwhile: offer others", v.Spend.Input, v.Spend.By))
			}
		}
	}
	return nil, nil, fsm.Illegal(s, v)
}

func ended(v NegotiationEnded) lsp.Reason {
	if v.Rejected {
		return lsp.Because(lsp.ReasonWalletRejected, "the wallet's node refused the channel: %s", clip(v.Text))
	}
	return lsp.Because(lsp.ReasonOpenFailed, "the channel's negotiation ended: %s", clip(v.Text))
}

// fail ends an open of which no signature of ours has left.
func fail(s State, reason lsp.Reason) (State, []Effect, error) {
	p, op := PlanOf(s), ChannelOf(s)
	end := Failed{Plan: p, Reason: reason, Channel: op}
	switch s.(type) {
	case Checking:
		return end, nil, nil
	case Choosing:
		return end, []Effect{ReleaseCoins{ID: p.ID, LeaseID: p.LeaseID()}}, nil
	}
	return end, []Effect{
		AbandonChannel{ID: p.ID, PendingID: p.PendingID(), Channel: op}, ReleaseCoins{ID: p.ID, LeaseID: p.LeaseID()},
	}, nil
}

// clip bounds what is repeated of somebody else's words.
func clip(s string) string { return ln.Clip(s, 300) }
