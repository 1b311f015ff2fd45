package main

import (
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// priceFacts are the lines of the overview about what the chain asks and what
// is asked of wallets for it.
func priceFacts(t *cli.Table, s *lspv1.GetStatusResponse, now time.Time) {
	t.Row("Fee rate", feeRate(s))
	t.Row("Offers", offers(s))
	if keys := promiseKeys(s.GetPromiseKeys(), now); keys != "" {
		t.Row("Offer keys", keys)
	}
}

// perKW shows a rate per kiloweight, as lnd counts, and per virtual byte, as
// people do.
func perKW(rate uint64) string {
	return fmt.Sprintf("%s sat/kw (%d.%02d sat/vB)", cli.Group(rate), rate*4/1000, rate*4%1000/10)
}

func feeRate(s *lspv1.GetStatusResponse) string {
	asked, ceiling := s.GetFeeRateEstimateSatPerKw(), s.GetFeeRateCeilingSatPerKw()
	if asked == 0 {
		return "UNKNOWN: lnd has given no estimate yet"
	}
	text := perKW(s.GetFeeRateSatPerKw()) + ", estimated " + age(time.Duration(s.GetFeeRateAgeMs())*time.Millisecond)
	switch {
	case s.GetFeeRateStale():
		return text + ", STALE: lnd gives no new estimate"
	case s.GetFeeRateAboveCeiling():
		return text + fmt.Sprintf(", the CEILING: the network asks %s", perKW(asked))
	case asked < s.GetFeeRateSatPerKw():
		text += ", the floor"
	}
	return text + "; the ceiling is " + perKW(ceiling)
}

// age is in minutes, so that an overview that is watched does not change by
// the second.
func age(d time.Duration) string {
	if d < time.Minute {
		return "less than a minute ago"
	}
	if d < 2*time.Hour {
		return fmt.Sprintf("%d min ago", d/time.Minute)
	}
	if d < 48*time.Hour {
		return fmt.Sprintf("%d h ago", d/time.Hour)
	}
	return fmt.Sprintf("%d days ago", d/(24*time.Hour))
}

func offers(s *lspv1.GetStatusResponse) string {
	if len(s.GetMenu()) == 0 {
		return "NONE: " + cli.Clean(s.GetMenuRefusal())
	}
	if s.GetOpeningCostCoveredSat() == 0 {
		return "at the prices configured, whatever the chain asks"
	}
	return "the least fee covers " + cli.Sat(s.GetOpeningCostCoveredSat()) + " of chain fees"
}

func promiseKeys(keys []*lspv1.PromiseKey, now time.Time) string {
	for _, k := range keys {
		if !k.GetSigns() {
			continue
		}
		text := "promised under key " + fmt.Sprint(k.GetVersion()) + ", made " + age(max(0, now.Sub(time.UnixMilli(k.GetMadeMs()))))
		if n := len(keys) - 1; n > 0 {
			text += fmt.Sprintf("; %d more accepted", n)
		}
		return text
	}
	return ""
}

func menuTable(p *cli.Printer, menu []*lspv1.OpeningFeeParams) {
	if len(menu) == 0 {
		return
	}
	p.Printf("\n")
	t := cli.NewTable("MENU", ">LEAST FEE", ">PPM", ">PAYMENTS FROM", ">TO", ">OPEN FOR")
	for i, m := range menu {
		t.Row(fmt.Sprint(i+1), cli.MsatAsSat(m.GetMinFeeMsat()), cli.Group(m.GetProportionalPpm()),
			cli.MsatAsSat(m.GetMinPaymentSizeMsat()), cli.MsatAsSat(m.GetMaxPaymentSizeMsat()), cli.Group(uint64(m.GetMinLifetimeBlocks()))+" blocks")
	}
	p.Table(t)
}
