package doctor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// coins judges whether channels can be opened now. One coin carries a chain of opens
// between two blocks, each on the change of the one before; with several, no open hangs
// on another's.
func coins(f Facts, w Want) Finding {
	x := Finding{Check: "coins", Title: "confirmed coins"}
	if f.NoCoins != nil {
		x.Level, x.Found = Note, "unknown: "+f.NoCoins.Error()
		return x
	}
	useful, sum := 0, ln.Sat(0)
	for _, c := range f.Coins {
		total, err := sum.Add(c.AmountSat)
		if err != nil {
			x.Level, x.Found = Fail, "lnd's coins sum up to more than can exist: "+err.Error()
			x.Fix = "Do no business with this lnd: whatever answers here is not one."
			return x
		}
		sum = total
		if c.AmountSat >= w.MinCoinSat {
			useful++
		}
	}
	x.Found = fmt.Sprintf("%d coins with %s; %d of them hold %s or more, enough for a channel", len(f.Coins), sum, useful, w.MinCoinSat)
	switch {
	case useful == 0:
		x.Level = Fail
		x.Fix = "Send coins to the gateway and let them confirm: without one no channel can be opened."
		x.Lines = []string{"lncli newaddress p2tr"}
	case useful < w.ConcurrentOpens && w.Cut && enough(sum, w):
		x.Level = Note
		x.Found += fmt.Sprintf(". Sluiced cuts them into %d by itself", w.ConcurrentOpens)
	case useful < w.ConcurrentOpens && w.Cut:
		x.Level = Warn
		x.Found += fmt.Sprintf(". Sluiced would cut them into %d, for which they are too few", w.ConcurrentOpens)
		x.Fix = "Send coins to the gateway, or want fewer (lsp.pool_coins, lsp.pool_coin_sat)."
		x.Lines = []string{"lncli newaddress p2tr"}
	case useful < w.ConcurrentOpens:
		x.Level = Warn
		x.Fix = fmt.Sprintf("Channels that are opened between two blocks from one coin all hang on the first, lsp.max_unconfirmed_depth and one more at most: have %d, by splitting one, or by lsp.pool_coins.", w.ConcurrentOpens)
		x.Lines = []string{fmt.Sprintf("lncli sendmany '{\"ADDRESS1\": %[1]d, \"ADDRESS2\": %[1]d}'", share(sum, w))}
	default:
		x.Level = OK
	}
	return x
}

// enough says that the coins can be cut into as many as are wanted.
func enough(sum ln.Sat, w Want) bool {
	return w.MinCoinSat > 0 && uint64(sum/w.MinCoinSat) >= uint64(max(w.ConcurrentOpens, 0)) //nolint:gosec // not negative
}

// share is an equal part of the sum for each concurrent open, in round
// figures and after some fee, but never below a useful coin.
func share(sum ln.Sat, w Want) ln.Sat {
	part := sum / ln.Sat(max(w.ConcurrentOpens, 1)+1) //nolint:gosec // a small count
	return max(part-part%10_000, w.MinCoinSat)
}

// reserve judges what is left to bump commitments with. lnd's own rule counts
// public channels only.
func reserve(f Facts, w Want) Finding {
	x := Finding{Check: "reserve", Title: "reserve for force-closes"}
	if err := errors.Join(f.NoChannels, f.NoBalance); err != nil {
		x.Level, x.Found = Note, "unknown: "+err.Error()
		return x
	}
	need := min(max(w.MinReserveSat, ln.Sat(len(f.Channels))*w.ReservePerChannelSat), w.MaxReserveSat) + w.KeepSat
	x.Found = fmt.Sprintf("%d channels need %s to bump their commitments with (lnd itself keeps %s, ignoring private channels); the wallet has %s confirmed",
		len(f.Channels), need, f.Balance.ReservedSat, f.Balance.ConfirmedSat)
	switch {
	case f.Balance.ConfirmedSat < need:
		x.Level = Fail
		x.Fix = "Send coins to the gateway: without a reserve a force-close cannot be hurried, and held HTLCs may be lost with it."
		x.Lines = []string{"lncli newaddress p2tr"}
	case f.Balance.ConfirmedSat < 2*need:
		x.Level = Warn
		x.Fix = "Little is left for channels beyond the reserve: send coins to the gateway."
		x.Lines = []string{"lncli newaddress p2tr"}
	default:
		x.Level = OK
	}
	return x
}

// maxPendingInbound is where lnd refuses every further inbound open.
const maxPendingInbound = 50

func pendingChannels(f Facts, _ Want) Finding {
	x := Finding{Check: "pending_channels", Title: "pending channels"}
	if f.NoPending != nil {
		x.Level, x.Found = Note, "unknown: "+f.NoPending.Error()
		return x
	}
	opening, closing := sortedPending(f.Pending)
	x.Level, x.Found = OK, fmt.Sprintf("%d opening, %d closing", opening, closing)
	if opening > maxPendingInbound/2 {
		x.Level = Warn
		x.Found += fmt.Sprintf(": lnd refuses inbound channels above %d pending ones", maxPendingInbound)
		x.Fix = "See which hang. sluiced hurries its own funding transactions by itself, up to lsp.fee_ceiling_sat_per_kw; another's can be hurried by its change. Never add --immediate: it can stop lnd's sweeper for good (see the runbook)."
		x.Lines = []string{"lncli pendingchannels", "lncli wallet bumpfee --conf_target 6 CHANGE_TXID:INDEX"}
	}
	return x
}

// deadLinks looks for channels that lnd gave up while their peer is connected,
// and for HTLCs that should be gone from those that work.
func deadLinks(f Facts, _ Want) Finding {
	x := Finding{Check: "dead_links", Title: "links"}
	if err := errors.Join(f.NoChannels, f.NoConnected); err != nil {
		x.Level, x.Found = Note, "unknown: "+err.Error()
		return x
	}
	var dead, near []string
	for _, c := range f.Channels {
		if !c.Active && slices.Contains(f.Connected, c.Peer) {
			dead = append(dead, c.Outpoint.String()+" with "+c.Peer.String())
		}
		for _, h := range c.Htlcs {
			if c.Active && f.NoInfo == nil && h.NearExpiry(f.Info.BlockHeight) {
				near = append(near, fmt.Sprintf("HTLC %s in %s with %s, expires at height %d (now %d)", h.Hash, c.Outpoint, c.Peer, h.Expiry, f.Info.BlockHeight))
			}
		}
	}
	switch {
	case len(dead) == 0 && len(near) > 0:
		x.Level, x.Found = Warn, "near their expiry: "+strings.Join(near, "; ")
		x.Fix = "If they stay, the channels are closed by force. Sluiced connects such peers anew: see the runbook, \"An HTLC nears its expiry\"."
		x.Lines = []string{"lncli listchannels", "lncli disconnect PEER", "lncli connect PEER@HOST"}
		return x
	case len(dead) == 0:
		x.Level, x.Found = OK, "every channel of a connected peer is active"
		return x
	}
	x.Level, x.Found = Warn, "inactive though the peer is connected: "+strings.Join(dead, ", ")
	x.Fix = "Sluiced connects such peers anew. One that stays so for an hour is lost for lnd, and waits for its HTLCs to expire: see the runbook, \"A channel stays inactive\"."
	x.Lines = []string{"lncli listchannels --inactive_only", "lncli listpeers"}
	return x
}

func sluiced(f Facts, _ Want) Finding {
	x := Finding{Check: "sluiced", Level: OK, Title: "sluiced"}
	switch {
	case f.NoSluiced != nil:
		x.Level, x.Found = Note, f.NoSluiced.Error()
	case f.Sluiced.GatewayNodeKey != f.Info.PubKey:
		x.Level = Fail
		x.Found = fmt.Sprintf("sluiced serves another node, %s", f.Sluiced.GatewayNodeKey)
		x.Fix = "Name the lnd that sluiced is attached to, or the sluiced of this lnd (--server)."
	case behind(f.Info.BlockHeight, f.Sluiced.BlockHeight) > 1:
		x.Level = Warn
		x.Found = fmt.Sprintf("sluiced is at block %d, lnd at %d", f.Sluiced.BlockHeight, f.Info.BlockHeight)
		x.Fix = "Look at sluiced's log: deadlines are counted in blocks."
	case !f.Sluiced.Accepting:
		x.Level, x.Found = Note, "running; new business is stopped: "+f.Sluiced.StoppedReason
		x.Fix, x.Lines = "When all is well, accept it again.", []string{"sluicectl business start"}
	default:
		x.Found = "running, and accepts new business"
	}
	return x
}

// database tells whether sluiced works with an older copy of its database.
func database(f Facts, _ Want) Finding {
	x := Finding{Check: "database", Level: OK, Title: "sluiced's database"}
	switch {
	case f.NoSluiced != nil:
		x.Level, x.Found = Note, "unknown: "+f.NoSluiced.Error()
	case f.Sluiced.RestoredReason != "":
		x.Level = Warn
		x.Found = "it is an older copy of itself, and held payments of before are only resumed, never failed: " + f.Sluiced.RestoredReason
		x.Fix = `Follow the runbook, "The database was restored from an older copy", and restart sluiced once nothing of before is under way.`
		x.Lines = []string{"sluicectl payments --open", "sluicectl reconcile"}
	default:
		x.Found = "it agrees with what lnd knows"
	}
	return x
}

// judgedBy says whose settings lnd was held against.
func judgedBy(f Facts, w Want) Finding {
	x := Finding{Check: "settings", Level: OK, Title: "Sluice's settings"}
	how := fmt.Sprintf("channels of up to %s, a CLTV delta of %d blocks, %d opens before the next block", w.MaxChannelSat, w.CltvDelta, w.ConcurrentOpens)
	if w.Said {
		x.Found = "lnd is judged by sluiced's: " + how
		return x
	}
	x.Level, x.Found = Note, "sluiced does not say how it is set, so lnd is judged by its defaults, and by what was named here: "+how
	x.Fix = "Ask again when sluiced runs, or name what you set otherwise (sluicectl doctor --help)."
	return x
}

// offers judges whether sluiced knows what the chain asks, and can offer
// channels at it.
func offers(f Facts, _ Want) Finding {
	x := Finding{Check: "offers", Level: OK, Title: "fee rate and offers"}
	if f.NoSluiced != nil {
		x.Level, x.Found = Note, "unknown: "+f.NoSluiced.Error()
		return x
	}
	s := f.Sluiced
	x.Found = fmt.Sprintf("lnd estimates %d sat/kw, the ceiling is %d", s.FeeRateSatPerKW, s.FeeCeilingSatPerKW)
	switch {
	case s.FeeRateSatPerKW == 0:
		x.Level, x.Found = Warn, "lnd has given sluiced no fee estimate yet, so no channels are offered"
		x.Fix, x.Lines = "See whether lnd's backend or fee source gives one.", []string{"lncli wallet estimatefeerate 6"}
	case s.FeeRateStale:
		x.Level, x.Found = Warn, fmt.Sprintf("lnd's last fee estimate is %s old, so no channels are offered", s.FeeRateAge.Truncate(time.Second))
		x.Fix, x.Lines = "See whether lnd's backend or fee source gives one.", []string{"lncli wallet estimatefeerate 6"}
	case s.FeeRateSatPerKW > s.FeeCeilingSatPerKW:
		x.Level = Warn
		x.Found += ": no channels are offered until it falls"
		x.Fix = "Wait, or raise lsp.fee_ceiling_sat_per_kw if you would pay more, and restart sluiced."
	case s.NoOffers != "":
		x.Level, x.Found = Warn, x.Found+": "+s.NoOffers
		x.Fix = "Look at the menu: at this rate no payment is large enough for its fee (lsp.menu, lsp.fee_margin_percent)."
	}
	return x
}

func behind(lnd, ours uint32) uint32 { return max(lnd, ours) - min(lnd, ours) }
