package agent

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// Menu is what one LSP offers, read and bounded.
type Menu struct {
	LSP    LSP
	Offers []lsp.OpeningFeeParams
	// CltvDelta is the gateway's for the route hint.
	CltvDelta     uint32
	Accepting     bool
	Network       string
	MaxWalletCSV  uint32
	MaxChannelSat ln.Sat
	// Withheld: its fee is withheld from what is forwarded (LSPS2), which an lnd
	// does not take. Serves are the LSPS that it serves, where that was asked.
	Withheld bool
	// Trusts: a channel would be funded only once its payment is claimed.
	Trusts bool
	Serves []int
	// Refused is why it offers no channels at the moment, in its words; nil
	// when it does.
	Refused error
}

// Bounds of a menu that is read.
const (
	maxMenuItems    = 64
	maxHintCltv     = 1_008
	maxPromiseBytes = lsp.MaxPromiseLen
	maxRefusalBytes = 500
)

// menuFromProto reads a menu and refuses one of another node or network.
func menuFromProto(l LSP, network string, r *lspv1.GetMenuResponse) (Menu, error) {
	m := Menu{
		LSP: l, CltvDelta: r.GetCltvDeltaBlocks(), Accepting: r.GetAccepting(), Network: r.GetNetwork(),
		Trusts: r.GetClientTrustsLsp(), MaxWalletCSV: r.GetMaxWalletToSelfDelayBlocks(), MaxChannelSat: ln.Sat(r.GetMaxChannelSat()),
	}
	key, err := ln.PubKeyFromBytes(r.GetGatewayNodeKey())
	switch {
	case err != nil || key != l.NodeKey:
		return Menu{}, errkind.Newf(errkind.Invalid, "LSP %s: its service belongs to another node than %s: check the node key with its operator", l.Name, l.NodeKey.Short())
	case m.Network != network:
		return Menu{}, errkind.Newf(errkind.Invalid, "LSP %s is on %q, this wallet on %q", l.Name, clip(m.Network), network)
	case len(r.GetOpeningFeeParamsMenu()) > maxMenuItems:
		return Menu{}, errkind.Newf(errkind.Invalid, "LSP %s: its menu has more than %d items", l.Name, maxMenuItems)
	}
	if said := r.GetRefusal(); said != "" && len(r.GetOpeningFeeParamsMenu()) == 0 {
		m.Refused = errkind.New(errkind.Unavailable, "LSP "+l.Name+": "+said[:min(len(said), maxRefusalBytes)])
	}
	for _, item := range r.GetOpeningFeeParamsMenu() {
		params, err := paramsFromProto(item)
		if err != nil {
			return Menu{}, errkind.Newf(errkind.Invalid, "LSP %s: %s", l.Name, err)
		}
		m.Offers = append(m.Offers, params)
	}
	return m, nil
}

func paramsFromProto(p *lspv1.OpeningFeeParams) (lsp.OpeningFeeParams, error) {
	if p.GetProportionalPpm() > math.MaxUint32 || ln.Msat(p.GetMinFeeMsat()) > ln.MaxMsat ||
		ln.Msat(p.GetMinPaymentSizeMsat()) > ln.MaxMsat || ln.Msat(p.GetMaxPaymentSizeMsat()) > ln.MaxMsat ||
		len(p.GetPromise()) > maxPromiseBytes || p.GetPromise() == "" {
		return lsp.OpeningFeeParams{}, errkind.New(errkind.Invalid, "an item of its menu makes no sense")
	}
	return lsp.OpeningFeeParams{
		MinFeeMsat: ln.Msat(p.GetMinFeeMsat()), ProportionalPPM: uint32(p.GetProportionalPpm()), //nolint:gosec // bounded above
		ValidUntil: time.UnixMilli(p.GetValidUntilMs()).UTC(), MinLifetimeBlocks: p.GetMinLifetimeBlocks(),
		MaxClientToSelfDelay: p.GetMaxClientToSelfDelayBlocks(),
		MinPaymentSizeMsat:   ln.Msat(p.GetMinPaymentSizeMsat()), MaxPaymentSizeMsat: ln.Msat(p.GetMaxPaymentSizeMsat()),
		Promise: p.GetPromise(),
	}, nil
}

// paramsToProto gives an item back unchanged, as the promise demands; none
// where there is none.
func paramsToProto(p lsp.OpeningFeeParams) *lspv1.OpeningFeeParams {
	if p.Promise == "" {
		return nil
	}
	return &lspv1.OpeningFeeParams{
		MinFeeMsat: uint64(p.MinFeeMsat), ProportionalPpm: uint64(p.ProportionalPPM),
		ValidUntilMs: p.ValidUntil.UnixMilli(), MinLifetimeBlocks: p.MinLifetimeBlocks,
		MaxClientToSelfDelayBlocks: p.MaxClientToSelfDelay,
		MinPaymentSizeMsat:         uint64(p.MinPaymentSizeMsat), MaxPaymentSizeMsat: uint64(p.MaxPaymentSizeMsat),
		Promise: p.Promise,
	}
}

// Candidate is one offer for one amount.
type Candidate struct {
	Menu   Menu
	Params lsp.OpeningFeeParams
	Quote  lsp.Quote
	// Unfit says why it cannot be used; nil when it can.
	Unfit error
}

// minOfferLife is what must be left of an offer, so that it does not lapse
// while it is agreed on.
const minOfferLife = 10 * time.Second

// Rank prices every offer for an amount: those that fit first, the cheapest
// before the dearer, then by the longer promised lifetime, then in the order of
// the LSPs; after them those that don't, each with its reason.
func Rank(menus []Menu, policy Policy, mode Mode, amount ln.Msat, now time.Time) []Candidate {
	var all []Candidate
	for _, m := range menus {
		for _, p := range m.Offers {
			c := Candidate{Menu: m, Params: p}
			c.Quote, c.Unfit = price(m, policy, p, mode, amount, now)
			all = append(all, c)
		}
	}
	slices.SortStableFunc(all, func(a, b Candidate) int {
		if (a.Unfit == nil) != (b.Unfit == nil) {
			if a.Unfit == nil {
				return -1
			}
			return 1
		}
		return cmp.Or(
			cmp.Compare(a.Quote.FeeMsat, b.Quote.FeeMsat),
			cmp.Compare(b.Params.MinLifetimeBlocks, a.Params.MinLifetimeBlocks),
		)
	})
	return all
}

func price(m Menu, policy Policy, p lsp.OpeningFeeParams, mode Mode, amount ln.Msat, now time.Time) (lsp.Quote, error) {
	if m.Withheld {
		fee, err := p.Fee(amount)
		if err != nil || fee >= amount {
			return lsp.Quote{}, errWithheld
		}
		return lsp.Quote{PayerMsat: amount, WalletMsat: amount - fee, FeeMsat: fee}, errWithheld
	}
	switch {
	case !m.Accepting:
		return lsp.Quote{}, errkind.Newf(errkind.Unavailable, "%s takes no new business at the moment", m.LSP.Name)
	case m.MaxWalletCSV > policy.MaxToSelfDelayBlocks:
		return lsp.Quote{}, errkind.Newf(errkind.Invalid, "%s may make your money wait for %d blocks after a forced close, more than your limit of %d (channels.max_to_self_delay_blocks)",
			m.LSP.Name, m.MaxWalletCSV, policy.MaxToSelfDelayBlocks)
	case mode == PayerPays && (m.CltvDelta == 0 || m.CltvDelta > maxHintCltv):
		return lsp.Quote{}, errkind.Newf(errkind.Invalid, "%s wants a CLTV delta of %d blocks, which makes no sense", m.LSP.Name, m.CltvDelta)
	}
	if err := p.Valid(now.Add(minOfferLife)); err != nil {
		return lsp.Quote{}, err
	}
	if mode == PayerPays {
		return p.QuotePayerPays(amount)
	}
	return p.QuoteReceiverPays(amount)
}
