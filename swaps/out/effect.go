package out

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// Effect is something to do once the state that asks for it is stored. Every
// effect may run more than once; each says what makes that harmless.
type Effect interface{ EffectName() string }

// The effects.
type (
	// MakeInvoices adds both hold invoices: InvoicesMade or InvoicesRefused. An
	// invoice that is there already is ours if its memo names the swap.
	MakeInvoices struct {
		Plan Plan `json:"plan"`
	}
	// WatchInvoices follows both, once per process: PaymentHeld,
	// PaymentReleased, any number of times.
	WatchInvoices struct {
		Hash   ln.Hash `json:"hash"`
		Prepay ln.Hash `json:"prepay"`
	}
	// FundHtlc leases coins under LeaseID, builds the transaction, and has the
	// wallet sign it: HtlcFunded or FundingRefused. It publishes nothing. Leases
	// of an earlier run are given up first: its transaction was never stored.
	FundHtlc struct {
		Plan Plan `json:"plan"`
	}
	// SettlePrepay takes the prepay (Hash), if the node still holds the swap payment
	// and the tip is not above ByHeight: PrepaySettled, or PrepayLost when either was
	// cancelled or it is too late. Between the decision and now may lie an outage: an
	// output that comes out at the end of its time could be taken after the node gave
	// the payment back.
	SettlePrepay struct {
		Swap     ln.Hash      `json:"swap"`
		Hash     ln.Hash      `json:"hash"`
		Preimage swaps.Secret `json:"preimage"`
		ByHeight uint32       `json:"by_height"`
	}
	// PublishHtlc hands exactly these bytes to the node: HtlcPublished (also
	// when it knows them) or PublishFailed.
	PublishHtlc struct {
		Raw   []byte `json:"raw"`
		Label string `json:"label"`
	}
	// WatchHtlc follows the transaction, its coins and the contract's output, once
	// per process: HtlcConfirmed, HtlcReorged, HtlcSpent, SpendReorged, CoinTaken,
	// CoinBack.
	WatchHtlc struct {
		Terms       htlc.Terms    `json:"terms"`
		AmountSat   ln.Sat        `json:"amount_sat"`
		Outpoint    ln.Outpoint   `json:"outpoint"`
		SinceHeight uint32        `json:"since_height"`
		Coins       []ln.Outpoint `json:"coins,omitempty"`
		Scripts     [][]byte      `json:"scripts,omitempty"`
	}
	// BumpHtlc lifts the transaction and a child from its change to the rate, for no
	// more than MostSat. The node replaces an earlier child.
	BumpHtlc struct {
		LeaseID     [32]byte           `json:"lease_id"`
		Tx          Tx                 `json:"tx"`
		PackageRate ln.FeeRateSatPerKW `json:"package_rate_sat_per_kw"`
		MostSat     ln.Sat             `json:"most_sat"`
	}
	// SettleSwap takes the held payment: SwapSettled, or SwapUnsettled when the
	// node has given it back.
	SettleSwap struct {
		Preimage swaps.Secret `json:"preimage"`
	}
	// SignRefund signs a spend by the timeout leaf, together with other swaps whose
	// refund is due (see batch): RefundSigned, for each of them, or RefundRefused. It
	// publishes nothing. A swap that has a refund of this rate by now needs none.
	SignRefund struct {
		Terms     htlc.Terms         `json:"terms"`
		AmountSat ln.Sat             `json:"amount_sat"`
		Outpoint  ln.Outpoint        `json:"outpoint"`
		Rate      ln.FeeRateSatPerKW `json:"rate_sat_per_kw"`
	}
	// PublishRefund hands the refund to the node; a refusal is told by the
	// chain, which decides what spends the output.
	PublishRefund struct {
		Raw   []byte `json:"raw"`
		Label string `json:"label"`
	}
	// CancelInvoices gives the payments back: InvoicesCancelled. What is
	// cancelled already, or was never made, is success. With Prepay nothing was
	// published: it is refused while the node shows otherwise.
	CancelInvoices struct {
		Swap   ln.Hash  `json:"swap"`
		Prepay *ln.Hash `json:"prepay,omitempty"`
	}
	// ReleaseCoins gives back every lease under LeaseID; none left is success.
	ReleaseCoins struct {
		LeaseID [32]byte `json:"lease_id"`
	}
	// ForgetTxs takes transactions out of the node's wallet that can never confirm, and
	// that it would count for ever. One that it does not have is success.
	ForgetTxs struct {
		TxIDs []ln.TxID `json:"txids"`
	}
	// Alarm tells the operator.
	Alarm struct {
		Text string `json:"text"`
	}
)

// EffectName is the stable text under which the effect is stored.
func (MakeInvoices) EffectName() string   { return "make_invoices" }
func (WatchInvoices) EffectName() string  { return "watch_invoices" }
func (FundHtlc) EffectName() string       { return "fund_htlc" }
func (SettlePrepay) EffectName() string   { return "settle_prepay" }
func (PublishHtlc) EffectName() string    { return "publish_htlc" }
func (WatchHtlc) EffectName() string      { return "watch_htlc" }
func (BumpHtlc) EffectName() string       { return "bump_htlc" }
func (SettleSwap) EffectName() string     { return "settle_swap" }
func (SignRefund) EffectName() string     { return "sign_refund" }
func (PublishRefund) EffectName() string  { return "publish_refund" }
func (CancelInvoices) EffectName() string { return "cancel_invoices" }
func (ReleaseCoins) EffectName() string   { return "release_coins" }
func (ForgetTxs) EffectName() string      { return "forget_txs" }
func (Alarm) EffectName() string          { return "alarm" }
