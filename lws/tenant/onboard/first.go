package onboard

import "github.com/sluice-lsp/sluice/internal/errkind"

// FirstChannels is what an operator lets a new node open with the gateway.
type FirstChannels struct {
	// Count of channels that there shall be, of Sat each.
	Count int
	Sat   int64
}

const (
	minChannelSat = 20_000
	// openingSat is kept besides for each: the funding's fee, and what lnd keeps back
	// for the fees of closing a channel.
	openingSat       = 20_000
	maxFirstChannels = 10
	maxChannelSat    = 1_000_000_000
)

// Check says what is wrong with it.
func (f FirstChannels) Check() error {
	switch {
	case f.Count < 0 || f.Count > maxFirstChannels:
		return errkind.Newf(errkind.Invalid, "First channels: 0 to %d.", maxFirstChannels)
	case f.Count > 0 && (f.Sat < minChannelSat || f.Sat > maxChannelSat):
		return errkind.Newf(errkind.Invalid, "A first channel has %d to %d sat.", minChannelSat, maxChannelSat)
	}
	return nil
}

// Plan says how many are opened now, with have channels there, pending ones included, and
// coins of confirmedSat; and how many sats are missing for the rest.
func (f FirstChannels) Plan(have int, confirmedSat int64) (open int, missingSat int64) {
	wanted := max(0, f.Count-have)
	each := f.Sat + openingSat
	open = int(min(int64(wanted), max(0, confirmedSat)/each))
	return open, max(0, int64(wanted)*each-confirmedSat)
}
