package watchtower

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func someTerms() Terms {
	return Terms{Limits: Limits{Sessions: 2, Updates: 10, Bytes: 1000}, For: 100 * time.Hour, Notice: 10 * time.Hour, Grace: 20 * time.Hour, MinSweepFee: 2500, MaxUpdates: 1024}
}

func TestTermsAndLimits(t *testing.T) {
	require.NoError(t, someTerms().Check())
	for name, change := range map[string]func(*Terms){
		"notice as long as the registration": func(x *Terms) { x.Notice = x.For },
		"no time at all":                     func(x *Terms) { x.For = 0 },
		"negative grace":                     func(x *Terms) { x.Grace = -1 },
		"a floor below lnd's":                func(x *Terms) { x.MinSweepFee = LeastSweepFee - 1 },
		"sessions without updates":           func(x *Terms) { x.MaxUpdates = 0 },
		"no sessions":                        func(x *Terms) { x.Limits.Sessions = 0 },
	} {
		terms := someTerms()
		change(&terms)
		require.Error(t, terms.Check(), name)
	}
	require.Equal(t, Limits{Sessions: 2, Updates: 7, Bytes: 1000}, someTerms().Limits.With(Limits{Updates: 7}))
	require.Error(t, Limits{Bytes: -1}.CheckOwn())
	require.NoError(t, Limits{}.CheckOwn())
}

func TestStanding(t *testing.T) {
	end := noon().Add(100 * time.Hour)
	tenant := Tenant{Created: noon(), Expires: end}
	for _, c := range []struct {
		at        time.Time
		want      Standing
		forgotten bool
	}{
		{noon(), Active, false},
		{end.Add(-10*time.Hour - 1), Active, false},
		{end.Add(-10 * time.Hour), Expiring, false},
		{end.Add(-1), Expiring, false},
		{end, Expired, false},
		{end.Add(20*time.Hour - 1), Expired, false},
		{end.Add(20 * time.Hour), Expired, true},
	} {
		require.Equal(t, c.want, tenant.Standing(someTerms(), c.at))
		require.Equal(t, c.forgotten, tenant.Forgotten(someTerms(), c.at))
		suspended := tenant
		suspended.Suspended = true
		require.Equal(t, Suspended, suspended.Standing(someTerms(), c.at))
		require.False(t, suspended.Forgotten(someTerms(), c.at), "it cannot renew, so its time does not run out")
	}
}

// TestAdmit: a limit is reached to the unit, and only what is asked for counts.
func TestAdmit(t *testing.T) {
	full := Tenant{Expires: noon().Add(time.Hour), Usage: Usage{Sessions: 2, Updates: 10, Bytes: 1000}}
	room := Tenant{Expires: noon().Add(time.Hour), Usage: Usage{Sessions: 1, Updates: 9, Bytes: 700}}
	for _, c := range []struct {
		t    Tenant
		more Usage
		want errkind.Kind
	}{
		{room, Usage{Sessions: 1, Updates: 1, Bytes: 300}, ""},
		{room, Usage{Bytes: 301}, errkind.Exhausted},
		{room, Usage{Updates: 2}, errkind.Exhausted},
		{room, Usage{Sessions: 2}, errkind.Exhausted},
		{full, Usage{}, ""},
		{full, Usage{Updates: 1}, errkind.Exhausted},
		{Tenant{Expires: noon()}, Usage{}, errkind.Denied},
		{Tenant{Expires: noon().Add(time.Hour), Suspended: true}, Usage{}, errkind.Denied},
	} {
		err := c.t.Admit(someTerms(), c.more, noon())
		if c.want == "" {
			require.NoError(t, err)
		} else {
			require.Equal(t, c.want, errkind.Of(err), "%+v", c)
		}
	}
	// What is over a limit that was lowered may still go on within the others.
	lowered := room
	lowered.Own.Sessions = 1
	lowered.Usage.Sessions = 5
	require.NoError(t, lowered.Admit(someTerms(), Usage{Updates: 1}, noon()))
}

// TestPrice: each update beyond the free ones has its price; what is held already,
// or becomes free, has none.
func TestPrice(t *testing.T) {
	terms := someTerms()
	terms.Limits = Limits{Sessions: 10, Updates: 100, Bytes: 1000, Free: 5}
	one := Usage{Updates: 1}
	require.Zero(t, Tenant{Usage: Usage{Updates: 50}}.CostMsat(terms, one), "without a price")
	terms.PriceMsat = 300
	for _, c := range []struct {
		held, more, own, want int64
	}{{0, 1, 0, 0}, {4, 1, 0, 0}, {5, 1, 0, 300}, {4, 2, 0, 300}, {0, 7, 0, 600}, {50, 2, 0, 600}, {50, 1, 60, 0}, {60, 1, 60, 300}, {50, 0, 0, 0}, {50, -10, 0, 0}} {
		tenant := Tenant{Usage: Usage{Updates: c.held}, Own: Limits{Free: c.own}}
		require.Equal(t, c.want, tenant.CostMsat(terms, Usage{Updates: c.more}), "%+v", c)
	}
	paid := Tenant{Expires: noon().Add(time.Hour), Usage: Usage{Updates: 5}, CreditMsat: 599}
	require.NoError(t, paid.Admit(terms, one, noon()))
	require.EqualValues(t, 1, paid.UpdatesLeft(terms), "599 msat are one update of 300")
	require.Equal(t, errkind.Exhausted, errkind.Of(paid.Admit(terms, Usage{Updates: 2}, noon())))
	require.NoError(t, paid.Admit(terms, Usage{Sessions: 1}, noon()), "sessions have no price")
	indebted := paid
	indebted.CreditMsat = -1
	require.Zero(t, indebted.UpdatesLeft(terms))
	require.Equal(t, errkind.Exhausted, errkind.Of(indebted.Admit(terms, one, noon())))
	indebted.Usage.Updates = 3
	require.NoError(t, indebted.Admit(terms, one, noon()), "what is free stays free")
	require.EqualValues(t, 2, indebted.UpdatesLeft(terms))
	require.EqualValues(t, 95, Tenant{Usage: Usage{Updates: 5}, CreditMsat: 1 << 60}.UpdatesLeft(terms), "credit does not lift the limit")
	require.EqualValues(t, math.MaxInt64, Tenant{}.CostMsat(terms, Usage{Updates: math.MaxInt64}), "no credit is so large")
	terms.PriceMsat = MaxPriceMsat + 1
	require.Error(t, terms.Check())
	terms.PriceMsat, terms.Limits.Free = 1, -1
	require.Error(t, terms.Check())
}

func TestJudge(t *testing.T) {
	ok := SessionPolicy{MaxUpdates: 1024, SweepFeeRate: 2500}
	require.Equal(t, NotRefused, someTerms().Judge(ok))
	for want, change := range map[Refusal]func(*SessionPolicy){
		RefuseSweepFee: func(p *SessionPolicy) { p.SweepFeeRate-- },
		RefuseUpdates:  func(p *SessionPolicy) { p.MaxUpdates++ },
		RefuseReward:   func(p *SessionPolicy) { p.RewardRate = 1 },
	} {
		p := ok
		change(&p)
		require.Equal(t, want, someTerms().Judge(p))
	}
}

// TestBreachesUnderEveryOrderOfEvents draws chains that grow and shrink around a
// breach. Whatever their order: what is final stays, but for what the chain itself
// reopens; a spend that left the chain is taken back and the transaction due
// again; and what is due in a chain that keeps the spend ends.
func TestBreachesUnderEveryOrderOfEvents(t *testing.T) {
	depth := Depths{Bury: 6, Forget: 30}
	rapid.Check(t, func(t *rapid.T) {
		b := Breach{State: Found, SeenAt: Point{Height: 100, Hash: chainhash.Hash{1}}, FoundAt: noon()}
		tip, seen, spent := int32(100), int32(100), int32(0)
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			before := b
			event := rapid.IntRange(0, 6).Draw(t, "event")
			switch event {
			case 0, 1:
				tip++
				b.Settle(tip, depth, noon())
			case 2:
				b.Tried(rapid.SampledFrom([]string{"", "min relay fee"}).Draw(t, "answer"), noon())
			case 3:
				if b.Final || spent != 0 || seen == 0 {
					continue
				}
				tip++
				path := rapid.SampledFrom([]Path{ByJustice, ByVictim, ByCheater}).Draw(t, "path")
				if err := b.Spent(Spend{At: Point{Height: tip}, Path: path}, noon()); err != nil {
					t.Fatal(err)
				}
				spent = tip
			case 4:
				tip -= int32(rapid.IntRange(1, 12).Draw(t, "back"))
				b.Rewound(tip, noon())
				if spent > tip {
					spent = 0
				}
				if seen > tip {
					seen = 0
				}
			case 5:
				if seen != 0 {
					continue
				}
				tip++
				b.SeenAgain(Point{Height: tip, Hash: chainhash.Hash{byte(tip)}}, noon())
				seen = tip
			case 6:
				// Long enough for a commitment that is not in the chain to be given up.
				tip += depth.Forget
				b.Settle(tip, depth, noon())
			}
			if before.Final && event != 4 && event != 5 && !reflect.DeepEqual(b, before) {
				t.Fatalf("final, and changed: %+v to %+v", before, b)
			}
			if b.Spend.At.Height != spent || b.SeenAt.Height != seen {
				t.Fatalf("the chain says spent %d, seen %d: %+v", spent, seen, b)
			}
			if (spent > 0) != (b.State == Swept || b.State == Elsewhere || b.State == Lost) {
				t.Fatalf("state and spend differ: %+v", b)
			}
			if b.Due() != (spent == 0 && b.State != Vanished) || (b.State == Vanished) != (b.Final && spent == 0) {
				t.Fatalf("due is %v with a spend at %d: %+v", b.Due(), spent, b)
			}
			if b.State == Vanished && seen != 0 {
				t.Fatalf("given up while the commitment is in the chain: %+v", b)
			}
		}
		if b.Final {
			return
		}
		// Several rewinds in a row may leave the tip below the height of the first.
		for range depth.Forget + 500 {
			tip++
			b.Settle(tip, depth, noon())
		}
		if (spent > 0 || seen == 0) != b.Final {
			t.Fatalf("after all these blocks: %+v", b)
		}
	})
}

func TestBreachesThatAreOver(t *testing.T) {
	b := Breach{State: Unusable, Final: true}
	require.Error(t, b.Spent(Spend{Path: ByJustice, At: Point{Height: 1}}, noon()))
	require.False(t, b.SeenAgain(Point{Height: 9}, noon()), "no block makes a bad blob good")
	require.False(t, b.Due())
	require.False(t, b.Tried("x", noon()))
	open := Breach{State: Found}
	require.Error(t, open.Spent(Spend{Path: "otherwise"}, noon()))
	require.True(t, open.Tried("", noon()))
	require.False(t, open.Tried("", noon()), "the same again is no news")
	require.True(t, open.Tried("refused", noon()))
	require.Equal(t, Published, open.State)
	require.EqualValues(t, 3, open.Attempts)
}
