package recovery_test

import (
	"encoding/json"
	"fmt"
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
// providers, and counted one as backed up only when require of n had it. Then
// some providers are silent or lie about what they have. Whatever the choice,
// without a reason against it it is no older than the newest version that
// counted, as long as fewer than require of those that hold it are silent or lie
// alike.
func TestNothingNewerIsMissed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "n")
		require := rapid.IntRange(1, n).Draw(t, "require")
		has := make([]uint64, n)
		var counted uint64
		for v := uint64(1); v <= uint64(rapid.IntRange(1, 5).Draw(t, "versions")); v++ {
			got := 0
			for i := range n {
				if rapid.Bool().Draw(t, "acknowledges") {
					has[i] = v
					got++
				}
			}
			if got >= require {
				counted = v
			}
		}
		faulty := 0
		found := make([]recovery.Found, n)
		for i := range n {
			found[i] = recovery.Found{Place: fmt.Sprint(i), Name: fmt.Sprint(i)}
			shown := has[i]
			switch rapid.IntRange(0, 3).Draw(t, "fault") {
			case 1:
				found[i].Err = "down"
				continue
			case 2:
				found[i].Damaged = "damaged"
				continue
			case 3:
				if faulty+1 < require {
					faulty++
					shown = rapid.Uint64Range(0, has[i]).Draw(t, "shown")
				}
			}
			if shown > 0 {
				found[i].Snapshot = &recovery.Snapshot{Ref: recovery.Ref{Number: shown}}
			}
		}
		silent := 0
		for _, f := range found {
			if f.Err != "" || f.Damaged != "" {
				silent++
			}
		}
		c := recovery.Choose(found, require)
		if len(c.Against) > 0 {
			return
		}
		if c.Best < 0 {
			t.Fatal("nothing was found, and nothing is against it")
		}
		// Silent and lying ones together must not be all that hold it.
		if silent+faulty < require && found[c.Best].Snapshot.Number < counted {
			t.Fatalf("version %d was chosen, %d counted", found[c.Best].Snapshot.Number, counted)
		}
	})
}

func mark(place string, number uint64) recovery.Mark {
	return recovery.Mark{Place: place, Name: place, Channels: recovery.Ref{Number: number}}
}

func TestMarksOfOthersCount(t *testing.T) {
	found := []recovery.Found{
		{Place: "a", Name: "a", Snapshot: &recovery.Snapshot{Ref: recovery.Ref{Number: 3}}, Witness: &recovery.Witness{Require: 1, Of: 3, Marks: []recovery.Mark{mark("a", 9), mark("b", 5)}}},
		{Place: "b", Name: "b"},
	}
	m, ok := recovery.Known(found, "b")
	require.True(t, ok)
	require.EqualValues(t, 5, m.Channels.Number)
	_, ok = recovery.Known(found, "a")
	require.False(t, ok, "what a provider keeps of itself proves nothing")
	c := recovery.Choose(found, 2)
	require.Equal(t, 0, c.Best)
	require.Contains(t, c.Notes["b"], "has nothing, but acknowledged version 5")
	text := strings.Join(c.Against, "\n")
	require.Contains(t, text, "b acknowledged version 5")
	require.Contains(t, text, "1 provider(s) did not answer", "the third of the lost machine's is not even configured, and require was 1")
}

func TestMergeKeepsTheNewest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) recovery.Witness {
			var w recovery.Witness
			for _, p := range rapid.SliceOfDistinct(rapid.StringMatching(`[a-d]`), rapid.ID[string]).Draw(t, label) {
				w.Marks = append(w.Marks, mark(p, rapid.Uint64Range(1, 4).Draw(t, "number")))
			}
			w.Names = rapid.SliceOfDistinct(rapid.StringMatching(`[x-z]`), rapid.ID[string]).Draw(t, label+" names")
			return w
		}
		a, b := draw("a"), draw("b")
		m := a.Merge(b)
		want := map[string]uint64{}
		for _, x := range append(slices.Clone(a.Marks), b.Marks...) {
			want[x.Place] = max(want[x.Place], x.Channels.Number)
		}
		if len(m.Marks) != len(want) {
			t.Fatalf("%v", m.Marks)
		}
		for _, x := range m.Marks {
			if x.Channels.Number != want[x.Place] {
				t.Fatalf("%v, want %v", x, want)
			}
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
