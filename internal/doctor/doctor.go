// Package doctor judges whether a gateway's lnd is fit for Sluice, and names
// the fix for what is not: the line of lnd.conf or the command.
//
// It promises that judging is a pure function of Facts, so that every verdict
// can be tested and repeated; that what could not be learned is said to be
// unknown and never taken for good; and that gathering facts changes nothing
// at lnd.
package doctor

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// Level is how bad a finding is, as stable text.
type Level string

// The levels. Note is for what could not be learned or only needs to be known.
// Fail is for what loses money or keeps Sluice from working.
const (
	OK   Level = "ok"
	Note Level = "note"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is the verdict of one check.
type Finding struct {
	// Check is the check's stable name, for programs.
	Check string `json:"check"`
	Level Level  `json:"level"`
	// Title is what was looked at, in a few words.
	Title string `json:"title"`
	// Found says how it is, in a sentence.
	Found string `json:"found"`
	// Fix says what to do; Lines are the lines of lnd.conf or the commands,
	// exactly as they are to be typed.
	Fix   string   `json:"fix,omitempty"`
	Lines []string `json:"lines,omitempty"`
}

// Want is how Sluice is or will be configured, as far as lnd must agree.
type Want struct {
	// Network that lnd must be on; empty takes any.
	Network string
	// CltvDelta stands in route hints; lnd enforces bitcoin.timelockdelta.
	CltvDelta uint32
	// HoldExpiryDelta is taken for lnd's invoices.holdexpirydelta.
	HoldExpiryDelta uint32
	// MaxChannelSat is the largest channel to be opened.
	MaxChannelSat ln.Sat
	// The reserve kept for anchors: so much per channel, within bounds.
	ReservePerChannelSat, MinReserveSat, MaxReserveSat ln.Sat
	// ConcurrentOpens is how many channels shall be opened between two blocks without
	// one hanging on another: so many coins; MinCoinSat is the least useful one.
	ConcurrentOpens int
	MinCoinSat      ln.Sat
	// KeepSat is kept beside the reserve.
	KeepSat ln.Sat
	// Cut says that sluiced cuts the wallet's coins by itself.
	Cut bool
	// Said says that sluiced told all this of itself.
	Said bool
}

// FundingFeeSat is what a coin should hold beside a channel: the funding transaction's
// fee, at rates that are not extreme.
const FundingFeeSat ln.Sat = 20_000

// DefaultWant suits sluiced's defaults.
func DefaultWant() Want {
	return Want{
		CltvDelta: 80, HoldExpiryDelta: 18, MaxChannelSat: 16_000_000,
		ReservePerChannelSat: 10_000, MinReserveSat: 10_000, MaxReserveSat: 100_000,
		ConcurrentOpens: 4, MinCoinSat: 100_000 + FundingFeeSat,
	}
}

// Want is what to judge by: what sluiced says of itself, and its defaults where it does
// not answer or is too old to say.
func (f Facts) Want() Want {
	if f.NoSluiced != nil || f.Sluiced.Settings == nil {
		return DefaultWant()
	}
	w := *f.Sluiced.Settings
	w.Said = true
	return w
}

// Unknown is why a fact is missing; nil when it is known.
type Unknown = error

// Facts is what was learned. A fact whose Unknown is set is not looked at.
type Facts struct {
	Now     time.Time
	Address string

	Info   ln.NodeInfo
	NoInfo Unknown
	// Silent: GetInfo is not answered, other calls are (package pulse).
	Silent  bool
	Version lnd.Version
	NoVers  Unknown

	Channels   []ln.Channel
	NoChannels Unknown
	// Connected are the peers that are online.
	Connected   []ln.PubKey
	NoConnected Unknown
	Pending     []ln.PendingChannel
	NoPending   Unknown

	// Coins are confirmed and not leased.
	Coins     []ln.Coin
	NoCoins   Unknown
	Balance   ln.Balances
	NoBalance Unknown

	// Missing are methods that sluiced always needs and the macaroon may not call;
	// Absent are those that this lnd does not have.
	Missing, Absent []string
	// Extras say the same of what is needed only while it is turned on.
	Extras   []Extra
	NoRights Unknown
	// MacaroonFile is where sluiced's macaroon for lnd is.
	MacaroonFile string

	// Settings of lnd by their names in lnd.conf.
	Settings   lnd.Settings
	NoSettings Unknown

	Sluiced   Sluiced
	NoSluiced Unknown
}

// Extra is what the macaroon lacks for something that an operator may turn on.
type Extra struct {
	// For is one of lnd's names (lnd.ForSwaps), Setting what turns it on.
	For, Setting    string
	Missing, Absent []string
}

// Sluiced is what the daemon says of itself.
type Sluiced struct {
	GatewayNodeKey ln.PubKey
	Accepting      bool
	StoppedReason  string
	BlockHeight    uint32
	// FeeRateSatPerKW is lnd's last estimate as sluiced has it; 0 without any.
	FeeRateSatPerKW, FeeCeilingSatPerKW ln.FeeRateSatPerKW
	FeeRateAge                          time.Duration
	FeeRateStale                        bool
	// Swaps and Joint: it offers swaps, and joint fundings.
	Swaps, Joint bool
	// NoOffers is why no channels are offered; empty while they are.
	NoOffers string
	// RestoredReason is how sluiced recognised its database as an older copy of itself;
	// empty while it does not distrust it.
	RestoredReason string
	// Settings is how it is set; nil if it does not say.
	Settings *Want
}

// Examine runs every check. When lnd does not answer, that is the only
// finding.
func Examine(f Facts, w Want) []Finding {
	if f.NoInfo != nil {
		return []Finding{reach(f)}
	}
	out := []Finding{reach(f)}
	for _, check := range checks() {
		out = append(out, check(f, w)...)
	}
	return out
}

// Worst is the gravest level among findings.
func Worst(findings []Finding) Level {
	grave := map[Level]int{OK: 0, Note: 1, Warn: 2, Fail: 3}
	worst := OK
	for _, f := range findings {
		if grave[f.Level] > grave[worst] {
			worst = f.Level
		}
	}
	return worst
}

func checks() []func(Facts, Want) []Finding {
	one := func(check func(Facts, Want) Finding) func(Facts, Want) []Finding {
		return func(f Facts, w Want) []Finding { return []Finding{check(f, w)} }
	}
	return []func(Facts, Want) []Finding{
		one(version), one(buildTags), one(network), one(rights),
		one(chainSync), one(graphSync), one(clock),
		one(requireInterceptor), one(rejectHtlc), one(finalResolutions), zeroConf, one(lsps), one(bigChannels),
		one(defaultFees), one(timeLockDelta), one(holdExpiryDelta), one(pings), one(restrictedSlots),
		one(coins), one(reserve), one(pendingChannels), one(deadLinks), one(acceptor), one(sluiced), one(database), one(judgedBy), one(offers),
	}
}
