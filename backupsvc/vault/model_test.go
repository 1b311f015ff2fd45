package vault_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/backupsvc/vault"
)

// TestModel runs random writes against the simplest store there is: a map. A
// write changes all that it names or nothing; counts equal what is there; the log
// holds together from its beginning.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type object struct {
			version int64
			value   string
		}
		quota := vault.Quota{
			Bytes: rapid.Int64Range(1, 60).Draw(t, "bytes"), Objects: rapid.Int64Range(1, 5).Draw(t, "objects"),
			ObjectBytes: 12, DayWrites: 500, DayBytes: 5000, HistoryBytes: 1,
		}
		s, err := vault.NewSigner([]byte("0123456789abcdef0123456789abcdef"))
		require.NoError(t, err)
		acc := vault.NewAccount(s.Key(), "sig:02")
		start := acc.Head
		held, model := map[string]vault.Held{}, map[string]object{}
		var log []vault.Entry
		keys := []string{"a", "b", "c", "d", "e", "f"}
		for range rapid.IntRange(1, 25).Draw(t, "writes") {
			w := vault.Write{Store: "s", Idempotent: rapid.Bool().Draw(t, "idempotent")}
			if rapid.Bool().Draw(t, "global") {
				w.GlobalVersion = global(max(0, model[vault.GlobalVersionKey].version+rapid.SampledFrom([]int64{0, 0, 0, -1, 1}).Draw(t, "off")))
			}
			for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 0, 4, rapid.ID[string]).Draw(t, "keys") {
				version := rapid.SampledFrom([]int64{-1, 0, model[key].version, model[key].version, model[key].version + 1}).Draw(t, "version")
				if rapid.Bool().Draw(t, "delete") {
					w.Deletes = append(w.Deletes, vault.Item{Key: key, Version: version})
				} else {
					w.Puts = append(w.Puts, item(key, version, rapid.StringMatching(`[a-z]{0,13}`).Draw(t, "value")))
				}
			}
			plan, err := vault.Decide(acc, held, w, quota, noon())
			if err != nil {
				require.Empty(t, plan.Changes)
				continue
			}
			receipt, err := s.Receipt(plan, epoch(), noon())
			require.NoError(t, err)
			require.NoError(t, receipt.Verify())
			require.Equal(t, acc.Head, receipt.Prev)
			acc = plan.Account
			for _, c := range plan.Changes {
				e := c.Entry
				before := model[e.Key]
				if e.Op == vault.OpDelete {
					require.Equal(t, before.version, e.Version)
					delete(model, e.Key)
					delete(held, e.Key)
				} else {
					require.Contains(t, []int64{1, before.version + 1}, e.Version)
					require.Equal(t, vault.ContentHash(c.Value), e.Content)
					model[e.Key] = object{e.Version, string(c.Value)}
					if before.version == 0 {
						require.Equal(t, e.Seq, c.Created, "what is new is the newest in lists")
					} else {
						require.Equal(t, held[e.Key].Created, c.Created, "what is updated keeps its place in lists")
					}
					held[e.Key] = vault.Held{Version: e.Version, Size: e.Size, Seq: e.Seq, Created: c.Created}
				}
				log = append(log, e)
			}
			var bytes int64
			for _, o := range model {
				bytes += int64(len(o.value))
			}
			require.Equal(t, bytes, acc.Bytes)
			require.EqualValues(t, len(model), acc.Objects)
			require.LessOrEqual(t, acc.Bytes, quota.Bytes)
			require.LessOrEqual(t, acc.Objects, quota.Objects)
			require.EqualValues(t, len(log), acc.Seq)
		}
		at := start
		for i, e := range log {
			require.EqualValues(t, i+1, e.Seq)
			at = vault.Extend(at, e)
		}
		require.Equal(t, at, acc.Head)
	})
}

// TestRetentionKeepsEnough: whatever the times, the newest values stay, no day
// within the time loses its last one, and dropping twice drops nothing more.
func TestRetentionKeepsEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := vault.Retention{Versions: rapid.IntRange(0, 5).Draw(t, "versions"), Days: rapid.IntRange(0, 10).Draw(t, "days")}
		at := noon().UnixMilli() - 20*86_400_000
		var past []vault.Past
		for i := range rapid.IntRange(0, 40).Draw(t, "values") {
			at += rapid.Int64Range(0, 86_400_000).Draw(t, "step")
			at = min(at, noon().UnixMilli())
			past = append(past, vault.Past{Seq: uint64(i + 1), AtMs: at})
		}
		dropped := map[uint64]bool{}
		for _, seq := range r.Drop(past, false, noon()) {
			require.False(t, dropped[seq])
			dropped[seq] = true
		}
		var kept []vault.Past
		last := map[int64]uint64{}
		for i, p := range past {
			if len(past)-i <= r.Versions {
				require.False(t, dropped[p.Seq], "one of the last %d", r.Versions)
			}
			last[p.AtMs/86_400_000] = p.Seq
			if !dropped[p.Seq] {
				kept = append(kept, p)
			}
		}
		for day, seq := range last {
			if day > vault.DayOf(noon())-int64(r.Days) {
				require.False(t, dropped[seq], "the last of day %d", day)
			}
		}
		require.LessOrEqual(t, len(kept), r.Versions+r.Days)
		require.Empty(t, r.Drop(kept, false, noon()), fmt.Sprint(kept))
	})
}
