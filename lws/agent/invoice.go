package agent

import (
	"context"
	"errors"
	"math"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

// InvoiceRequest is what to receive although the wallet may be offline.
type InvoiceRequest struct {
	AmountMsat  ln.Msat
	Description string
	// Expiry is for how long it can be paid, Wait for how long its payment may wait then;
	// 0 is an hour, and as long as is registered.
	Expiry, Wait time.Duration
	// Gateway is a name, or empty for any.
	Gateway string
}

// Invoice is what to show, and what it means.
type Invoice struct {
	Bolt11    string
	Hash      ln.Hash
	Gateway   string
	ExpiresAt time.Time
	Plan      Plan
}

// Plan is how an invoice's payment can wait.
type Plan struct {
	// WaitBlocks is how many blocks, PayerFinal the final CLTV delta that the payer sees,
	// OwnFinal the one that the wallet's node keeps.
	WaitBlocks, PayerFinal, OwnFinal uint32
	// Expiry is the payer's, OwnExpiry the one in lnd's database: it outlives the hold, or
	// lnd would have cancelled the invoice when the payment is handed on.
	Expiry, OwnExpiry time.Duration
	// ExtraPPM is the gateway's price as a fee of the last hop, PriceMsat what that comes to.
	ExtraPPM  uint32
	PriceMsat ln.Msat
}

const (
	blockTime = 10 * time.Minute
	// spareBlocks are those that the gateway keeps for blocks that arrive meanwhile.
	spareBlocks = 2
	// spareTime is how much longer than all of it lnd's own invoice lives.
	spareTime = time.Hour
	// maxPayerFinal leaves room for the other hops: lnd's payers lock money for 2016 blocks
	// at most.
	maxPayerFinal = 1440
	maxExpiry     = 29 * 24 * time.Hour
)

// MakePlan computes an invoice for a registration and a gateway's terms.
func MakePlan(r InvoiceRequest, registered lws.Wish, terms *lwsv1.HoldTerms) (Plan, error) {
	if r.Expiry == 0 {
		r.Expiry = time.Hour
	}
	if r.Wait == 0 {
		r.Wait = registered.HoldFor
	}
	switch {
	case r.AmountMsat == 0 || r.AmountMsat > ln.MaxMsat:
		return Plan{}, errkind.New(errkind.Invalid, "name an amount")
	case r.Expiry < time.Minute || r.Expiry > maxExpiry:
		return Plan{}, errkind.New(errkind.Invalid, "the invoice's expiry must be between a minute and 29 days")
	case r.Wait < blockTime:
		return Plan{}, errkind.New(errkind.Invalid, "a payment waits for ten minutes at least: for less, an ordinary invoice will do")
	case r.Wait > registered.HoldFor:
		return Plan{}, errkind.Newf(errkind.Invalid, "payments wait for at most %s, as registered: ask for that, or register for longer", registered.HoldFor)
	}
	p := Plan{OwnFinal: registered.FinalCltvDelta, Expiry: r.Expiry, OwnExpiry: r.Expiry + r.Wait + spareTime}
	blocks := (r.Wait + blockTime - 1) / blockTime
	if uint64(blocks)+uint64(p.OwnFinal)+spareBlocks > maxPayerFinal {
		return Plan{}, errkind.Newf(errkind.Invalid, "payers' nodes lock money for two weeks at most: a payment can wait %s", time.Duration(maxPayerFinal-spareBlocks-min(p.OwnFinal, maxPayerFinal-spareBlocks))*blockTime)
	}
	p.WaitBlocks = uint32(blocks) //nolint:gosec // bounded just above
	p.PayerFinal = p.OwnFinal + p.WaitBlocks + spareBlocks
	if price := terms.GetPriceMsatPerMillionSatBlocks(); price > 0 {
		// The gateway counts from the payer's expiry, which payers pad, and in whole
		// satoshis: so a little more.
		const padding = 16
		limits := lws.Limits{PriceMsat: ln.Msat(price)}
		p.PriceMsat = limits.Price(lws.SatBlocks(r.AmountMsat+r.AmountMsat/100+1000, 0, p.WaitBlocks+spareBlocks+padding))
		ppm := (uint64(p.PriceMsat)*1_000_000 + uint64(r.AmountMsat) - 1) / uint64(r.AmountMsat)
		if p.PriceMsat > ln.MaxMsat/1_000_000 || ppm > math.MaxUint32 {
			return Plan{}, errkind.New(errkind.Invalid, "the gateway's price for that makes no sense")
		}
		p.ExtraPPM = uint32(ppm)
	}
	return p, nil
}

// MakeInvoice makes an invoice whose payment can wait for the wallet at a gateway.
func (a *Agent) MakeInvoice(ctx context.Context, r InvoiceRequest) (Invoice, error) {
	self, err := a.ports.Node.Info(ctx)
	if err != nil {
		return Invoice{}, err
	}
	channels, err := a.ports.Node.ListChannels(ctx)
	if err != nil {
		return Invoice{}, err
	}
	all, err := a.Refresh(ctx)
	if err != nil {
		return Invoice{}, err
	}
	var failed []error
	for _, s := range all {
		if r.Gateway != "" && s.Name != r.Gateway {
			continue
		}
		inv, err := a.over(ctx, r, s, self, channels)
		if err == nil {
			return inv, nil
		}
		failed = append(failed, err)
	}
	if len(failed) == 0 {
		return Invoice{}, errkind.New(errkind.NotFound, "there is no such gateway: `sluice-wallet lsps` lists them")
	}
	return Invoice{}, errkind.Wrap(errkind.Of(failed[0]), errors.Join(failed...), errkind.Told(failed[0]))
}

// over makes it over one gateway.
func (a *Agent) over(ctx context.Context, r InvoiceRequest, s Status, self ln.NodeInfo, channels []ln.Channel) (Invoice, error) {
	switch {
	case s.Problem != nil:
		return Invoice{}, s.Problem
	case !s.Registered:
		return Invoice{}, errkind.Newf(errkind.Conflict, "%s holds nothing for this wallet: `sluice-wallet holds on` registers it", s.Name)
	}
	plan, err := MakePlan(r, s.Wish, s.Terms)
	if err != nil {
		return Invoice{}, err
	}
	hinted, found := false, false
	for _, c := range channels {
		if c.Peer == s.NodeKey && c.RemoteSat > c.RemoteReserveSat && ln.Msat(c.RemoteSat-c.RemoteReserveSat)*1000 >= r.AmountMsat {
			found, hinted = true, hinted || c.Private
		}
	}
	if !found {
		return Invoice{}, errkind.Newf(errkind.Conflict, "no channel with %s has room for %s: `sluice-wallet receive` gets one", s.Name, r.AmountMsat)
	}
	text, hash, err := a.ports.Node.AddInvoice(ctx, ln.InvoiceRequest{
		AmountMsat: r.AmountMsat, Memo: r.Description, Expiry: plan.OwnExpiry, FinalCltvDelta: plan.OwnFinal, Private: hinted,
	})
	if err != nil {
		return Invoice{}, err
	}
	inv, err := a.announce(ctx, s, self, plan, text, hash, hinted)
	if err != nil {
		// Nobody saw it; with the context ended it expires by itself.
		if gone := a.ports.Node.CancelInvoice(ctx, hash); gone != nil {
			a.log.Info("an invoice that nobody saw could not be cancelled; it expires by itself", zap.Stringer("payment_hash", hash), zap.Error(gone))
		}
		return Invoice{}, err
	}
	return inv, nil
}

// announce signs the invoice for payers and tells the gateway what the node keeps.
func (a *Agent) announce(ctx context.Context, s Status, self ln.NodeInfo, plan Plan, own string, hash ln.Hash, hinted bool) (Invoice, error) {
	text, err := a.ports.Reissue(ctx, self.Network, own, ln.Reissue{
		FinalCltvDelta: plan.PayerFinal, Expiry: plan.Expiry, Via: s.NodeKey, ExtraPPM: plan.ExtraPPM,
	})
	if errors.Is(err, ln.ErrPermission) {
		return Invoice{}, errkind.Wrap(errkind.Denied, err, "the daemon's macaroon may not sign invoices: `sluice-wallet macaroon --long-holds` prints how to bake one that may, and what that means")
	}
	if err != nil {
		return Invoice{}, err
	}
	shown, err := a.ports.Decode(self.Network, text)
	if err != nil {
		return Invoice{}, err
	}
	if hinted && len(shown.RouteHints) == 0 {
		return Invoice{}, errkind.Newf(errkind.Unavailable, "lnd does not know %s's side of the channel yet, so that payers would not find it: try again in a minute", s.Name)
	}
	client, err := a.client(s.Gateway, self.PubKey)
	if err != nil {
		return Invoice{}, err
	}
	if _, err := client.ExpectPayment(ctx, &lwsv1.ExpectPaymentRequest{
		PaymentHash: hash[:], FinalCltvDeltaBlocks: plan.OwnFinal, UntilMs: shown.ExpiresAt().UnixMilli(),
	}); err != nil {
		return Invoice{}, said(s.Gateway, err)
	}
	return Invoice{Bolt11: text, Hash: hash, Gateway: s.Name, ExpiresAt: shown.ExpiresAt().UTC(), Plan: plan}, nil
}
