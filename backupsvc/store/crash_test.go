package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// TestCrashAtEveryCommit ends the process before and after each commit of a
// history of writes and a sweep. Whoever comes back finds each write whole or
// not at all, a log that holds together, and everything that was acknowledged.
func TestCrashAtEveryCommit(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cfg.Hooks = faults.Hooks()
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		cfg.Now = func() time.Time { return now }
		db := storetest.Open(t, cfg)
		s := vaultOn(t, db)
		zero := int64(0)
		writes := []vault.Write{
			{Store: "s", GlobalVersion: &zero, Puts: []vault.Item{kv("a", 0, "1"), kv("b", 0, "1")}},
			{Store: "s", Puts: []vault.Item{kv("a", 1, "2"), kv("b", 1, "2")}},
			{Store: "s", Puts: []vault.Item{kv("c", 0, "2")}, Deletes: []vault.Item{kv("b", 2, "")}},
			{Store: "s", Puts: []vault.Item{kv("a", 2, "3")}},
		}
		sweeping := backups.Sweeping{Quota: terms().Quota, LogEntries: 100, ChangedAfter: 0, AnyAfter: time.Hour}
		history := func() (acked int, err error) {
			for _, w := range writes {
				j := &backups.Job{Identity: alice, Write: w}
				if err := s.Apply(t.Context(), terms(), j); err != nil {
					return acked, err
				}
				require.NoError(t, j.Refusal)
				acked++
			}
			_, err = s.Sweep(t.Context(), sweeping)
			return acked, err
		}
		// After each number of writes, what is there.
		states := []string{"", "1/1 2/1 global 1", "2/2 2/2 global 1", "3", "4"}
		for _, point := range []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit} {
			for n := int64(1); ; n++ {
				require.NoError(t, storetest.Empty(t.Context(), db))
				faults.CrashAt(n, point)
				acked, err := history()
				if err == nil {
					faults.Restart()
					require.Greater(t, n, int64(len(writes)), "the sweep commits as well")
					break
				}
				require.True(t, errors.Is(err, storetest.ErrCrashed), "%v", err)
				faults.Restart()
				name := fmt.Sprintf("%s commit %d, %d acknowledged", point, n, acked)
				acc := checkLog(t, s, alice)
				done := 0
				for sum := uint64(0); sum < acc.Seq; done++ {
					sum += uint64(len(writes[done].Puts) + len(writes[done].Deletes))
					if writes[done].GlobalVersion != nil {
						sum++
					}
					require.LessOrEqual(t, sum, acc.Seq, "%s: half a write", name)
				}
				require.GreaterOrEqual(t, done, acked, name)
				require.LessOrEqual(t, done, acked+1, name)
				require.Less(t, done, len(states), name)
				_, a := get(t, s, alice, "s", "a")
				_, b := get(t, s, alice, "s", "b")
				_, c := get(t, s, alice, "s", "c")
				want := [][3]int64{{-1, -1, -1}, {1, 1, -1}, {2, 2, -1}, {2, -1, 1}, {3, -1, 1}}[done]
				require.Equal(t, want, [3]int64{a, b, c}, name)
			}
		}
	})
}

// TestNothingIsAcknowledgedOnAFullDisk: a failing commit is an error, changes
// nothing, and the vault goes on when there is room again.
func TestNothingIsAcknowledgedOnAFullDisk(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cfg.Hooks = faults.Hooks()
		s := vaultOn(t, storetest.Open(t, cfg))
		mustPut(t, s, alice, "s", kv("k", 0, "1"))
		for _, fault := range []storetest.Fault{storetest.Full, storetest.Gone, storetest.Locked} {
			faults.Set(fault)
			err := s.Apply(t.Context(), terms(), &backups.Job{Identity: alice, Write: vault.Write{Store: "s", Puts: []vault.Item{kv("k", 1, "2")}}})
			require.ErrorIs(t, err, store.ErrUnavailable)
			faults.Set(storetest.Healthy)
			value, _ := get(t, s, alice, "s", "k")
			require.Equal(t, "1", value)
		}
		mustPut(t, s, alice, "s", kv("k", 1, "2"))
		checkLog(t, s, alice)
	})
}

// TestSQLiteIsFull lets SQLite itself run out of room in the middle of writes,
// large and small, alone and together: what was acknowledged stays and is served,
// nothing else is there, and writes go on once there is room.
func TestSQLiteIsFull(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	s := vaultOn(t, db)
	// SQLite's own limit, on the one connection that writes.
	limit := func(pages string) {
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.ExecContext(ctx, "PRAGMA max_page_count = "+pages)
			return err
		}))
	}
	mustPut(t, s, alice, "s", kv("k", 0, "1"))
	limit("150")
	large := strings.Repeat("x", 20_000)
	acked, full := 0, 0
	for i := range 60 {
		jobs := []*backups.Job{
			{Identity: alice, Write: vault.Write{Store: "s", Puts: []vault.Item{kv(fmt.Sprint("large", i), 0, large)}}},
			{Identity: "sig:other", Write: vault.Write{Store: "s", Puts: []vault.Item{kv(fmt.Sprint("small", i), 0, "x")}}},
		}
		err := s.Apply(t.Context(), terms(), jobs...)
		if err == nil {
			require.Zero(t, full, "there is no more room than before")
			acked++
			continue
		}
		require.ErrorIs(t, err, store.ErrUnavailable)
		require.NotErrorIs(t, err, store.ErrOutcomeUnknown, "nothing was changed")
		full++
	}
	require.Positive(t, acked)
	require.Positive(t, full)
	check := func(acked int) {
		for _, id := range []vault.Identity{alice, "sig:other"} {
			acc := checkLog(t, s, id)
			extra := uint64(0)
			if id == alice {
				extra = 1
			}
			require.EqualValues(t, uint64(acked)+extra, acc.Seq)
		}
		for i := range acked {
			value, _ := get(t, s, alice, "s", fmt.Sprint("large", i))
			require.Equal(t, large, value)
		}
	}
	check(acked)
	limit("1000000")
	for i := range 3 {
		mustPut(t, s, alice, "s", kv(fmt.Sprint("large", acked+i), 0, large))
		mustPut(t, s, "sig:other", "s", kv(fmt.Sprint("small", acked+i), 0, "x"))
	}
	check(acked + 3)
}

// TestPostgresKilled ends the database itself, as kill -9 does, in the middle of
// writes: what was acknowledged is there afterwards.
func TestPostgresKilled(t *testing.T) {
	srv := storetest.StartPostgres(t, true)
	cfg := srv.Database(t)
	cfg.RetryFor = time.Second
	db := storetest.Open(t, cfg)
	s := vaultOn(t, db)
	const writers = 4
	acked := make([]int64, writers)
	var wg sync.WaitGroup
	var begun sync.WaitGroup
	begun.Add(writers)
	for i := range writers {
		wg.Go(func() {
			id := vault.Identity(fmt.Sprintf("sig:%d", i))
			for n := int64(0); ; n++ {
				j := &backups.Job{Identity: id, Write: vault.Write{Store: "s", Puts: []vault.Item{kv("k", n, fmt.Sprint(n))}}}
				if err := s.Apply(context.Background(), terms(), j); err != nil || j.Refusal != nil {
					return
				}
				acked[i] = n + 1
				if n == 9 {
					begun.Done()
				}
			}
		})
	}
	begun.Wait()
	require.NoError(t, srv.Kill())
	wg.Wait()
	require.NoError(t, srv.Start())
	s = backups.New(storetest.Open(t, cfg), server())
	for i := range writers {
		id := vault.Identity(fmt.Sprintf("sig:%d", i))
		acc := checkLog(t, s, id)
		require.GreaterOrEqual(t, acc.Seq, uint64(acked[i]))
		require.LessOrEqual(t, acc.Seq, uint64(acked[i])+1)
		value, v := get(t, s, id, "s", "k")
		require.EqualValues(t, acc.Seq, v)
		require.Equal(t, fmt.Sprint(v-1), value)
	}
}
