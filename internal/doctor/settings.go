package doctor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// Feature bits (BOLT 9): the even one is mandatory, the odd one optional.
const (
	featureWumbo     = 18
	featureScidAlias = 46
	featureZeroConf  = 50
	// featureLSPS is option_supports_lsps (bLIP-50), which has no mandatory form.
	featureLSPS = 729
)

func has(info ln.NodeInfo, even uint32) bool {
	_, mandatory := info.Features[even]
	_, optional := info.Features[even+1]
	return mandatory || optional
}

// normalNetworkCap is the largest channel without wumbo (BOLT 2: 2^24 sat,
// exclusive).
const normalNetworkCap ln.Sat = 1<<24 - 1

func requireInterceptor(f Facts, _ Want) Finding {
	x := Finding{Check: "require_interceptor", Level: OK, Title: "requireinterceptor", Found: "set: held HTLCs survive when sluiced is away"}
	if !f.Info.RequireInterceptor {
		x.Level = Fail
		x.Found = "not set: whenever sluiced's stream drops, lnd forwards every held HTLC at once, and they fail"
		x.Fix = "Add to lnd.conf and restart lnd. From then on lnd forwards nothing while no interceptor is attached."
		x.Lines = []string{"[Application Options]", "requireinterceptor=true"}
	}
	return x
}

func rejectHtlc(f Facts, _ Want) Finding {
	x := Finding{Check: "reject_htlc", Level: OK, Title: "rejecthtlc", Found: "not set"}
	value, known := f.Settings["rejecthtlc"]
	switch {
	case !known:
		x.Level, x.Found = Note, unread(f)
	case value == "true":
		x.Level, x.Found = Fail, "set: lnd refuses every forward"
		x.Fix = "Remove it from lnd.conf and restart lnd."
		x.Lines = []string{"rejecthtlc=false"}
	}
	return x
}

func finalResolutions(f Facts, _ Want) Finding {
	x := Finding{Check: "final_resolutions", Level: OK, Title: "store-final-htlc-resolutions", Found: "set: how a held HTLC ended can be looked up"}
	if !f.Info.StoreFinalResolutions {
		x.Level, x.Found = Warn, "not set: how a held HTLC ended while sluiced was away may stay unknown to the books"
		x.Fix = "Add to lnd.conf and restart lnd."
		x.Lines = []string{"[Application Options]", "store-final-htlc-resolutions=true"}
	}
	return x
}

func zeroConf(f Facts, _ Want) []Finding {
	lines := []string{"[protocol]", "protocol.option-scid-alias=true", "protocol.zero-conf=true"}
	judge := func(check, title string, bit uint32, without string) Finding {
		x := Finding{Check: check, Level: OK, Title: title, Found: fmt.Sprintf("on (feature bit %d or %d)", bit, bit+1)}
		if !has(f.Info, bit) {
			x.Level, x.Found = Fail, fmt.Sprintf("off (neither feature bit %d nor %d): %s", bit, bit+1, without)
			x.Fix, x.Lines = "Add to lnd.conf and restart lnd; zero-conf needs both.", lines
		}
		return x
	}
	return []Finding{
		judge("scid_alias", "SCID aliases", featureScidAlias, "the SCID of an invoice cannot be mapped to a new channel"),
		judge("zero_conf", "zero-conf channels", featureZeroConf, "no channel can be used before it confirms"),
	}
}

// lsps: the node's announcement is what GetInfo shows; what it says to peers
// (custom-init) is set beside it.
func lsps(f Facts, _ Want) Finding {
	x := Finding{Check: "lsps", Level: OK, Title: "known as an LSP", Found: fmt.Sprintf("yes (feature bit %d)", featureLSPS)}
	if _, on := f.Info.Features[featureLSPS]; !on {
		x.Level, x.Found = Warn, fmt.Sprintf("no (feature bit %d is off): wallets that look for one do not find it", featureLSPS)
		x.Fix = "Add to lnd.conf and restart lnd. Do not name 37913 in protocol.custom-message: lnd has it already, and would not start."
		x.Lines = []string{"[protocol]", "protocol.custom-init=729", "protocol.custom-nodeann=729"}
	}
	return x
}

func bigChannels(f Facts, w Want) Finding {
	x := Finding{Check: "big_channels", Level: OK, Title: "largest channel", Found: fmt.Sprintf("channels of up to %s need nothing special", w.MaxChannelSat)}
	if w.MaxChannelSat <= normalNetworkCap {
		return x
	}
	x.Found = "wumbo channels are on"
	if !has(f.Info, featureWumbo) {
		x.Level, x.Found = Fail, fmt.Sprintf("Sluice may open channels of %s, lnd only up to %s", w.MaxChannelSat, normalNetworkCap)
		x.Fix, x.Lines = "Add to lnd.conf and restart lnd, or lower Sluice's largest channel.", []string{"[protocol]", "protocol.wumbo-channels=true"}
	}
	return x
}

// unread says why a setting is not known and how to have it read.
func unread(f Facts) string {
	if f.NoSettings == nil {
		return "lnd does not name this setting"
	}
	return "not readable with this macaroon, which lacks GetDebugInfo (see rights; or name lnd's with --lnd-readonly-macaroon)"
}

// number reads a setting as lnd prints it: fees, even rates, as "1000 mSAT".
func number(f Facts, key string) (uint64, bool) {
	n, err := strconv.ParseUint(strings.TrimSuffix(f.Settings[key], " mSAT"), 10, 64)
	return n, err == nil
}

func defaultFees(f Facts, _ Want) Finding {
	lines := []string{"[Bitcoin]", "bitcoin.basefee=0", "bitcoin.feerate=0"}
	x := Finding{Check: "default_fees", Title: "default fees", Lines: lines}
	base, knownBase := number(f, "bitcoin.basefee")
	rate, knownRate := number(f, "bitcoin.feerate")
	const repair = "Sluice repairs the policy of its channels; with these lines the payments of that second need no repair. Before you set them, set the fees of your public channels one by one (lncli updatechanpolicy --chan_point)."
	switch {
	case !knownBase || !knownRate:
		x.Level, x.Found = Note, unread(f)+". If a wallet reconnects in the first second of a channel, lnd uses its default fees for it, and payments fail until the policy is set again"
		x.Fix = repair
	case base == 0 && rate == 0:
		x.Level, x.Found, x.Lines = OK, "zero: a new channel never charges more than was agreed", nil
	default:
		x.Level = Warn
		x.Found = fmt.Sprintf("%d msat and %d ppm: lnd uses them for a new channel whose wallet reconnects in its first second, and payments fail until the policy is set again", base, rate)
		x.Fix = repair
	}
	return x
}

func timeLockDelta(f Facts, w Want) Finding {
	x := Finding{Check: "timelock_delta", Title: "bitcoin.timelockdelta"}
	delta, known := number(f, "bitcoin.timelockdelta")
	switch {
	case !known:
		x.Level, x.Found = Note, fmt.Sprintf("%s. It must not exceed the %d blocks that Sluice puts into route hints", unread(f), w.CltvDelta)
	case delta > uint64(w.CltvDelta):
		x.Level, x.Found = Fail, fmt.Sprintf("lnd asks for %d blocks, Sluice's route hints give %d: every on-demand payment would fail", delta, w.CltvDelta)
		x.Fix = "Set Sluice's CLTV delta to lnd's, or lower lnd's and restart it."
		x.Lines = []string{"[Bitcoin]", fmt.Sprintf("bitcoin.timelockdelta=%d", w.CltvDelta)}
	default:
		x.Level, x.Found = OK, fmt.Sprintf("%d blocks, and Sluice's route hints give %d", delta, w.CltvDelta)
	}
	return x
}

func holdExpiryDelta(f Facts, w Want) Finding {
	x := Finding{Check: "hold_expiry_delta", Title: "invoices.holdexpirydelta"}
	delta, known := number(f, "invoices.holdexpirydelta")
	switch {
	case !known:
		x.Level, x.Found = Note, fmt.Sprintf("%s. Sluice takes it for %d blocks, lnd's default: lnd cancels an accepted hold invoice so long before it expires", unread(f), w.HoldExpiryDelta)
	case delta > uint64(w.HoldExpiryDelta) && !slices.Contains(f.Missing, lnd.SettingsMethod):
		x.Level, x.Found = Warn, fmt.Sprintf("lnd cancels accepted hold invoices %d blocks before they expire. Sluice is set to %d and goes by lnd's word, so payments that were agreed before lnd was set so may be given back", delta, w.HoldExpiryDelta)
		x.Fix = "Nothing, or set the same in Sluice, or in lnd.conf:"
		x.Lines = []string{"[invoices]", fmt.Sprintf("invoices.holdexpirydelta=%d", w.HoldExpiryDelta)}
	case delta > uint64(w.HoldExpiryDelta):
		x.Level, x.Found = Fail, fmt.Sprintf("lnd cancels accepted hold invoices %d blocks before they expire, Sluice counts on %d: it could pay a wallet for money that lnd gives back", delta, w.HoldExpiryDelta)
		x.Fix = "Bake the macaroon anew (see rights), so that Sluice reads lnd's; or set the same in Sluice, or in lnd.conf:"
		x.Lines = []string{"[invoices]", fmt.Sprintf("invoices.holdexpirydelta=%d", w.HoldExpiryDelta)}
	default:
		x.Level, x.Found = OK, fmt.Sprintf("%d blocks, as Sluice counts on", delta)
	}
	return x
}

// maxPing is how long lnd may take to notice that a frozen client is gone; a
// standby has to wait for it.
const maxPing = 10 * time.Second

func pings(f Facts, _ Want) Finding {
	x := Finding{Check: "grpc_pings", Title: "gRPC pings", Lines: []string{"[grpc]", "grpc.server-ping-time=2s", "grpc.server-ping-timeout=4s"}}
	x.Fix = "Add to lnd.conf and restart lnd: a standby can take over only after lnd has dropped a frozen stream."
	every, err1 := time.ParseDuration(f.Settings["grpc.server-ping-time"])
	timeout, err2 := time.ParseDuration(f.Settings["grpc.server-ping-timeout"])
	switch {
	case err1 != nil || err2 != nil:
		x.Level, x.Found = Note, unread(f)+". By default lnd keeps the stream of a frozen sluiced for 80 s"
	case every+timeout > maxPing:
		x.Level, x.Found = Warn, fmt.Sprintf("lnd keeps the stream of a frozen sluiced for up to %s", every+timeout)
	default:
		x.Level, x.Found, x.Fix, x.Lines = OK, fmt.Sprintf("a frozen sluiced is dropped after at most %s", every+timeout), "", nil
	}
	return x
}

// minSlots is how many channel-less peers a gateway should take: every new
// wallet is one until its first channel.
const minSlots = 1000

func restrictedSlots(f Facts, _ Want) Finding {
	x := Finding{Check: "restricted_slots", Title: "num-restricted-slots", Lines: []string{"[Application Options]", fmt.Sprintf("num-restricted-slots=%d", minSlots)}}
	x.Fix = "Add to lnd.conf and restart lnd: wallets without a channel share these slots."
	slots, known := number(f, "num-restricted-slots")
	switch {
	case !known:
		x.Level, x.Found = Note, unread(f)+". By default lnd takes 100 peers without channels, so that further new wallets cannot connect"
	case slots < minSlots:
		x.Level, x.Found = Warn, fmt.Sprintf("%d peers without channels at most: further new wallets cannot connect", slots)
	default:
		x.Level, x.Found, x.Fix, x.Lines = OK, fmt.Sprintf("%d peers without channels", slots), "", nil
	}
	return x
}

func acceptor(f Facts, _ Want) Finding {
	x := Finding{Check: "acceptor", Level: Note, Title: "who may open channels to this node"}
	var now []string
	for _, key := range []string{"minchansize", "maxpendingchannels", "rejectpush"} {
		if value, known := f.Settings[key]; known {
			now = append(now, key+"="+value)
		}
	}
	x.Found = "While no sluiced is attached lnd decides by its own settings alone, and accepts ordinary channels from anybody (zero-conf ones from nobody)"
	if len(now) > 0 {
		x.Found += "; they are " + strings.Join(now, ", ")
	}
	x.Fix = "Set the least channel that you would take from a stranger, and how many may be pending per peer."
	x.Lines = []string{"[Application Options]", "minchansize=1000000", "maxpendingchannels=2"}
	if f.NoSluiced != nil {
		x.Level = Warn
		x.Found += ". Now none is attached, as far as this doctor can see"
	}
	return x
}
