package agent

import (
	"context"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp/collab"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// heard notes what the LSP says of a joint funding.
func (r Record) heard(f *collabv1.Funding) Record {
	r.State, r.Reason = f.GetState(), ln.Clip(f.GetReason(), 500)
	if op, err := ln.ParseOutpoint(f.GetChannel()); err == nil && len(f.GetPsbt()) > 0 {
		r.Channel, r.Psbt = op, f.GetPsbt()
	}
	return r
}

// isOwn says that the channel that an LSP named is of this joint funding and may be
// forgotten with it: the channel's transaction spends one of the coins that were
// chosen for it, and of those nobody has a signature. Without that proof an LSP could
// name any other channel of the wallet's, to have its money forgotten.
func (a *Agent) isOwn(r Record) bool {
	p, err := funding.ParsePsbt(r.Psbt)
	if err != nil || r.Channel.IsZero() || ln.TxID(p.UnsignedTx.TxHash()) != r.Channel.TxID {
		return false
	}
	for _, other := range a.List() {
		if other.Key() != r.Key() && other.Channel == r.Channel {
			return false
		}
	}
	for _, in := range p.UnsignedTx.TxIn {
		op := ln.Outpoint{TxID: ln.TxID(in.PreviousOutPoint.Hash), Index: in.PreviousOutPoint.Index}
		if slices.ContainsFunc(r.Inputs, func(own collab.Input) bool { return own.Outpoint == op }) {
			return true
		}
	}
	return false
}

// learnFor bounds how long an LSP is waited for that may be negotiating still.
const learnFor = 10 * time.Second

// learn asks which channel a joint funding has that was cut off before the LSP said
// so: the nodes may have negotiated it all the same.
func (a *Agent) learn(ctx context.Context, r Record) Record {
	if r.ID == "" || !r.Channel.IsZero() {
		return r
	}
	l, err := a.lsp(r.LSP)
	if err != nil {
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, learnFor)
	defer cancel()
	_ = a.call(ctx, l, r.Self, func(ctx context.Context, c collabv1.JointFundingServiceClient) error {
		for {
			got, err := c.GetFunding(ctx, &collabv1.GetFundingRequest{FundingId: r.ID})
			if err != nil {
				return err // it never heard of it, or is away
			}
			f := got.GetFunding()
			r = r.heard(f)
			switch f.GetState() {
			case collab.Checking{}.StateName(), collab.Choosing{}.StateName(), collab.Negotiating{}.StateName(), collab.Built{}.StateName():
			default:
				return nil
			}
			if err := pace.Pause(ctx, 100*time.Millisecond); err != nil {
				return err
			}
		}
	})
	return r
}
