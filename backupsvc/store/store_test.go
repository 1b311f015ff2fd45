package store_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

const alice, bob = vault.Identity("sig:02aa"), vault.Identity("sig:02bb")

func server() vault.ServerKey { return vault.ServerKey{9} }

func terms() backups.Terms {
	return backups.Terms{Quota: vault.Quota{
		Bytes: 1 << 30, Objects: 1 << 20, ObjectBytes: 1 << 24, DayWrites: 1 << 20, DayBytes: 1 << 30, HistoryBytes: 1 << 30,
	}}
}

// vaultOn is a vault on a fresh database.
func vaultOn(t *testing.T, db *store.DB) *backups.Store {
	t.Helper()
	require.NoError(t, backups.Migrate(t.Context(), db))
	return backups.New(db, server())
}

func kv(key string, version int64, value string) vault.Item {
	return vault.Item{Key: key, Version: version, Value: []byte(value)}
}

// put applies one write and gives its refusal.
func put(t testing.TB, s *backups.Store, id vault.Identity, w vault.Write) (vault.Plan, error) {
	t.Helper()
	j := &backups.Job{Identity: id, Write: w}
	require.NoError(t, s.Apply(context.Background(), terms(), j))
	return j.Plan, j.Refusal
}

func mustPut(t testing.TB, s *backups.Store, id vault.Identity, storeID string, items ...vault.Item) vault.Plan {
	t.Helper()
	p, err := put(t, s, id, vault.Write{Store: storeID, Puts: items})
	require.NoError(t, err)
	return p
}

func get(t testing.TB, s *backups.Store, id vault.Identity, storeID, key string) (string, int64) {
	t.Helper()
	obj, _, err := s.Get(context.Background(), id, storeID, key)
	if errors.Is(err, errkind.NotFound) {
		return "", -1
	}
	require.NoError(t, err)
	return string(obj.Value), obj.Version
}

// checkLog recomputes an identity's whole log and compares it with its row.
func checkLog(t testing.TB, s *backups.Store, id vault.Identity) vault.Account {
	t.Helper()
	acc, err := s.Account(context.Background(), id)
	require.NoError(t, err)
	at, n := vault.Genesis(server(), id), uint64(0)
	for {
		entries, err := s.Entries(context.Background(), id, n, 7)
		require.NoError(t, err)
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			n++
			require.Equal(t, n, e.Seq)
			at = vault.Extend(at, e)
		}
	}
	require.Equal(t, acc.Seq, n)
	require.Equal(t, acc.Head, at)
	return acc
}

func each(t *testing.T, f func(t *testing.T, s *backups.Store, db *store.DB)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		f(t, vaultOn(t, db), db)
	})
}

func TestWritesAndReads(t *testing.T) {
	each(t, func(t *testing.T, s *backups.Store, _ *store.DB) {
		_, v := get(t, s, alice, "s", "k")
		require.EqualValues(t, -1, v)
		global, v := get(t, s, alice, "s", vault.GlobalVersionKey)
		require.Empty(t, global)
		require.Zero(t, v, "a store without a global version has version 0")

		first := int64(0)
		plan, err := put(t, s, alice, vault.Write{Store: "s", GlobalVersion: &first, Puts: []vault.Item{kv("k", 0, "one"), kv("empty", 0, "")}})
		require.NoError(t, err)
		require.Len(t, plan.Changes, 3)
		value, v := get(t, s, alice, "s", "k")
		require.Equal(t, "one", value)
		require.EqualValues(t, 1, v)
		value, v = get(t, s, alice, "s", "empty")
		require.Empty(t, value)
		require.EqualValues(t, 1, v)
		_, v = get(t, s, alice, "s", vault.GlobalVersionKey)
		require.EqualValues(t, 1, v)

		// One conflict, and nothing of the write happens.
		for _, w := range []vault.Write{
			{Store: "s", GlobalVersion: &first, Puts: []vault.Item{kv("k", 1, "two")}},
			{Store: "s", Puts: []vault.Item{kv("k", 1, "two"), kv("empty", 7, "")}},
			{Store: "s", Puts: []vault.Item{kv("k", 1, "two")}, Deletes: []vault.Item{kv("nothing", -1, "")}},
		} {
			_, err = put(t, s, alice, w)
			require.ErrorIs(t, err, vault.ErrConflict)
		}
		value, v = get(t, s, alice, "s", "k")
		require.Equal(t, "one", value)
		require.EqualValues(t, 1, v)

		// Other stores and other identities see nothing of it.
		_, v = get(t, s, alice, "", "k")
		require.EqualValues(t, -1, v)
		_, v = get(t, s, bob, "s", "k")
		require.EqualValues(t, -1, v)
		mustPut(t, s, bob, "s", kv("k", 0, "bob's"))
		value, _ = get(t, s, alice, "s", "k")
		require.Equal(t, "one", value)

		_, err = put(t, s, alice, vault.Write{Store: "s", Puts: []vault.Item{kv("k", -1, "three")}, Deletes: []vault.Item{kv("empty", 1, "")}})
		require.NoError(t, err)
		value, v = get(t, s, alice, "s", "k")
		require.Equal(t, "three", value)
		require.EqualValues(t, 1, v, "an unconditional put begins at 1 again")
		_, v = get(t, s, alice, "s", "empty")
		require.EqualValues(t, -1, v)

		acc := checkLog(t, s, alice)
		require.EqualValues(t, 2, acc.Objects)
		require.EqualValues(t, len("three"), acc.Bytes)
		require.EqualValues(t, len("one"), acc.HistoryBytes)
		require.EqualValues(t, 1, checkLog(t, s, bob).Seq)
	})
}

func TestLists(t *testing.T) {
	each(t, func(t *testing.T, s *backups.Store, _ *store.DB) {
		keys := func(p backups.Page) (out []string) {
			for _, k := range p.Keys {
				out = append(out, k.Key)
			}
			return out
		}
		list := func(prefix string, before uint64, limit int) backups.Page {
			p, err := s.List(t.Context(), alice, "s", prefix, before, limit)
			require.NoError(t, err)
			return p
		}
		page := list("", 0, 10)
		require.Empty(t, page.Keys)
		require.Zero(t, page.Next)
		require.EqualValues(t, 0, *page.Global)

		zero := int64(0)
		_, err := put(t, s, alice, vault.Write{Store: "s", GlobalVersion: &zero, Puts: []vault.Item{kv("m", 0, "1"), kv("a", 0, "22"), kv("z", 0, "")}})
		require.NoError(t, err)
		mustPut(t, s, alice, "s", kv("m", 1, "again"))
		mustPut(t, s, alice, "t", kv("other store", 0, ""))
		page = list("", 0, 10)
		require.Equal(t, []string{"z", "a", "m"}, keys(page), "newest created first; an update keeps its place")
		require.EqualValues(t, 2, page.Keys[2].Version)
		require.EqualValues(t, 1, *page.Global)
		require.Zero(t, page.Next)
		page = list("", 0, 3)
		require.Zero(t, page.Next, "an exact fit is the end")
		page = list("", 0, 0)
		require.Empty(t, page.Keys)
		require.EqualValues(t, 1, *page.Global)

		// Every key exactly once, while others come and go.
		page = list("", 0, 2)
		require.Equal(t, []string{"z", "a"}, keys(page))
		_, err = put(t, s, alice, vault.Write{Store: "s", Puts: []vault.Item{kv("new", 0, "")}, Deletes: []vault.Item{kv("z", 1, "")}})
		require.NoError(t, err)
		page = list("", page.Next, 2)
		require.Equal(t, []string{"m"}, keys(page))
		require.Nil(t, page.Global, "in first pages only")

		// A prefix is text, whatever it looks like to SQL.
		mustPut(t, s, alice, "p", kv("a%b", 0, ""), kv("a_b", 0, ""), kv("axb", 0, ""), kv("a", 0, ""), kv("A_b", 0, ""), kv("é", 0, ""), kv("éa", 0, ""), kv("a\x00b", 0, ""), kv(`a\b`, 0, ""), kv("\U0010ffff", 0, ""))
		for prefix, want := range map[string][]string{
			"a%": {"a%b"}, "a_": {"a_b"}, "%": nil, "_": nil, "A": {"A_b"}, "é": {"éa", "é"}, `a\`: {`a\b`}, "a\x00": {"a\x00b"}, "\U0010ffff": {"\U0010ffff"},
			"a": {`a\b`, "a\x00b", "a", "axb", "a_b", "a%b"},
		} {
			p, err := s.List(t.Context(), alice, "p", prefix, 0, 100)
			require.NoError(t, err)
			require.Equal(t, want, keys(p), "prefix %q", prefix)
		}
		_, err = s.List(t.Context(), alice, "s", "", 0, -1)
		require.ErrorIs(t, err, errkind.Invalid)
		_, err = s.List(t.Context(), alice, "s", "", 1<<63, 1)
		require.ErrorIs(t, err, errkind.Invalid)
		_, err = s.List(t.Context(), alice, "s", strings.Repeat("x", 601), 0, 1)
		require.ErrorIs(t, err, errkind.Invalid)
	})
}

func TestPagesAreBounded(t *testing.T) {
	each(t, func(t *testing.T, s *backups.Store, _ *store.DB) {
		items := make([]vault.Item, vault.MaxItems)
		for i := range items {
			items[i] = kv(fmt.Sprintf("k%04d", i), 0, "v")
		}
		mustPut(t, s, alice, "s", items...)
		seen, before, pages := map[string]bool{}, uint64(0), 0
		for {
			p, err := s.List(t.Context(), alice, "s", "k", before, 1<<30)
			require.NoError(t, err)
			require.LessOrEqual(t, len(p.Keys), vault.MaxPage)
			for _, k := range p.Keys {
				require.False(t, seen[k.Key])
				seen[k.Key] = true
			}
			pages++
			if before = p.Next; before == 0 {
				break
			}
		}
		require.Len(t, seen, vault.MaxItems)
		require.Equal(t, vault.MaxItems/vault.MaxPage, pages)
	})
}

// TestOneOfManyWins: devices that write at once with the same version never
// both succeed, and every success is in the log.
func TestOneOfManyWins(t *testing.T) {
	each(t, func(t *testing.T, s *backups.Store, _ *store.DB) {
		const devices, rounds = 6, 15
		mustPut(t, s, alice, "s", kv("k", 0, "0"))
		var wins atomic.Int64
		var wg sync.WaitGroup
		for d := range devices {
			wg.Go(func() {
				for r := range rounds {
					_, v := get(t, s, alice, "s", "k")
					_, err := put(t, s, alice, vault.Write{Store: "s", Puts: []vault.Item{kv("k", v, fmt.Sprint(d, r))}})
					if err == nil {
						wins.Add(1)
					} else {
						require.ErrorIs(t, err, vault.ErrConflict)
					}
					// Another identity's writes are nobody's conflict.
					own := vault.Identity(fmt.Sprintf("sig:%d", d))
					mustPut(t, s, own, "s", kv("k", int64(r), "x"))
				}
			})
		}
		wg.Wait()
		_, v := get(t, s, alice, "s", "k")
		require.EqualValues(t, 1+wins.Load(), v)
		require.Positive(t, wins.Load())
		acc := checkLog(t, s, alice)
		require.EqualValues(t, 1+wins.Load(), acc.Seq)
		for d := range devices {
			require.EqualValues(t, rounds, checkLog(t, s, vault.Identity(fmt.Sprintf("sig:%d", d))).Seq)
		}
	})
}

// TestTransactionsAreWhole: two keys that are always written together are never
// seen apart.
func TestTransactionsAreWhole(t *testing.T) {
	each(t, func(t *testing.T, s *backups.Store, _ *store.DB) {
		mustPut(t, s, alice, "s", kv("a", 0, "0"), kv("b", 0, "0"))
		done := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			defer close(done)
			for i := range 40 {
				mustPut(t, s, alice, "s", kv("a", int64(i)+1, fmt.Sprint(i)), kv("b", int64(i)+1, fmt.Sprint(i)))
			}
		})
		wg.Go(func() {
			for running := true; running; {
				select {
				case <-done:
					running = false
				default:
				}
				p, err := s.List(t.Context(), alice, "s", "", 0, 10)
				require.NoError(t, err)
				require.Len(t, p.Keys, 2)
				require.Equal(t, p.Keys[0].Version, p.Keys[1].Version)
			}
		})
		wg.Wait()
	})
}

// TestJobsShareATransaction: a refused job between two others costs neither.
func TestJobsShareATransaction(t *testing.T) {
	each(t, func(t *testing.T, s *backups.Store, _ *store.DB) {
		job := func(id vault.Identity, items ...vault.Item) *backups.Job {
			return &backups.Job{Identity: id, Write: vault.Write{Store: "s", Puts: items}}
		}
		jobs := []*backups.Job{
			job(alice, kv("k", 0, "1")), job(alice, kv("k", 0, "again")), job(alice, kv("k", 1, "2"), kv("", 0, "")),
			job(alice, kv("k", 1, "2")), job(bob, kv("k", 5, "")), job(bob, kv("k", 0, "b")),
		}
		require.NoError(t, s.Apply(t.Context(), terms(), jobs...))
		var refused []bool
		for _, j := range jobs {
			refused = append(refused, j.Refusal != nil)
		}
		require.Equal(t, []bool{false, true, true, false, true, false}, refused)
		require.Equal(t, jobs[0].Plan.Account.Head, jobs[3].Plan.Prev)
		require.EqualValues(t, 2, checkLog(t, s, alice).Seq)
		require.EqualValues(t, 1, checkLog(t, s, bob).Seq)
	})
}

func TestNewcomersAndLimits(t *testing.T) {
	each(t, func(t *testing.T, s *backups.Store, _ *store.DB) {
		mustPut(t, s, alice, "s", kv("k", 0, "12345"))
		full := func() error { return errkind.New(errkind.Exhausted, "full") }
		for id, ok := range map[vault.Identity]bool{alice: true, bob: false} {
			j := &backups.Job{Identity: id, Write: vault.Write{Store: "s", Puts: []vault.Item{kv("new", 0, "")}}, Newcomer: full}
			require.NoError(t, s.Apply(t.Context(), terms(), j))
			require.Equal(t, ok, j.Refusal == nil, id)
		}
		require.NoError(t, s.SetLimits(t.Context(), alice, vault.Quota{Bytes: 5}, false))
		_, err := put(t, s, alice, vault.Write{Store: "s", Puts: []vault.Item{kv("more", 0, "x")}})
		require.ErrorIs(t, err, vault.ErrQuota)
		mustPut(t, s, alice, "s", kv("k", 1, "54321"))
		require.NoError(t, s.SetLimits(t.Context(), alice, vault.Quota{}, true))
		_, err = put(t, s, alice, vault.Write{Store: "s", Puts: []vault.Item{kv("k", 2, "")}})
		require.ErrorIs(t, err, errkind.Denied)
		require.ErrorIs(t, s.SetLimits(t.Context(), bob, vault.Quota{}, true), errkind.NotFound)

		list, err := s.Identities(t.Context(), "", 10)
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.True(t, list[0].Blocked)
		one, stores, err := s.Tenancy(t.Context(), alice)
		require.NoError(t, err)
		require.EqualValues(t, 2, one.Objects)
		require.Equal(t, []backups.StoreUsage{{Store: "s", Objects: 2, Bytes: 5}}, stores)
		_, _, err = s.Tenancy(t.Context(), bob)
		require.ErrorIs(t, err, errkind.NotFound)
		totals, err := s.Totals(t.Context())
		require.NoError(t, err)
		require.Equal(t, backups.Totals{Identities: 1, Objects: 2, Bytes: 5, HistoryBytes: 5}, totals)
	})
}

func TestNoGrowth(t *testing.T) {
	each(t, func(t *testing.T, s *backups.Store, _ *store.DB) {
		mustPut(t, s, alice, "s", kv("k", 0, "12345"))
		full := terms()
		full.NoGrowth = true
		for _, c := range []struct {
			item vault.Item
			ok   bool
		}{{kv("k", 1, "123456"), false}, {kv("n", 0, ""), false}, {kv("k", 1, "54321"), true}, {kv("k", 2, ""), true}} {
			j := &backups.Job{Identity: alice, Write: vault.Write{Store: "s", Puts: []vault.Item{c.item}}}
			require.NoError(t, s.Apply(t.Context(), full, j))
			require.Equal(t, c.ok, j.Refusal == nil, c.item)
		}
		mustPut(t, s, alice, "s", kv("k", 3, "and back to normal"))
	})
}

func TestEpochAndSharedKey(t *testing.T) {
	each(t, func(t *testing.T, _ *backups.Store, db *store.DB) {
		first, err := backups.Epoch(t.Context(), db, rand.Reader)
		require.NoError(t, err)
		again, err := backups.Epoch(t.Context(), db, rand.Reader)
		require.NoError(t, err)
		require.Equal(t, first, again)
		next, err := backups.BeginEpoch(t.Context(), db, rand.Reader)
		require.NoError(t, err)
		require.NotEqual(t, first, next)
		again, err = backups.Epoch(t.Context(), db, rand.Reader)
		require.NoError(t, err)
		require.Equal(t, next, again)
		one, err := backups.SharedKey(t.Context(), db, rand.Reader)
		require.NoError(t, err)
		two, err := backups.SharedKey(t.Context(), db, rand.Reader)
		require.NoError(t, err)
		require.Equal(t, one, two)
	})
}

// TestCorruptValuesAreNotServed: a value that rotted on disk is an error, not an
// old or wrong channel state.
func TestCorruptValuesAreNotServed(t *testing.T) {
	each(t, func(t *testing.T, s *backups.Store, db *store.DB) {
		mustPut(t, s, alice, "s", kv("k", 0, "value"))
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.ExecContext(ctx, "UPDATE backups_log SET value = $1", []byte("other"))
			return err
		}))
		_, _, err := s.Get(t.Context(), alice, "s", "k")
		require.Error(t, err)
		require.Equal(t, errkind.Internal, errkind.Of(err))
		_, err = s.NextKept(t.Context(), alice, 0)
		require.Error(t, err)
	})
}

func TestSweep(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		cfg.Now = func() time.Time { return now }
		s := vaultOn(t, storetest.Open(t, cfg))
		sweeping := backups.Sweeping{
			Retention: vault.Retention{Versions: 2, Days: 3}, Quota: terms().Quota, LogEntries: 8, ChangedAfter: time.Minute, AnyAfter: 24 * time.Hour,
		}
		export := func() (out []string) {
			for after := uint64(0); ; {
				k, err := s.NextKept(t.Context(), alice, after)
				require.NoError(t, err)
				if k == nil {
					return out
				}
				after = k.Entry.Seq
				text := k.Entry.Key + "=" + string(k.Value)
				if k.Present {
					text += "!"
				}
				out = append(out, text)
			}
		}
		sweep := func(want int) {
			n, err := s.Sweep(t.Context(), sweeping)
			require.NoError(t, err)
			require.Equal(t, want, n)
			var sum int64
			acc, err := s.Account(t.Context(), alice)
			require.NoError(t, err)
			for _, text := range export() {
				if !strings.HasSuffix(text, "!") {
					sum += int64(len(text) - 2)
				}
			}
			require.Equal(t, sum, acc.HistoryBytes)
		}
		for i := range 6 {
			mustPut(t, s, alice, "s", kv("k", int64(i), fmt.Sprint(i)))
		}
		mustPut(t, s, alice, "s", kv("g", 0, "gone"))
		_, err := put(t, s, alice, vault.Write{Store: "s", Deletes: []vault.Item{kv("g", 1, "")}})
		require.NoError(t, err)
		require.Equal(t, []string{"k=0", "k=1", "k=2", "k=3", "k=4", "k=5!", "g=gone"}, export())
		checkLog(t, s, alice)
		sweep(1)
		require.Equal(t, []string{"k=3", "k=4", "k=5!", "g=gone"}, export())
		sweep(0)
		checkLog(t, s, alice)

		// A day later, nothing was written: what is due by age goes.
		now = now.Add(24 * time.Hour)
		mustPut(t, s, alice, "s", kv("k", 6, "6"))
		sweep(1)
		require.Equal(t, []string{"k=4", "k=5", "g=gone", "k=6!"}, export(), "the last of yesterday is kept")
		now = now.Add(5 * 24 * time.Hour)
		sweep(1)
		require.Equal(t, []string{"k=4", "k=5", "k=6!"}, export(), "what was deleted goes with its days")

		// The log is shortened, and says so; what is stored stays.
		_, err = s.Entries(t.Context(), alice, 0, 10)
		require.ErrorIs(t, err, errkind.NotFound)
		entries, err := s.Entries(t.Context(), alice, 1, 10)
		require.NoError(t, err)
		require.EqualValues(t, 2, entries[0].Seq)
		for range 20 {
			mustPut(t, s, alice, "s", kv("x", -1, ""))
		}
		now = now.Add(time.Hour)
		sweep(1)
		value, v := get(t, s, alice, "s", "k")
		require.Equal(t, "6", value)
		require.EqualValues(t, 7, v)
		acc, err := s.Account(t.Context(), alice)
		require.NoError(t, err)
		entries, err = s.Entries(t.Context(), alice, acc.Seq-8, 10)
		require.NoError(t, err)
		require.Len(t, entries, 8)

		// Past values beyond their bound: the oldest go, the present stays.
		sweeping.Quota.HistoryBytes = 1
		now = now.Add(time.Hour)
		mustPut(t, s, alice, "s", kv("k", 7, "7"))
		sweep(1)
		require.NotContains(t, export(), "k=4")
		require.Contains(t, export(), "k=6")
		require.Contains(t, export(), "k=7!")
	})
}
