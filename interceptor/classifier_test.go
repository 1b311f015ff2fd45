package interceptor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

func offerAt(channel ln.SCID, index uint64) ln.InterceptedHtlc {
	return ln.InterceptedHtlc{
		Key:            ln.CircuitKey{ChanID: channel, HtlcID: index},
		IncomingExpiry: 200, AutoFailHeight: 181,
	}
}

func listed(c *Classifier, channel ln.SCID, indexes ...uint64) *Listing {
	ch := ln.Channel{ChanID: channel}
	for _, i := range indexes {
		ch.Htlcs = append(ch.Htlcs, ln.ChannelHtlc{Incoming: true, Index: i, LockedIn: true})
	}
	return NewListing(c.Begin(), []ln.Channel{ch})
}

func TestOrdinaryForwardsNeedOneListingPerChannelAndStream(t *testing.T) {
	c := NewClassifier()
	c.Baseline(listed(c, 1))
	require.Equal(t, VerdictNeedListing, c.Offer(offerAt(1, 0), false))
	require.Equal(t, VerdictNew, c.Listed(offerAt(1, 0), Known{}, listed(c, 1, 0)))
	c.Resuming(offerAt(1, 0).Key)
	for i := uint64(1); i < 50; i++ {
		require.Equal(t, VerdictNew, c.Offer(offerAt(1, i), false))
		c.Resuming(offerAt(1, i).Key)
	}
	// A flap offers a resumed one again.
	require.Equal(t, VerdictNeedListing, c.Offer(offerAt(1, 7), false))
	require.Equal(t, VerdictEnding, c.Listed(offerAt(1, 7), Known{}, listed(c, 1, 7)))
	require.Equal(t, VerdictPhantom, c.Listed(offerAt(1, 7), Known{Recorded: true}, listed(c, 1, 8)), "a row does not exempt")

	c.Connected()
	c.Baseline(listed(c, 1, 7))
	require.Equal(t, VerdictNeedListing, c.Offer(offerAt(1, 50), false))
}

// An HTLC that was held before the stream began says nothing about higher
// indexes: lnd failed those itself while nobody was attached, and offers
// their phantoms later.
func TestAnOlderHeldHtlcDoesNotVouchForPhantomsAboveIt(t *testing.T) {
	c := NewClassifier()
	c.Baseline(listed(c, 1))
	c.Connected()
	c.Baseline(listed(c, 1, 9))
	require.Equal(t, VerdictNeedListing, c.Offer(offerAt(1, 9), false))
	require.Equal(t, VerdictNew, c.Listed(offerAt(1, 9), Known{}, listed(c, 1, 9)))
	require.Equal(t, VerdictNeedListing, c.Offer(offerAt(1, 11), false))
	require.Equal(t, VerdictPhantom, c.Listed(offerAt(1, 11), Known{}, listed(c, 1, 9)))
}

func TestInheritedHtlcsAreOnlyResumed(t *testing.T) {
	c := NewClassifier()
	require.Equal(t, VerdictNeedListing, c.Listed(offerAt(1, 3), Known{}, listed(c, 1, 3)), "no baseline yet")
	c.Baseline(listed(c, 1, 3, 4))
	require.Equal(t, VerdictMayBeEnding, c.Listed(offerAt(1, 3), Known{}, listed(c, 1, 3, 4)))
	require.Equal(t, VerdictResumeOnly, c.Listed(offerAt(1, 3), Known{Waited: true}, listed(c, 1, 3, 4)))
	require.Equal(t, VerdictRecorded, c.Listed(offerAt(1, 4), Known{Recorded: true}, listed(c, 1, 3, 4)))
	c.Prune(listed(c, 1, 4))
	require.False(t, c.MayHaveMoved(offerAt(1, 3).Key))
	require.True(t, c.MayHaveMoved(offerAt(1, 4).Key))
}

func TestAListingBegunBeforeAResumeDoesNotForgetIt(t *testing.T) {
	c := NewClassifier()
	c.Baseline(listed(c, 1))
	early := listed(c, 1)
	c.Resuming(offerAt(1, 0).Key)
	c.Prune(early)
	require.True(t, c.MayHaveMoved(offerAt(1, 0).Key))
	c.Prune(listed(c, 1))
	require.False(t, c.MayHaveMoved(offerAt(1, 0).Key))
}

func TestOnChainAndUnlistedAreSettleOnly(t *testing.T) {
	c := NewClassifier()
	c.Baseline(listed(c, 1, 0))
	onChain := offerAt(1, 0)
	onChain.AutoFailHeight = onChain.IncomingExpiry
	require.Equal(t, VerdictSettleOnly, c.Offer(onChain, true))
	require.Equal(t, VerdictSettleOnly, c.Listed(onChain, Known{Recorded: true}, listed(c, 1, 0)))
	require.Equal(t, VerdictSettleOnly, c.Listed(offerAt(2, 0), Known{Recorded: true}, listed(c, 1, 0)))
	c.Resuming(ln.CircuitKey{ChanID: 2})
	c.Prune(listed(c, 1))
	require.True(t, c.MayHaveMoved(ln.CircuitKey{ChanID: 2}), "an unlisted channel proves nothing")
}

func TestAChannelIsKnownUnderEachName(t *testing.T) {
	c := NewClassifier()
	zeroConf := ln.Channel{
		ChanID: 16_000_000 << 40, ConfirmedSCID: 700 << 40, Aliases: []ln.SCID{16_000_000 << 40, 16_000_001 << 40},
		Htlcs: []ln.ChannelHtlc{{Incoming: true, Index: 5}},
	}
	l := NewListing(c.Begin(), []ln.Channel{zeroConf})
	c.Baseline(l)
	for _, name := range []ln.SCID{zeroConf.ChanID, zeroConf.ConfirmedSCID, zeroConf.Aliases[1]} {
		require.Equal(t, VerdictResumeOnly, c.Listed(offerAt(name, 5), Known{Waited: true}, l), name)
		require.Equal(t, VerdictPhantom, c.Listed(offerAt(name, 6), Known{}, l), name)
	}
}

func TestWhatIsInFlightIsLeft(t *testing.T) {
	c := NewClassifier()
	inFlight := NewListing(c.Begin(), []ln.Channel{{ChanID: 1, Htlcs: []ln.ChannelHtlc{{Incoming: true, Index: 3, ForwardingChan: 2}}}})
	c.Baseline(inFlight)
	for _, recorded := range []bool{true, false} {
		require.Equal(t, VerdictInFlight, c.Listed(offerAt(1, 3), Known{Recorded: recorded}, inFlight))
	}
	require.Equal(t, VerdictPhantom, c.Listed(offerAt(1, 3), Known{Recorded: true}, listed(c, 1)))
}

// Between lnd's signature of an end and the payer's an HTLC is listed without a
// forward, and a RESUME would be taken for the first.
func TestWhatIsEndingIsNotResumed(t *testing.T) {
	lists := func(c *Classifier, forward ln.SCID, seenFor time.Duration) *Listing {
		l := NewListing(c.Begin(), []ln.Channel{{
			ChanID: 1, Aliases: []ln.SCID{77}, SeenFor: seenFor, Htlcs: []ln.ChannelHtlc{{Incoming: true, Index: 3, ForwardingChan: forward}},
		}})
		c.Seen(l)
		return l
	}
	flies := func(c *Classifier) { lists(c, 2, time.Hour) }
	resumed := Known{Recorded: true, Resumed: true, Waited: true}
	for name, happens := range map[string]func(*Classifier) Verdict{
		"lnd showed the forward": func(c *Classifier) Verdict {
			flies(c)
			return VerdictEnding
		},
		"in an earlier stream": func(c *Classifier) Verdict {
			flies(c)
			c.Connected()
			c.Baseline(listed(c, 1, 3))
			return VerdictEnding
		},
		"before lnd was restarted": func(c *Classifier) Verdict {
			flies(c)
			c.Connected()
			c.Baseline(lists(c, 0, time.Minute))
			return VerdictTrimmed
		},
		"and it was resumed again": func(c *Classifier) Verdict {
			flies(c)
			c.Connected()
			c.Baseline(lists(c, 0, time.Minute))
			c.Resuming(offerAt(1, 3).Key)
			return VerdictEnding
		},
		"lnd runs on": func(c *Classifier) Verdict {
			flies(c)
			c.Connected()
			c.Baseline(lists(c, 0, time.Hour))
			lists(c, 0, 0) // it cannot say
			lists(c, 0, time.Hour+time.Second)
			return VerdictEnding
		},
		"this stream resumed it": func(c *Classifier) Verdict {
			c.Resuming(offerAt(1, 3).Key)
			return VerdictEnding
		},
		"the RESUME was not sent": func(c *Classifier) Verdict {
			c.Resuming(offerAt(1, 3).Key)
			c.NotResumed(offerAt(1, 3).Key)
			return VerdictRecorded
		},
		"an earlier stream may have": func(c *Classifier) Verdict {
			c.Resuming(offerAt(1, 3).Key)
			c.Connected()
			c.Baseline(listed(c, 1, 3))
			return VerdictRecorded
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := NewClassifier()
			c.Baseline(listed(c, 1, 3))
			want := happens(c)
			require.Equal(t, want, c.Listed(offerAt(1, 3), resumed, listed(c, 1, 3)))
			hasty := resumed
			hasty.Waited = false
			if want == VerdictRecorded {
				want = VerdictMayBeEnding
			}
			require.Equal(t, want, c.Listed(offerAt(1, 3), hasty, listed(c, 1, 3)))
			for name, known := range map[string]Known{"held": {Recorded: true}, "none": {}} {
				if got := c.Listed(offerAt(1, 3), known, listed(c, 1, 3)); want == VerdictTrimmed && known.Recorded {
					require.Equal(t, VerdictEnding, got, "a row that may yet be settled is not failed here")
				} else if want == VerdictTrimmed || want == VerdictEnding {
					require.Equal(t, want, got, name)
				}
			}
			require.Equal(t, VerdictPhantom, c.Listed(offerAt(1, 3), resumed, listed(c, 1)))
			c.Prune(listed(c, 1))
			require.Empty(t, c.flown)
		})
	}
}
