package lws_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func htlcs(n int, incoming ln.SCID, msat ln.Msat) (out []lws.Htlc) {
	for i := range n {
		out = append(out, lws.Htlc{
			Payment: fmt.Sprintf("%d/%d", incoming, i), Client: ln.PubKey{2}, Incoming: incoming, Msat: msat, Since: noon.Add(time.Duration(i) * time.Second),
		})
	}
	return out
}

func TestLimitsRefuse(t *testing.T) {
	w := lws.Wish{HoldFor: time.Hour, MaxHtlcs: 2, MaxSat: 100, FinalCltvDelta: 80}
	n := func(msat ln.Msat) lws.Htlc {
		return lws.Htlc{Payment: "n", Client: ln.PubKey{2}, Incoming: 7, Msat: msat}
	}
	says := func(held []lws.Htlc, h lws.Htlc) string { return limits.Admit(w, held, h, 0, noon).Refusal }
	require.Empty(t, says(htlcs(1, 7, 99_000), n(1000)))
	require.Contains(t, says(htlcs(1, 7, 99_000), n(1001)), "100 sat")
	require.Contains(t, says(htlcs(2, 7, 1), n(1)), "2 HTLCs wait for this wallet")
	other := htlcs(11, 7, 1)
	for i := range other {
		other[i].Client = ln.PubKey{3}
	}
	require.Contains(t, says(other, n(1)), "11 HTLCs of channel")
	costly := n(1)
	costly.SatBlocks = 100_001
	require.Contains(t, says(nil, costly), "100000 sat·blocks")
	costly.SatBlocks = math.MaxUint64
	for i := range other {
		other[i].SatBlocks = math.MaxUint64
	}
	require.NotEmpty(t, says(other, costly), "sums do not wrap")
	huge := limits
	huge.Sat, huge.AllSat = 1<<63, 1<<63
	w.MaxSat = 1 << 63
	require.Empty(t, huge.Admit(w, nil, n(ln.MaxMsat), 0, noon).Refusal, "limits beyond all money do not overflow")
}

func TestPrice(t *testing.T) {
	require.EqualValues(t, 100*144, lws.SatBlocks(99_001, 1000, 1144))
	require.Zero(t, lws.SatBlocks(1_000_000, 1000, 999))
	require.EqualValues(t, uint64(math.MaxUint64), lws.SatBlocks(ln.Msat(math.MaxUint64), 0, math.MaxUint32))
	l := limits
	require.Zero(t, l.Price(math.MaxUint64))
	l.PriceMsat = 10
	require.EqualValues(t, 144, l.Price(100_000*144))
	require.EqualValues(t, 1, l.Price(1))
	l.PriceMsat = math.MaxUint64
	require.Equal(t, ln.MaxMsat, l.Price(math.MaxUint64))

	l.PriceMsat, l.SatBlocks, l.AllSatBlocks = 10, 1<<40, 1<<40
	w := lws.Wish{HoldFor: time.Hour, MaxHtlcs: 2, MaxSat: 1000}
	h := lws.Htlc{Payment: "n", Msat: 1000, SatBlocks: 100_000 * 144}
	require.Contains(t, l.Admit(w, nil, h, 143, noon).Refusal, "cost 0.144 sat")
	require.Empty(t, l.Admit(w, nil, h, 144, noon).Refusal)
}

// The oldest make room first, those of whoever takes most of it.
func TestOldestMakeRoom(t *testing.T) {
	w := lws.Wish{HoldFor: time.Hour, MaxHtlcs: 10, MaxSat: 1000}
	n := lws.Htlc{Payment: "n", Client: ln.PubKey{2}, Incoming: 8, Msat: 1}
	full := append(htlcs(8, 7, 1), htlcs(2, 8, 1)...)
	require.Equal(t, lws.Admission{Evict: []string{"7/0"}}, limits.Admit(w, full, n, 0, noon), "at the expense of the channel that brings more, however young")
	n.Incoming = 7
	require.NotEmpty(t, limits.Admit(w, full, n, 0, noon.Add(30*time.Second)).Refusal, "its own channel brings most, and nothing has waited long")
	require.Equal(t, []string{"7/0"}, limits.Admit(w, full, n, 0, noon.Add(time.Hour)).Evict)
	n.Payment = "7/0"
	require.Equal(t, []string{"7/1"}, limits.Admit(w, full, n, 0, noon.Add(time.Hour)).Evict, "a part does not push out its siblings")
}

// However HTLCs come: no limit is exceeded, and who comes over a channel that brings
// less than a flood is never pushed out by it.
func TestAdmitAlways(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := lws.Wish{HoldFor: time.Hour, MaxHtlcs: rapid.IntRange(1, 12).Draw(t, "htlcs"), MaxSat: ln.Sat(rapid.Uint64Range(1, 1200).Draw(t, "sat"))}
		var held []lws.Htlc
		for i := range rapid.IntRange(1, 60).Draw(t, "events") {
			n := lws.Htlc{
				Payment: fmt.Sprint("p", rapid.IntRange(0, i).Draw(t, "payment")), Client: ln.PubKey{byte(rapid.IntRange(1, 3).Draw(t, "client"))},
				Incoming: ln.SCID(rapid.Uint64Range(1, 3).Draw(t, "incoming")), Msat: ln.Msat(rapid.Uint64Range(1, 400_000).Draw(t, "msat")),
				SatBlocks: rapid.Uint64Range(0, 30_000).Draw(t, "cost"), Since: noon.Add(time.Duration(i) * 20 * time.Second),
			}
			if k := slices.IndexFunc(held, func(h lws.Htlc) bool { return h.Payment == n.Payment }); k >= 0 {
				n.Client, n.Since = held[k].Client, held[k].Since
			}
			a := limits.Admit(w, held, n, 0, noon.Add(time.Duration(i)*20*time.Second))
			if a.Refusal != "" {
				require.Empty(t, a.Evict, "a refused one pushes nobody out")
				continue
			}
			held = slices.DeleteFunc(held, func(h lws.Htlc) bool { return slices.Contains(a.Evict, h.Payment) })
			require.NotContains(t, a.Evict, n.Payment)
			held = append(held, n)
			byClient, byIncoming := map[ln.PubKey]int{}, map[ln.SCID]int{}
			sat := map[ln.PubKey]ln.Msat{}
			var all ln.Msat
			var cost uint64
			for _, h := range held {
				byClient[h.Client]++
				byIncoming[h.Incoming]++
				sat[h.Client] += h.Msat
				all += h.Msat
				cost += h.SatBlocks
			}
			require.LessOrEqual(t, byClient[n.Client], min(w.MaxHtlcs, limits.Htlcs))
			require.LessOrEqual(t, byIncoming[n.Incoming], limits.IncomingHtlcs)
			require.LessOrEqual(t, sat[n.Client], 1000*ln.Msat(min(w.MaxSat, limits.Sat)))
			require.LessOrEqual(t, len(held), limits.AllHtlcs)
			require.LessOrEqual(t, all, 1000*ln.Msat(limits.AllSat))
			require.LessOrEqual(t, cost, limits.AllSatBlocks)
		}
	})
}

// A flood through one channel takes nothing from payments of another.
func TestFloodPushesOutItself(t *testing.T) {
	w := lws.Wish{HoldFor: time.Hour, MaxHtlcs: 10, MaxSat: 1000}
	held := htlcs(3, 9, 1)
	for i := range 500 {
		n := lws.Htlc{Payment: fmt.Sprint("flood", i), Client: ln.PubKey{2}, Incoming: 7, Msat: 1, Since: noon.Add(time.Duration(i) * time.Minute)}
		a := limits.Admit(w, held, n, 0, n.Since)
		for _, p := range a.Evict {
			require.NotContains(t, p, "9/")
		}
		if a.Refusal == "" {
			held = append(slices.DeleteFunc(held, func(h lws.Htlc) bool { return slices.Contains(a.Evict, h.Payment) }), n)
		}
	}
	require.Len(t, held, 10)
	for i := range 3 {
		n := lws.Htlc{Payment: fmt.Sprint("honest", i), Client: ln.PubKey{2}, Incoming: 8, Msat: 1, Since: noon}
		a := limits.Admit(w, held, n, 0, noon)
		require.Empty(t, a.Refusal)
		require.Len(t, a.Evict, 1)
		require.Contains(t, a.Evict[0], "flood")
		held = append(slices.DeleteFunc(held, func(h lws.Htlc) bool { return slices.Contains(a.Evict, h.Payment) }), n)
	}
}
