package opening

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// again is what the database makes of a value.
func again[T any](t require.TestingT, v T) T {
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	p := reflect.New(reflect.TypeOf(v))
	require.NoError(t, json.Unmarshal(raw, p.Interface()))
	second, err := json.Marshal(p.Elem().Interface())
	require.NoError(t, err)
	require.JSONEq(t, string(raw), string(second))
	return p.Elem().Interface().(T)
}

// at sets the moment of a Tick.
func at(v Event, m lsp.Moment) Event {
	t := v.(Tick)
	t.Moment = m
	return t
}

// Random events, right and wrong, in any order, every value through the
// database's form: the promises of the package hold.
func TestRandomDays(t *testing.T) {
	ended := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		plan := testPlan(rapid.Bool().Draw(t, "zero conf"))
		if rapid.IntRange(0, 2).Draw(t, "trust") == 0 {
			plan = trustedPlan()
		} else if rapid.IntRange(0, 2).Draw(t, "batch") == 0 {
			plan = batchPlan()
		}
		var joined, left bool
		var s State = Planned{plan}
		var verified, signAsked, signed, released, told bool
		// claimed: the client has money in the channel, or an HTLC is about to expire.
		var claimed bool
		var published []byte
		asked := map[ln.PendingChanID]bool{}
		height := uint32(100)
		for range rapid.IntRange(1, 80).Draw(t, "events") {
			var v Event
			if rapid.IntRange(0, 2).Draw(t, "forward") == 0 {
				v = rapid.SampledFrom(testEvents(s)).Draw(t, "event")
			} else {
				v = usual(t, s, &height)
			}
			before := s
			if w, used := s.(Withheld); used {
				use, is := v.(ChannelUse)
				_, release := v.(Release)
				// While lnd is made to forget the channel only its answer counts.
				claimed = claimed || w.Forgetting == use.Last && (release || is && (use.Claimed || use.Expiry == 110))
			}
			next, effects, err := Step(again(t, s), again(t, v))
			if errors.Is(err, fsm.ErrIllegal) {
				continue
			}
			require.NoError(t, err)
			s = next
			for _, f := range effects {
				switch f := again(t, f).(type) {
				case Negotiate:
					require.False(t, asked[f.PendingID], "asked under an id that the peer knows")
					asked[f.PendingID] = true
					require.LessOrEqual(t, len(asked), int(plan.MaxNegotiations))
				case Verify:
					require.True(t, asked[f.PendingID])
					_, stored := s.(Built)
					require.True(t, stored, "verified before the transaction was stored")
					verified = true
				case TellBatch:
					require.NotEmpty(t, plan.Batch)
					switch f.News {
					case BatchPending:
						require.True(t, verified)
						joined = true
					case BatchLeft:
						require.False(t, signed, "it left a transaction that is signed")
						left = true
					case BatchOutput:
					}
				case LeaseCoins:
					require.Empty(t, plan.Batch, "the batch leases")
				case Sign:
					require.Empty(t, plan.Batch, "the batch signs")
					require.True(t, verified)
					require.True(t, claimed || !plan.Withhold, "signed before anything was claimed")
					signAsked = true
				case Publish:
					require.True(t, signAsked || joined)
					if published == nil {
						_, stored := s.(Signed)
						require.True(t, stored, "published before the signed transaction was stored")
						published = f.Raw
					}
					require.Equal(t, published, f.Raw, "other bytes were published")
				case AbandonChannel:
					require.False(t, signed, "abandoned after it was signed")
					require.False(t, claimed, "abandoned after the client had claimed")
				case ReleaseCoins:
					released = true
					require.True(t, Final(s), "coins released in %s", s.StateName())
				case NotifyOwner:
					if f.Notice == NoticeUsable && f.Withheld {
						require.True(t, plan.Withhold && verified)
						require.Nil(t, published)
					} else if f.Notice == NoticeUsable {
						require.False(t, told, "told twice")
						told = true
						require.NotNil(t, published)
					}
					if f.Notice == NoticeFailed || f.Notice == NoticeRejected {
						require.False(t, signed)
						require.NotEmpty(t, f.Reason.Text)
					}
				}
			}
			if _, ok := s.(Signed); ok {
				signed = true
			}
			if claimed {
				require.False(t, CanAbandon(s), "%s led from %s back to %s", v.EventName(), before.StateName(), s.StateName())
				_, failed := s.(Failed)
				require.False(t, failed)
			}
			if signed {
				require.False(t, CanAbandon(s), "%s led from %s back to %s", v.EventName(), before.StateName(), s.StateName())
			}
			require.Equal(t, Final(s), released || left, "%s: leases must end with the open", s.StateName())
			if Final(s) {
				break
			}
		}
		ended[s.StateName()]++
	})
	t.Log(ended)
}

// usual is an event that the world would likely send next.
func usual(t *rapid.T, s State, height *uint32) Event {
	m := moment(*height)
	p := PlanOf(s)
	switch s := s.(type) {
	case Planned:
		if p.Batch != "" {
			return Start{m}
		}
		return CoinsLeased{m, testSelection(), []byte{0x51}}
	case Joined:
		if len(s.Script) == 0 {
			return OutputNamed{m, p.PendingID(0), []byte{0, 32}}
		}
		return FundingShared{m, testShare(), Unsigned{Psbt: []byte("psbt"), Outpoint: testOutpoint, ChangeOutpoint: ln.Outpoint{TxID: testTxID, Index: 1}}}
	case Leased:
		if !s.AskAt.IsZero() {
			return at(Tick{}, lsp.Moment{At: s.AskAt, Height: *height})
		}
		return FundingBuilt{m, p.PendingID(s.Negotiation), Unsigned{Psbt: []byte("psbt"), Outpoint: testOutpoint, ChangeOutpoint: ln.Outpoint{TxID: testTxID, Index: 1}}}
	case Built:
		return FundingPending{m, testOutpoint}
	case Unknown:
		return NodeAnswered{m, PresencePending, 0}
	case Pending:
		if p.Withhold {
			return ChannelActive{m, 42}
		}
		return FundingSigned{m, testTxID, []byte("raw")}
	case Withheld:
		if s.Forgetting {
			return rapid.SampledFrom([]Event{Release{m}, ChannelUse{Moment: m, Claimed: true}, ChannelUse{Moment: m, Last: true, Forgotten: true}, ChannelUse{Moment: m, Last: true, Claimed: true}, ChannelUse{Moment: m, Last: true, Htlcs: 1, Expiry: 150}}).Draw(t, "last use")
		}
		if !s.Withdrawn.IsZero() {
			return ChannelUse{Moment: m}
		}
		return rapid.SampledFrom([]Event{Abandon{m, lsp.Because(lsp.ReasonOpenSlow, "it went back"), false}, Release{m}, ChannelUse{Moment: m}, ChannelUse{Moment: m, Htlcs: 2, Expiry: 150}, NewBlock{m, 0}}).Draw(t, "use")
	case Released:
		return FundingSigned{m, testTxID, []byte("raw")}
	case Signed:
		return FundingPublished{m}
	}
	*height++
	switch rapid.IntRange(0, 3).Draw(t, "chain") {
	case 0:
		return ChannelActive{moment(*height), 42}
	case 1:
		return FundingConfirmed{moment(*height), *height}
	default:
		return NewBlock{moment(*height), 3000}
	}
}

func walk(t *testing.T, s State, events ...Event) (State, []Effect) {
	t.Helper()
	var effects []Effect
	for _, v := range events {
		next, f, err := Step(s, v)
		require.NoError(t, err, "%s in %s", v.EventName(), s.StateName())
		s, effects = next, f
	}
	return s, effects
}

func built(zeroConf bool) []Event {
	m := moment(100)
	return []Event{
		Start{m},
		CoinsLeased{m, testSelection(), nil},
		FundingBuilt{m, testPlan(zeroConf).PendingID(0), Unsigned{Psbt: []byte("psbt"), Outpoint: testOutpoint, ChangeOutpoint: ln.Outpoint{TxID: testTxID, Index: 1}}},
	}
}

// The channel is active before anyone signed, as lnd's zero-conf channels are:
// the owner hears of it only after the transaction was published.
func TestActiveBeforeSigned(t *testing.T) {
	m := moment(100)
	s, _ := walk(t, Planned{testPlan(true)}, append(built(true), ChannelActive{m, 42}, FundingSigned{m, testTxID, []byte("raw")})...)
	require.Equal(t, "signed", s.StateName())
	s, effects := walk(t, s, FundingPublished{m})
	require.Equal(t, "usable", s.StateName())
	require.Equal(t, NoticeUsable, effects[0].(NotifyOwner).Notice)
	require.Equal(t, ln.SCID(42), effects[0].(NotifyOwner).ChanID)
}

func TestDeclinedZeroConfWaitsForItsConfirmations(t *testing.T) {
	m := moment(100)
	s, _ := walk(t, Planned{testPlan(false)}, append(built(false), FundingPending{m, testOutpoint}, FundingSigned{m, testTxID, []byte("raw")},
		FundingPublished{m}, ChannelActive{m, 42}, FundingConfirmed{moment(101), 101}, NewBlock{moment(102), 0})...)
	require.Equal(t, "published", s.StateName())
	s, effects := walk(t, s, NewBlock{moment(103), 0})
	require.Equal(t, "confirmed", s.StateName())
	require.Equal(t, NoticeUsable, effects[0].(NotifyOwner).Notice)
	s, effects = walk(t, s, FundingReorged{moment(103)})
	require.Equal(t, "published", s.StateName())
	require.Equal(t, "publish", effects[1].EffectName())
	s, effects = walk(t, s, FundingConfirmed{moment(104), 104})
	require.Equal(t, "confirmed", s.StateName())
	require.Len(t, effects, 1, "usable is told once")
	s, _ = walk(t, s, NewBlock{moment(109), 0})
	require.Equal(t, "buried", s.StateName())
}

// A crash between storing the unsigned transaction and psbt_verify, or after:
// the node is asked, and its answer decides.
func TestCrashAroundVerify(t *testing.T) {
	m := moment(100)
	s, effects := walk(t, Planned{testPlan(true)}, append(built(true), NegotiationLost{m, "restart"})...)
	require.Equal(t, []Effect{AskNode{OpeningID: "open-1", PendingID: testPlan(true).PendingID(0), Outpoint: testOutpoint}}, effects)
	gone, effects := walk(t, s, NodeAnswered{m, PresenceAbsent, 0})
	require.True(t, gone.(Failed).Temporary)
	require.Len(t, effects, 3)
	there, effects := walk(t, s, NodeAnswered{m, PresencePending, 0})
	require.Equal(t, "pending", there.StateName())
	require.Equal(t, "sign", effects[0].EffectName())
}

// A peer that cannot take the channel now is asked again with the same coins, under
// another id, after a moment and not for ever. One that says no is not.
func TestPeerNotNow(t *testing.T) {
	m := moment(100)
	plan := testPlan(true)
	later := lsp.Moment{At: testStart.Add(askAgain), Height: 100}
	leased := func() State {
		s, _ := walk(t, Planned{plan}, Start{m}, CoinsLeased{m, testSelection(), nil})
		return s
	}
	waiting, effects := walk(t, leased(), PeerRejected{m, plan.PendingID(0), "internal", true})
	require.Empty(t, effects, "the coins stay, and the peer is left alone")
	due, v, ok := deadline(waiting)
	require.True(t, ok)
	require.Equal(t, later.At, due)
	_, _, err := Step(waiting, Tick{m})
	require.ErrorIs(t, err, fsm.ErrIllegal)
	same, effects := walk(t, waiting, NegotiationLost{m, "restart"})
	require.Equal(t, waiting, same)
	require.Empty(t, effects, "the time that is stored has it asked")

	s, effects := walk(t, waiting, at(v, later))
	require.Len(t, effects, 1)
	require.Equal(t, plan.PendingID(1), effects[0].(Negotiate).PendingID)
	require.Equal(t, testSelection(), effects[0].(Negotiate).Selection)
	due, _, _ = deadline(s)
	require.Equal(t, plan.Deadline, due)
	_, _, err = Step(s, PeerRejected{later, plan.PendingID(0), "internal", true})
	require.ErrorIs(t, err, fsm.ErrIllegal, "the first negotiation is over")
	s, effects = walk(t, s, PeerRejected{later, plan.PendingID(1), "internal", true})
	require.True(t, s.(Rejected).NotNow)
	require.Equal(t, []string{"abandon_channel", "release_coins", "notify_owner"}, []string{effects[0].EffectName(), effects[1].EffectName(), effects[2].EffectName()})
	n := effects[2].(NotifyOwner)
	require.True(t, n.Temporary, "the owner may try later")
	told, ok := NoticeFor(s)
	require.True(t, ok)
	require.Equal(t, n, told)

	for name, v := range map[string]PeerRejected{
		"a no":             {m, plan.PendingID(0), "not today", false},
		"no time is left":  {lsp.Moment{At: plan.Deadline.Add(-askAgain), Height: 100}, plan.PendingID(0), "internal", true},
		"given up waiting": {},
	} {
		from, last := leased(), Event(v)
		if v.Text == "" {
			from, last = waiting, Abandon{m, lsp.Because(lsp.ReasonCancelled, "enough"), false}
		}
		s, effects = walk(t, from, last)
		require.True(t, Final(s), name)
		require.Equal(t, "release_coins", effects[1].EffectName(), name)
		require.Equal(t, v.NotNow || v.Text == "", effects[2].(NotifyOwner).Temporary, name)
	}
	// In a batch nobody waits for it.
	s, _ = walk(t, Planned{batchPlan()}, Start{m}, PeerRejected{m, batchPlan().PendingID(0), "internal", true})
	require.True(t, s.(Rejected).NotNow)
}

func TestNeverAnotherTransaction(t *testing.T) {
	m := moment(100)
	s, _ := walk(t, Planned{testPlan(true)}, append(built(true), FundingPending{m, testOutpoint})...)
	_, _, err := Step(s, FundingSigned{m, ln.TxID{1}, []byte("raw")})
	require.ErrorContains(t, err, "must not be published")
	require.NotErrorIs(t, err, fsm.ErrIllegal)
	s, _ = walk(t, s, FundingSigned{m, testTxID, []byte("raw")})
	_, _, err = Step(s, Abandon{m, lsp.Reason{}, false})
	require.ErrorIs(t, err, ErrTooLate)
}

func TestBumpAndConflict(t *testing.T) {
	m := moment(100)
	s, _ := walk(t, Planned{testPlan(true)}, append(built(true), FundingPending{m, testOutpoint}, FundingSigned{m, testTxID, []byte("raw")}, FundingPublished{m})...)
	s, effects := walk(t, s, NewBlock{moment(103), 2000})
	require.Len(t, effects, 1, "not yet")
	s, effects = walk(t, s, NewBlock{moment(104), 2000})
	require.Equal(t, ln.FeeRateSatPerKW(2000), effects[1].(BumpFee).PackageRate)
	require.Equal(t, ln.Outpoint{TxID: testTxID, Index: 1}, effects[1].(BumpFee).Change)
	s, effects = walk(t, s, NewBlock{moment(107), 2000})
	require.Len(t, effects, 1, "lnd has some blocks' time")
	s, effects = walk(t, s, NewBlock{moment(108), 1500})
	require.Equal(t, ln.FeeRateSatPerKW(2000), effects[1].(BumpFee).PackageRate, "asked again, and for no less: lnd may have refused, or forgotten it")
	s, effects = walk(t, s, NewBlock{moment(112), 3000})
	require.Equal(t, ln.FeeRateSatPerKW(3000), effects[1].(BumpFee).PackageRate)
	s, effects = walk(t, s, NewBlock{moment(116), 1000})
	require.Len(t, effects, 1, "it pays that itself")
	s, effects = walk(t, s, FundingConflicted{moment(109), ln.TxID{8}, 109}, NewBlock{moment(113), 0})
	require.Empty(t, effects)
	s, effects = walk(t, s, NewBlock{moment(114), 0})
	require.Equal(t, "conflicted", s.StateName())
	require.Equal(t, NoticeConflicted, effects[1].(NotifyOwner).Notice)
	require.NotEmpty(t, s.(Conflicted).Reason.Text)
}

// A client that trusts the gateway uses a channel that nobody has signed. What
// becomes of it is what became of its payment.
func TestWithheld(t *testing.T) {
	m := moment(100)
	used, effects := walk(t, Planned{trustedPlan()}, append(built(true), FundingPending{m, testOutpoint}, ChannelActive{m, 42})...)
	require.Equal(t, "withheld", used.StateName())
	require.Equal(t, []Effect{NotifyOwner{
		OpeningID: "open-1", Owner: "offer-1", Notice: NoticeUsable, Outpoint: testOutpoint, ChanID: 42, Withheld: true,
	}}, effects)
	require.False(t, Funded(used), "nobody else's payment may use it")
	_, _, bounded := deadline(used)
	require.False(t, bounded, "money may be on its way over it")

	// Claimed: signed and published at once, and never given up again.
	s, effects := walk(t, used, Release{m})
	require.Equal(t, []Effect{Sign{OpeningID: "open-1", Psbt: []byte("psbt"), Outpoint: testOutpoint}}, effects)
	_, _, err := Step(s, Abandon{m, lsp.Reason{}, false})
	require.ErrorIs(t, err, ErrTooLate)
	s, effects = walk(t, s, SigningFailed{m, "locked"})
	require.Empty(t, effects)
	require.Contains(t, ReasonOf(s).Text, "has money")
	s, effects = walk(t, s, NewBlock{moment(101), 0})
	require.Equal(t, "sign", effects[0].EffectName(), "it is asked again")
	s, effects = walk(t, s, FundingSigned{moment(101), testTxID, []byte("raw")})
	require.Equal(t, "publish", effects[0].EffectName())
	s, effects = walk(t, s, FundingPublished{moment(101)})
	require.Equal(t, "usable", s.StateName())
	require.False(t, effects[0].(NotifyOwner).Withheld)

	// Gone back: given up once the channel is empty, its coins free.
	s, effects = walk(t, used, Abandon{m, lsp.Because(lsp.ReasonOpenSlow, "it went back"), false})
	require.Equal(t, []Effect{AskUse{OpeningID: "open-1", Outpoint: testOutpoint, Emptying: true}}, effects)
	_, told := NoticeFor(s)
	require.False(t, told, "it is about to go")
	s, effects = walk(t, s, ChannelUse{Moment: m, Htlcs: 1, Expiry: 150})
	require.Empty(t, effects, "an HTLC is still on it")
	s, effects = walk(t, s, NewBlock{moment(101), 0})
	require.Equal(t, "ask_use", effects[0].EffectName())
	withdrawn := s
	s, effects = walk(t, s, ChannelUse{Moment: m})
	require.Equal(t, []Effect{Forget{OpeningID: "open-1", Outpoint: testOutpoint}}, effects)
	forgetting := s
	// lnd's answer decides now, and nothing that was seen before.
	for _, v := range []Event{Release{m}, NewBlock{moment(101), 0}, ChannelUse{Moment: m}, ChannelUse{Moment: m, Claimed: true}, ChannelUse{Moment: m, Htlcs: 1, Expiry: 110}} {
		s, effects = walk(t, forgetting, v)
		require.Equal(t, forgetting, s, v.EventName())
		require.Empty(t, effects)
	}
	s, effects = walk(t, forgetting, ChannelUse{Moment: m, Last: true, Htlcs: 1, Expiry: 150})
	require.Equal(t, withdrawn, s, "something came at the last moment")
	require.Empty(t, effects)
	s, effects = walk(t, forgetting, ChannelUse{Moment: m, Last: true, Claimed: true})
	require.Equal(t, "released", s.StateName(), "and was claimed")
	require.Equal(t, "sign", effects[0].EffectName())
	s, effects = walk(t, forgetting, ChannelUse{Moment: m, Last: true, Forgotten: true})
	require.Equal(t, "failed", s.StateName())
	require.Equal(t, []string{"abandon_channel", "release_coins", "notify_owner"}, []string{effects[0].EffectName(), effects[1].EffectName(), effects[2].EffectName()})
	require.Equal(t, "it went back", effects[2].(NotifyOwner).Reason.Text)

	// lnd put another payment onto the channel, and the client has claimed that;
	// or an HTLC is about to expire, and can only be resolved on chain.
	for _, use := range []ChannelUse{{Moment: m, Claimed: true}, {Moment: m, Htlcs: 1, Expiry: 110}} {
		for _, s := range []State{used, withdrawn} {
			s, effects = walk(t, s, use)
			require.Equal(t, "released", s.StateName())
			require.Equal(t, "sign", effects[0].EffectName())
		}
	}
}

// A channel that shares its transaction: it leases and signs nothing itself, stays
// until the batch has signed for all, and from then on goes its own way.
func TestSharedTransaction(t *testing.T) {
	m := moment(100)
	plan := batchPlan()
	require.Equal(t, BatchLeaseID("batch-1"), plan.LeaseID())
	require.True(t, IsLeaseID(plan.LeaseID()))
	s, effects := walk(t, Planned{plan}, Start{m})
	require.Equal(t, []Effect{Negotiate{Plan: plan, PendingID: plan.PendingID(0)}}, effects)
	_, _, err := Step(s, FundingShared{m, testShare(), Unsigned{Psbt: []byte("psbt"), Outpoint: testOutpoint}})
	require.ErrorIs(t, err, fsm.ErrIllegal, "its output is not known")
	joined, effects := walk(t, s, OutputNamed{m, plan.PendingID(0), []byte{0, 32}})
	require.Equal(t, []Effect{TellBatch{OpeningID: "open-1", Batch: "batch-1", News: BatchOutput, Script: []byte{0, 32}}}, effects)
	require.True(t, CanAbandon(joined))
	s, effects = walk(t, joined, FundingShared{m, testShare(), Unsigned{Psbt: []byte("psbt"), Outpoint: testOutpoint}})
	require.Equal(t, "verify", effects[0].EffectName())
	pending, effects := walk(t, s, FundingPending{m, testOutpoint})
	require.Equal(t, []Effect{TellBatch{OpeningID: "open-1", Batch: "batch-1", News: BatchPending, Outpoint: testOutpoint}}, effects)
	s, effects = walk(t, pending, FundingSigned{m, testTxID, []byte("raw")})
	require.Equal(t, "sluice batch batch-1", effects[0].(Publish).Label, "one transaction has one label")
	cost, ok := CostOf(s)
	require.True(t, ok)
	require.Equal(t, Cost{FundingSat: 200_000, FeeSat: 400, Clears: testOutpoint}, cost)
	_, _, err = Step(s, Abandon{m, lsp.Reason{}, false})
	require.ErrorIs(t, err, ErrTooLate)
	// It leaves before: the batch is told, and has its coins.
	for _, from := range []State{joined, pending} {
		s, effects = walk(t, from, Abandon{m, SharedReason(), true})
		require.True(t, s.(Failed).Spared)
		require.Equal(t, []string{"abandon_channel", "tell_batch", "notify_owner"}, []string{effects[0].EffectName(), effects[1].EffectName(), effects[2].EffectName()})
		require.Equal(t, BatchLeft, effects[1].(TellBatch).News)
		require.True(t, effects[2].(NotifyOwner).Spared)
	}
	// A negotiation that is cut off before lnd holds anything costs no try.
	s, _ = walk(t, joined, NegotiationLost{m, "restart"})
	require.True(t, s.(Failed).Spared)
}
