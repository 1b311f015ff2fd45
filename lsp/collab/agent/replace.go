package agent

import (
	"context"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Replace negotiates a channel that takes the place of one that is signed and does
// not confirm: another transaction of the same coins, which pays more. The other one
// may confirm all the same, so that both are kept until one is buried.
func (a *Agent) Replace(ctx context.Context, key string, maxFeeRate ln.FeeRateSatPerKW) (Record, error) {
	old, release, err := a.claim(ctx, key)
	if err != nil {
		return old, err
	}
	defer release()
	switch {
	case old.Phase != PhaseSigned:
		return old, errkind.Newf(errkind.Conflict, "the joint funding is %s: only what is signed and not confirmed is replaced", old.Phase)
	case old.ZeroConf:
		return old, errkind.New(errkind.Conflict, "the channel is used already, and what was received over it would be gone: the LSP hurries it with its change")
	}
	for _, r := range a.List() {
		if r.Replaces == key && !r.Phase.Over() {
			return old, errkind.Newf(errkind.Conflict, "the joint funding %s takes its place already", r.Key())
		}
	}
	return a.begin(ctx, Request{LSP: old.LSP, WalletSat: old.WalletSat, InboundSat: old.InboundSat, Taproot: old.Taproot, MaxFeeRate: maxFeeRate}, &old)
}

// again takes the coins of the record that is replaced. They stay leased as they are.
func (r Record) again(old Record, rate ln.FeeRateSatPerKW) (Record, error) {
	r.LeasedAs = old.Nonce
	if old.LeasedAs != [32]byte{} {
		r.LeasedAs = old.LeasedAs
	}
	r.Inputs, r.ChangeScript, r.Own, r.Elsewhere, r.FeeRate = old.Inputs, old.ChangeScript, old.Own, old.Elsewhere, rate
	var err error
	r.MaxChainFee, err = ownFee(r, rate)
	return r, err
}
