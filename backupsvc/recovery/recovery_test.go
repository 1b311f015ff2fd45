package recovery_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/backupsvc/recovery"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// TestNothingNewerIsMissed: a wallet wrote versions, each acknowledged by some
// providers, counted one as backed up only when require of n had it, and noted at
// those that answered what the others acknowledged. Require changed meanwhile.
// Then any providers are silent, damaged, emptied, or show what they had before,
// their notes with it. What is chosen without a reason against it is no older than
// the newest version that counted; but for providers that collude, as many as
// each version was wanted at with those that are away, and of which no other's
// note tells.
func TestNothingNewerIsMissed(t *testing.T) {
	var refused, taken, accused int
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "n")
		least := n
		type had struct {
			version uint64
			witness *recovery.Witness
		}
		histories := make([][]had, n)
		for i := range n {
			histories[i] = []had{{}}
		}
		last := func(i int) had { return histories[i][len(histories[i])-1] }
		var counted uint64
		for v := uint64(1); v <= uint64(rapid.IntRange(1, 5).Draw(t, "versions")); v++ {
			require := rapid.IntRange(1, n).Draw(t, "require")
			up := rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, "acknowledge")
			got := 0
			for i := range n {
				if up[i] {
					histories[i] = append(histories[i], had{v, last(i).witness})
					got++
				}
			}
			noted := rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, "noted")
			var w recovery.Witness
			w.Require, w.Of = require, n
			for i := range n {
				if h := last(i); h.version > 0 {
					w.Marks = append(w.Marks, mark(fmt.Sprint(i), h.version))
				}
			}
			for i := range n {
				// What counts has been noted where it is: the machine dies later.
				if up[i] && (noted[i] || got >= require) {
					mine := w.Without(fmt.Sprint(i))
					histories[i] = append(histories[i], had{last(i).version, &mine})
				}
			}
			if got >= require {
				counted, least = v, min(least, require)
			}
		}
		away, liars := 0, []int{}
		found := make([]recovery.Found, n)
		for i := range n {
			found[i] = recovery.Found{Place: fmt.Sprint(i), Name: fmt.Sprint(i)}
			shown := last(i)
			switch rapid.IntRange(0, 4).Draw(t, "fault") {
			case 1:
				found[i].Err = "down"
				away++
				continue
			case 2:
				found[i].Damaged = "damaged"
				away++
				continue
			case 3:
				shown = rapid.SampledFrom(histories[i]).Draw(t, "shown")
			}
			if shown != last(i) {
				liars = append(liars, i)
			}
			if shown.version > 0 {
				found[i].Snapshot = &recovery.Snapshot{Ref: recovery.Ref{Number: shown.version}}
			}
			found[i].Witness = shown.witness
		}
		// Those who lie and of whom nobody tells, by what the others show.
		hidden := 0
		for _, i := range liars {
			told := false
			for j, f := range found {
				if j == i || f.Witness == nil {
					continue
				}
				for _, m := range f.Witness.Marks {
					told = told || m.Place == found[i].Place && (found[i].Snapshot == nil || m.Things["channels"].Number > found[i].Snapshot.Number)
				}
			}
			if !told {
				hidden++
			}
		}
		c := recovery.Choose(found, "channels", least)
		if len(c.Notes) > 0 {
			accused++
		}
		if len(c.Against) > 0 {
			refused++
			return
		}
		taken++
		if c.Best < 0 {
			t.Fatal("nothing was found, and nothing is against it")
		}
		if colluding := hidden > 0 && away+len(liars) >= least; !colluding && found[c.Best].Snapshot.Number < counted {
			t.Fatalf("version %d was chosen, %d counted", found[c.Best].Snapshot.Number, counted)
		}
	})
	require.NotZero(t, refused)
	require.NotZero(t, taken)
	require.NotZero(t, accused)
}

// TestWhoMayHaveHadANewerOne: providers that are away and those that do not show
// what they had count together, by the least that any witness wanted.
func TestWhoMayHaveHadANewerOne(t *testing.T) {
	at := func(place string, number uint64, w *recovery.Witness) recovery.Found {
		f := recovery.Found{Place: place, Name: place, Witness: w}
		if number > 0 {
			f.Snapshot = &recovery.Snapshot{Ref: recovery.Ref{Number: number}}
		}
		return f
	}
	down := func(place string) recovery.Found { return recovery.Found{Place: place, Name: place, Err: "down"} }
	notes := func(need, of int, marks ...recovery.Mark) *recovery.Witness {
		return &recovery.Witness{Require: need, Of: of, Marks: marks}
	}
	suspect := at("c", 5, nil)
	suspect.Suspect = "its log went back"
	for _, c := range []struct {
		name  string
		found []recovery.Found
		says  string
	}{
		{"all is well", []recovery.Found{at("a", 5, notes(2, 3)), at("b", 5, nil), at("c", 5, nil)}, ""},
		{"one went back", []recovery.Found{at("a", 4, nil), at("b", 5, notes(2, 3, mark("a", 5))), at("c", 5, nil)}, ""},
		{"two went back", []recovery.Found{at("a", 3, nil), at("b", 5, notes(2, 3, mark("a", 5), mark("c", 5))), at("c", 4, nil)}, "2 showed less"},
		{"one went back and one is away", []recovery.Found{at("a", 3, nil), at("b", 5, notes(2, 3, mark("a", 5))), down("c")}, "1 provider(s) did not answer"},
		{"one is empty and one is away", []recovery.Found{at("a", 0, nil), at("b", 5, notes(2, 3, mark("a", 5))), down("c")}, "1 showed less"},
		{"a log went back and one is away", []recovery.Found{suspect, at("b", 5, notes(2, 3)), down("a")}, "1 showed less"},
		{"an old witness wanted more", []recovery.Found{at("a", 5, notes(3, 3)), at("b", 5, notes(1, 3)), down("c")}, "wanted at 1"},
		{"a witness knew of more providers", []recovery.Found{at("a", 5, notes(2, 2)), at("b", 5, notes(2, 4))}, "2 provider(s) did not answer"},
		{"new ones in the places of the old", []recovery.Found{at("a", 5, notes(2, 3, mark("b", 5), mark("c", 5))), at("d", 0, nil), at("e", 0, nil)}, "2 provider(s) did not answer"},
		{"a stick at another path", []recovery.Found{at("a", 5, notes(1, 2, mark("stick", 5))), at("moved", 5, &recovery.Witness{At: "stick", Require: 1, Of: 2})}, ""},
		{"it went back there", []recovery.Found{at("a", 5, notes(1, 2, mark("stick", 5))), at("moved", 4, &recovery.Witness{At: "stick", Require: 1, Of: 2})}, "1 showed less"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range len(c.found) {
				got := strings.Join(recovery.Choose(c.found, "channels", 3).Against, "\n")
				if c.says == "" {
					require.Empty(t, got)
				} else {
					require.Contains(t, got, c.says)
				}
				// The order of the providers is of no meaning.
				c.found = append(c.found[1:], c.found[0])
			}
		})
	}
}

func mark(place string, number uint64) recovery.Mark {
	return recovery.Mark{Place: place, Name: place, Things: map[string]recovery.Ref{"channels": {Number: number}}}
}

func TestMarksOfOthersCount(t *testing.T) {
	found := []recovery.Found{
		{Place: "a", Name: "a", Snapshot: &recovery.Snapshot{Ref: recovery.Ref{Number: 3}}, Witness: &recovery.Witness{Require: 1, Of: 3, Marks: []recovery.Mark{mark("a", 9), mark("b", 5)}}},
		{Place: "b", Name: "b"},
	}
	m, ok := recovery.Known(found, found[1])
	require.True(t, ok)
	require.EqualValues(t, 5, m.Things["channels"].Number)
	_, ok = recovery.Known(found, found[0])
	require.False(t, ok, "what a provider keeps of itself proves nothing")
	c := recovery.Choose(found, "channels", 2)
	require.Equal(t, 0, c.Best)
	require.Contains(t, c.Notes["b"], "has nothing, but acknowledged version 5")
	text := strings.Join(c.Against, "\n")
	require.Contains(t, text, "b acknowledged version 5")
	require.Contains(t, text, "1 provider(s) did not answer", "the third of the lost machine's is not even configured, and require was 1")
}

func TestMergeKeepsTheNewest(t *testing.T) {
	names := []string{"channels", "invoices.json", "swaps.json"}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) recovery.Witness {
			var w recovery.Witness
			for _, p := range rapid.SliceOfDistinct(rapid.StringMatching(`[a-d]`), rapid.ID[string]).Draw(t, label) {
				m := recovery.Mark{Place: p, Name: p, Things: map[string]recovery.Ref{}, AtMs: rapid.Int64Range(1, 5).Draw(t, "at")}
				for _, name := range names {
					if n := rapid.Uint64Range(0, 4).Draw(t, name); n > 0 {
						m.Things[name] = recovery.Ref{Number: n}
					}
				}
				if seq := rapid.Uint64Range(0, 6).Draw(t, "seq"); seq > 0 {
					m.Receipt = &recovery.Head{ServerKey: p, Epoch: rapid.SampledFrom([]string{"e", "f"}).Draw(t, "epoch"), Seq: seq}
				}
				w.Marks = append(w.Marks, m)
			}
			w.Names = rapid.SliceOfDistinct(rapid.StringMatching(`[x-z]`), rapid.ID[string]).Draw(t, label+" names")
			return w
		}
		a, b := draw("a"), draw("b")
		before, _ := json.Marshal([]recovery.Witness{a, b})
		m := a.Merge(b)
		if after, _ := json.Marshal([]recovery.Witness{a, b}); string(after) != string(before) {
			t.Fatal("merging changed what was merged")
		}
		want := map[string]uint64{}
		receipts := map[string][]*recovery.Head{}
		for _, x := range append(slices.Clone(a.Marks), b.Marks...) {
			for name, ref := range x.Things {
				want[x.Place+name] = max(want[x.Place+name], ref.Number)
			}
			if x.Receipt != nil {
				receipts[x.Place] = append(receipts[x.Place], x.Receipt)
			}
		}
		have := map[string]uint64{}
		for _, x := range m.Marks {
			for name, ref := range x.Things {
				have[x.Place+name] = ref.Number
			}
			for _, r := range receipts[x.Place] {
				if x.Receipt == nil || x.Receipt.Epoch == r.Epoch && x.Receipt.Seq < r.Seq {
					t.Fatalf("%v was forgotten for %v", r, x.Receipt)
				}
			}
		}
		if !maps.Equal(want, have) {
			t.Fatalf("%v, want %v", have, want)
		}
		twice, again := m.Merge(b), m.Merge(m)
		x, _ := json.Marshal(m)
		for _, other := range []recovery.Witness{twice, again} {
			if y, _ := json.Marshal(other); string(x) != string(y) {
				t.Fatalf("merging again changes it: %s, %s", x, y)
			}
		}
	})
}

func TestUnaccounted(t *testing.T) {
	op := func(n byte) ln.Outpoint { return ln.Outpoint{TxID: ln.TxID{n}} }
	stored := []string{op(1).String(), op(2).String(), "garbage"}
	require.Equal(t, []string{op(2).String(), "garbage"}, recovery.Unaccounted(stored, []ln.Outpoint{op(1), op(3)}))
	require.Empty(t, recovery.Unaccounted(nil, nil))
	require.True(t, recovery.SameChannels([]string{"a", "b"}, []string{"b", "a"}))
	require.False(t, recovery.SameChannels([]string{"a", "a"}, []string{"b", "a"}))
}

func heads(t testing.TB) (s *vault.Signer, acc vault.Account) {
	t.Helper()
	s, err := vault.NewSigner([]byte("0123456789abcdef0123456789abcdef"))
	require.NoError(t, err)
	return s, vault.NewAccount(s.Key(), "node:02")
}

func TestEvidenceOfNothing(t *testing.T) {
	s, acc := heads(t)
	at := func(seq uint64, hash byte, ms int64) *recovery.Head {
		acc.Seq, acc.Head = seq, vault.Hash{hash}
		h, err := s.Head(acc, vault.Epoch{}, time.UnixMilli(ms), make([]byte, vault.NonceSize))
		require.NoError(t, err)
		return recovery.FromSigned(h)
	}
	signer := func(string, string) (ln.PubKey, error) { return ln.PubKey{2, 1}, nil }
	good := recovery.Evidence{Known: at(5, 1, 10), Shown: at(4, 2, 20), Node: ln.PubKey{2, 1}.String(), Binding: "b"}
	text, err := good.Verify(signer)
	require.NoError(t, err)
	require.Contains(t, text, good.Node)
	for name, e := range map[string]recovery.Evidence{
		"it went on":                {Known: at(4, 2, 10), Shown: at(5, 1, 20)},
		"the same":                  {Known: at(4, 2, 10), Shown: at(4, 2, 20)},
		"shown before it was known": {Known: at(5, 1, 30), Shown: at(4, 2, 20)},
		"nothing":                   {},
		"one head":                  {Known: at(5, 1, 10)},
		"another node's binding":    {Known: good.Known, Shown: good.Shown, Node: ln.PubKey{3, 1}.String(), Binding: "b"},
	} {
		_, err := e.Verify(signer)
		require.Error(t, err, name)
	}
	forged := *good.Known
	forged.Seq = 50
	_, err = recovery.Evidence{Known: &forged, Shown: good.Shown}.Verify(signer)
	require.Error(t, err)
}

func FuzzEvidence(f *testing.F) {
	s, acc := heads(f)
	h, err := s.Head(acc, vault.Epoch{}, time.UnixMilli(1), make([]byte, vault.NonceSize))
	require.NoError(f, err)
	raw, err := json.Marshal(recovery.Evidence{Known: recovery.FromSigned(h), Shown: recovery.FromSigned(h)})
	require.NoError(f, err)
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e recovery.Evidence
		if json.Unmarshal(raw, &e) != nil {
			return
		}
		if text, err := e.Verify(func(string, string) (ln.PubKey, error) { return ln.PubKey{}, nil }); err == nil {
			t.Fatalf("one honest head proved %q", text)
		}
	})
}

func FuzzWitness(f *testing.F) {
	raw, err := json.Marshal(recovery.Witness{Require: 2, Of: 3, Marks: []recovery.Mark{mark("a", 1)}})
	require.NoError(f, err)
	f.Add(raw)
	f.Fuzz(func(_ *testing.T, raw []byte) {
		w, err := recovery.DecodeWitness(raw)
		if err != nil {
			return
		}
		for _, m := range w.Merge(w).Without("a").Marks {
			_, _ = m.Receipt.Signed()
		}
	})
}
