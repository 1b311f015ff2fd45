package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// The least lnd: before 0.21.1 a held HTLC whose channel went on chain could
// not be claimed, and before 0.21.2 a bad answer lost held HTLCs.
const (
	minMajor, minMinor, minPatch = 0, 21, 2
)

// neededTags are the build tags whose services Sluice calls. lnd's release
// binaries carry all of them.
func neededTags() []string {
	return []string{"chainrpc", "invoicesrpc", "peersrpc", "routerrpc", "signrpc", "walletrpc"}
}

func reach(f Facts) Finding {
	x := Finding{Check: "reach", Title: "lnd answers"}
	if f.NoInfo != nil {
		x.Level, x.Found = Fail, f.NoInfo.Error()
		if f.Silent {
			x.Found = "lnd answers calls but GetInfo: it has stopped processing blocks, or one of its parts is slow with the last"
			x.Fix = "Ask again in three minutes. If it is the same then, restart lnd: HTLCs on chain are not claimed while it is so."
			return x
		}
		x.Fix = "Start lnd, unlock its wallet, and check the address, certificate and macaroon given here."
		x.Lines = []string{"lncli unlock", "lncli getinfo"}
		return x
	}
	x.Level = OK
	x.Found = fmt.Sprintf("%s (%s) answers at %s", f.Info.PubKey, f.Info.Alias, f.Address)
	return x
}

func version(f Facts, _ Want) Finding {
	x := Finding{Check: "version", Title: "lnd's version"}
	if f.NoVers != nil {
		x.Level, x.Found, x.Fix = Warn, "lnd does not tell its version: "+f.NoVers.Error(), "Bake the macaroon again, with GetVersion among its rights."
		return x
	}
	x.Found = "lnd is " + f.Version.Text
	if f.Version.AtLeast(minMajor, minMinor, minPatch) {
		x.Level = OK
		return x
	}
	x.Level = Fail
	x.Fix = fmt.Sprintf("Upgrade lnd to %d.%d.%d or later: older ones cannot claim a held HTLC whose channel went on chain.", minMajor, minMinor, minPatch)
	return x
}

func buildTags(f Facts, _ Want) Finding {
	x := Finding{Check: "build_tags", Title: "lnd's build tags"}
	if f.NoVers != nil {
		x.Level, x.Found = Note, "unknown: "+f.NoVers.Error()
		return x
	}
	var missing []string
	for _, tag := range neededTags() {
		if !slices.Contains(f.Version.BuildTags, tag) {
			missing = append(missing, tag)
		}
	}
	if len(missing) == 0 {
		x.Level, x.Found = OK, "every service that is needed is built in"
		return x
	}
	x.Level, x.Found = Fail, "lnd was built without "+strings.Join(missing, ", ")
	x.Fix = "Use lnd's release binaries, or build it with these tags:"
	x.Lines = []string{`make install tags="` + strings.Join(neededTags(), " ") + `"`}
	return x
}

func network(f Facts, w Want) Finding {
	x := Finding{Check: "network", Level: OK, Title: "network", Found: "lnd is on " + f.Info.Network}
	if w.Network != "" && w.Network != f.Info.Network {
		x.Level = Fail
		x.Found += ", Sluice is meant for " + w.Network
		x.Fix = "Name the lnd of that network, or set Sluice's network to lnd's."
	}
	return x
}

// on says whether sluiced does what an extra's rights are for; known is false where it
// does not tell.
func (f Facts) on(e Extra) (on, known bool) {
	switch e.For {
	case lnd.ForSwaps:
		return f.Sluiced.Swaps, f.NoSluiced == nil
	case lnd.ForJoint:
		return f.Sluiced.Joint, f.NoSluiced == nil
	}
	return false, false
}

func rights(f Facts, _ Want) Finding {
	x := Finding{Check: "rights", Title: "rights of sluiced's macaroon"}
	missing, absent := slices.Clone(f.Missing), slices.Clone(f.Absent)
	var has, lacks []string
	for _, e := range f.Extras {
		switch on, known := f.on(e); {
		case on:
			missing, absent = append(missing, e.Missing...), append(absent, e.Absent...)
			has = append(has, e.For)
		case len(e.Missing)+len(e.Absent) == 0:
			has = append(has, e.For)
		case known:
			lacks = append(lacks, e.For)
		default:
			lacks = append(lacks, fmt.Sprintf("%s (needed if you set %s)", e.For, e.Setting))
		}
	}
	switch {
	case f.NoRights != nil:
		x.Level, x.Found = Warn, "unknown: "+f.NoRights.Error()
	case len(missing) > 0:
		x.Level, x.Found = Fail, "the macaroon may not call "+strings.Join(missing, ", ")
	case len(absent) > 0:
		x.Level, x.Found = Fail, "this lnd has no "+strings.Join(absent, ", ")
		x.Fix = "Use one of lnd's release binaries, 0.21.2 or later."
		return x
	default:
		x.Level, x.Found = OK, fmt.Sprintf("all %d calls that sluiced always makes are allowed", len(lnd.GatewayRights()))
		if len(has) > 0 {
			x.Found += "; those for " + strings.Join(has, ", ") + " as well"
		}
		if len(lacks) > 0 {
			x.Found += "; not those for " + strings.Join(lacks, ", ")
		}
		return x
	}
	x.Fix = "Bake the macaroon of what you have turned on: this prints the command, for your configuration. Put it in place of " + f.MacaroonFile + ", and restart sluiced."
	x.Lines = []string{"sluiced macaroon -c sluiced.toml"}
	return x
}

func chainSync(f Facts, _ Want) Finding {
	x := Finding{Check: "chain_sync", Level: OK, Title: "chain", Found: fmt.Sprintf("in sync at block %d", f.Info.BlockHeight)}
	if !f.Info.SyncedToChain {
		x.Level, x.Found = Fail, fmt.Sprintf("lnd has not caught up with the chain (block %d)", f.Info.BlockHeight)
		x.Fix = "Wait until it has, and check that its bitcoin node runs and is in sync itself: deadlines of held HTLCs are counted in blocks."
		x.Lines = []string{"lncli getinfo"}
	}
	return x
}

func graphSync(f Facts, _ Want) Finding {
	x := Finding{Check: "graph_sync", Level: OK, Title: "channel graph", Found: "in sync"}
	if !f.Info.SyncedToGraph {
		x.Level, x.Found = Warn, fmt.Sprintf("lnd has not caught up with the channel graph (%d peers)", f.Info.Peers)
		x.Fix = "Connect it to a few well-connected peers and wait. On-demand channels work without, payments through the network may not."
	}
	return x
}

// How far a block's time may be from the clock before one of them is suspect.
// The protocol allows headers two hours ahead; a gap of four hours between
// blocks is expected once in a thousand years of mainnet at most.
const (
	headerAhead  = 2 * time.Hour
	headerBehind = 4 * time.Hour
)

func clock(f Facts, _ Want) Finding {
	x := Finding{Check: "clock", Title: "clock"}
	ahead := f.Info.BestHeaderAt.Sub(f.Now)
	minutes := func(d time.Duration) string { return d.Round(time.Minute).String() }
	switch {
	case ahead > headerAhead:
		x.Level, x.Found = Fail, fmt.Sprintf("the newest block's time is %s ahead of this machine's clock, so the clock is slow", minutes(ahead))
		x.Fix = "Set the clock: offers, invoices and logins expire by it."
		x.Lines = []string{"timedatectl set-ntp true", "timedatectl status"}
	case -ahead > headerBehind && f.Info.Network != "regtest":
		x.Level, x.Found = Warn, fmt.Sprintf("the newest block is %s old: either the clock is fast or lnd gets no blocks", minutes(-ahead))
		x.Fix = "Check the clock, then lnd's bitcoin node."
		x.Lines = []string{"timedatectl status", "bitcoin-cli getblockchaininfo"}
	default:
		x.Level, x.Found = OK, "agrees with the newest block's time"
	}
	return x
}

// sortedPending counts pending channels by kind.
func sortedPending(list []ln.PendingChannel) (opening, closing int) {
	for _, p := range list {
		if p.Kind == ln.PendingOpen {
			opening++
		} else {
			closing++
		}
	}
	return opening, closing
}
