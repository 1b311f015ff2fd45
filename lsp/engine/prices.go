package engine

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// retryPrices is when a client that was refused for the chain's sake should ask
// again: fees move with the blocks.
const retryPrices = 10 * time.Minute

// The refusals of business that needs a channel, for the chain's sake. Each is
// temporary and says when to ask again.
var (
	errStaleFees = errkind.New(errkind.Unavailable, "the gateway does not know what the chain asks at the moment, and offers no channels until it does: try again in about 10 minutes")
	errHighFees  = errkind.New(errkind.Unavailable, "the chain's fees are higher than this gateway pays, so it offers no channels until they fall: try again in about 10 minutes, or use another LSP")
	errDearMenu  = errkind.New(errkind.Unavailable, "the chain's fees are so high that opening a channel would cost more than the largest payment it is offered for: try again in about 10 minutes, or use another LSP")
)

// Menu is what channels cost a client now.
type Menu struct {
	// Items are promised to the client; empty while no channels are offered.
	Items []lsp.OpeningFeeParams
	// Refusal says why there are none, and RetryAfter when to ask again.
	Refusal    error
	RetryAfter time.Duration
}

// Menu is what channels cost this client now, with promises.
func (e *Engine) Menu(ctx context.Context, client ln.PubKey) (Menu, error) {
	return e.MenuFor(ctx, client, "")
}

// MenuFor is the menu of a token; ErrToken when that means nothing. The empty
// token has the menu for everybody.
func (e *Engine) MenuFor(ctx context.Context, client ln.PubKey, token string) (Menu, error) {
	base, err := e.menus.of(token, e.opt.Now())
	if err != nil {
		return Menu{}, err
	}
	items, err := e.prices(e.fees.current(), base)
	if err != nil {
		return Menu{Refusal: err, RetryAfter: retryPrices}, nil //nolint:nilerr // an empty menu with its reason is an answer
	}
	until := e.opt.Now().Add(e.cfg.OfferFor)
	for i := range items {
		items[i].ValidUntil = until
	}
	promised, err := e.keys.promise(ctx, client, items)
	return Menu{Items: promised}, err
}

// prices is a menu at this rate, without promises, or why there is none.
func (e *Engine) prices(rate funding.Rate, base []lsp.OpeningFeeParams) ([]lsp.OpeningFeeParams, error) {
	switch {
	case rate.Stale:
		return nil, errStaleFees
	case rate.High:
		return nil, errHighFees
	}
	cover, err := e.cfg.Prices.Cover(rate.Rate)
	if err != nil {
		return nil, errkind.Wrap(errkind.Unavailable, err, errkind.Sentence(errDearMenu))
	}
	menu, err := lsp.PriceMenu(base, cover)
	if err == nil && len(menu) == 0 {
		return nil, errDearMenu
	}
	return menu, err
}

// newAgreement says why no agreement that needs a channel can be made now. What
// was promised is kept although the menu has changed since, even above the
// ceiling, as long as the fee bears the chain's.
func (e *Engine) newAgreement(fee ln.Msat, zeroConf bool) error {
	rate := e.fees.current()
	if rate.Stale {
		return errStaleFees
	}
	if reason := e.cfg.bears(rate, fee, zeroConf); !reason.IsZero() {
		return errkind.New(errkind.Unavailable, reason.Text)
	}
	return nil
}

// openingRate is the rate for the channel of a payment that has arrived, or why
// none is opened. An agreement is not undone because the estimate is old: then
// the last one that is known does.
func (e *Engine) openingRate(fee ln.Msat, zeroConf bool) (ln.FeeRateSatPerKW, lsp.Reason) {
	rate := e.fees.current()
	if !rate.Known() {
		return 0, lsp.Because(lsp.ReasonChainFees, "%s", errkind.Sentence(errStaleFees))
	}
	return rate.Rate, e.cfg.bears(rate, fee, zeroConf)
}

// refusedError carries a reason that the payment's story keeps as it is.
type refusedError struct{ lsp.Reason }

func (e refusedError) Error() string { return e.Text }

// bears says why a channel for which this fee was agreed is not opened at this
// rate; zero if it is. Every sentence tells when to try again.
func (c Config) bears(rate funding.Rate, fee ln.Msat, zeroConf bool) lsp.Reason {
	if rate.High && !zeroConf {
		// At the ceiling it may not confirm while the payment can be held.
		return lsp.Because(lsp.ReasonChainFees,
			"the chain asks %d sat/kw, more than the gateway's ceiling of %d, so a channel may not confirm in time: try again in about 10 minutes", rate.Asked, c.Fees.Ceiling)
	}
	if fee == 0 && c.OpenForLostRoom {
		// The operator opens these at its own cost.
		return lsp.Reason{}
	}
	most, bounded := c.Prices.MaxOpeningFee(fee)
	if !bounded {
		return lsp.Reason{}
	}
	cost, err := c.Prices.OpeningFee(rate.Rate)
	if err != nil || cost > most {
		return chainTooDear(cost, fee, c.Prices.TolerancePercent)
	}
	return lsp.Reason{}
}

func chainTooDear(cost ln.Sat, fee ln.Msat, percent uint32) lsp.Reason {
	return lsp.Because(lsp.ReasonChainFees,
		"the chain's fees have risen: opening the channel would cost %s, more than %d %% of the opening fee of %s that was agreed: try again in about 10 minutes, or with a new invoice at today's price", cost, percent, fee)
}

// FeeStatus is what the operator sees of fee rates and prices.
type FeeStatus struct {
	funding.Rate
	Floor, Ceiling ln.FeeRateSatPerKW
	// CoverSat is what the least opening fee covers now.
	CoverSat ln.Sat
	// Menu is what is offered now; Refusal says why nothing is.
	Menu    []lsp.OpeningFeeParams
	Refusal string
	Keys    []KeyStatus
}

func (e *Engine) feeStatus() FeeStatus {
	s := FeeStatus{Rate: e.fees.current(), Floor: e.cfg.Fees.Floor, Ceiling: e.cfg.Fees.Ceiling, Keys: e.keys.status()}
	if cover, err := e.cfg.Prices.Cover(s.Rate.Rate); err == nil {
		s.CoverSat = cover
	}
	base, err := e.menus.of("", e.opt.Now())
	if err == nil {
		s.Menu, err = e.prices(s.Rate, base)
	}
	if err != nil {
		s.Refusal = err.Error()
	}
	return s
}
