package store_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

func short(owner string) store.LeaseConfig {
	return store.LeaseConfig{
		Name: "gw", Owner: owner, TTL: 3 * time.Second,
		Margin: 300 * time.Millisecond, RenewEvery: 300 * time.Millisecond,
	}
}

func TestLeaseHandover(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		a, b := open(), open()
		_, err := a.LeaseInfo(t.Context(), "gw")
		require.ErrorIs(t, err, store.ErrNotFound)
		first, err := a.AcquireLease(t.Context(), short("a"))
		require.NoError(t, err)
		require.EqualValues(t, 1, first.Epoch())
		require.True(t, first.Valid())

		// While it is renewed, nobody else gets it, for longer than its TTL.
		ctx, cancel := context.WithTimeout(t.Context(), 2*short("b").TTL)
		defer cancel()
		_, err = b.AcquireLease(ctx, short("b"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.True(t, first.Valid())
		check := func(l *store.Lease) error { return a.Write(t.Context(), l.Check) }
		require.NoError(t, check(first))

		require.NoError(t, first.Release(t.Context()))
		require.False(t, first.Valid())
		<-first.Lost()
		require.ErrorIs(t, check(first), store.ErrLeaseLost)
		second, err := b.AcquireLease(t.Context(), short("b"))
		require.NoError(t, err)
		require.EqualValues(t, 2, second.Epoch())
		info, err := a.LeaseInfo(t.Context(), "gw")
		require.NoError(t, err)
		require.Equal(t, "b", info.Owner)
		require.NoError(t, second.Release(t.Context()))
	})
}

// A holder that cannot reach the database stops before its successor starts, and
// what it writes afterwards is refused.
func TestLeaseOfACutOffHolder(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cut := cfg
		cut.Hooks = faults.Hooks()
		a, b := storetest.Open(t, cut), storetest.Open(t, cfg)
		first, err := a.AcquireLease(t.Context(), short("a"))
		require.NoError(t, err)
		faults.Set(storetest.Gone)
		second, err := b.AcquireLease(t.Context(), short("b"))
		require.NoError(t, err)
		require.False(t, first.Valid(), "both believed to have the lease")
		select {
		case <-first.Lost():
		case <-time.After(time.Second):
			t.Fatal("the holder was not told")
		}
		faults.Set(storetest.Healthy)
		require.ErrorIs(t, a.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return tx.CheckLease(ctx, "gw", first.Epoch())
		}), store.ErrLeaseLost)
		require.NoError(t, b.Write(t.Context(), second.Check))
		require.NoError(t, first.Release(t.Context()))
		require.NoError(t, second.Release(t.Context()))
	})
}

// A process that was frozen, or a machine that slept, finds its lease invalid at
// once, whatever its renewals think.
func TestLeaseOfAFrozenHolder(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	for name, jump := range map[string]func(time.Time) time.Time{
		"frozen": func(now time.Time) time.Time { return now.Add(time.Hour) },
		// A sleeping machine's monotonic clock stands still; only the wall clock
		// tells.
		"asleep": func(now time.Time) time.Time { return now.Add(time.Hour).Round(0) },
	} {
		t.Run(name, func(t *testing.T) {
			var (
				mu     sync.Mutex
				jumped bool
			)
			cfg := store.LeaseConfig{Name: name, Owner: "a", Now: func() time.Time {
				mu.Lock()
				defer mu.Unlock()
				if jumped {
					return jump(time.Now())
				}
				return time.Now()
			}}
			lease, err := db.AcquireLease(t.Context(), cfg)
			require.NoError(t, err)
			require.True(t, lease.Valid())
			mu.Lock()
			jumped = true
			mu.Unlock()
			require.False(t, lease.Valid())
			require.NoError(t, lease.Release(t.Context()))
		})
	}
}

// Many contenders for one lease: never two valid ones at a time, and every epoch
// is new.
func TestLeaseContenders(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		var (
			wg     sync.WaitGroup
			mu     sync.Mutex
			holder string
			epochs = make(map[int64]bool)
		)
		for _, owner := range []string{"a", "b", "c"} {
			db := open()
			wg.Go(func() {
				for range 3 {
					lease, err := db.AcquireLease(t.Context(), short(owner))
					if err != nil {
						t.Errorf("%s: %v", owner, err)
						return
					}
					mu.Lock()
					if holder != "" || epochs[lease.Epoch()] {
						t.Errorf("%s got epoch %d while %q held the lease", owner, lease.Epoch(), holder)
					}
					holder, epochs[lease.Epoch()] = owner, true
					mu.Unlock()
					mu.Lock()
					holder = ""
					mu.Unlock()
					if err := lease.Release(context.Background()); err != nil {
						t.Errorf("%s: %v", owner, err)
					}
				}
			})
		}
		wg.Wait()
		require.Len(t, epochs, 9)
	})
}

// A contender that was frozen must not take a lease that was renewed meanwhile.
func TestLeaseOfAFrozenContender(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	holder, err := db.AcquireLease(t.Context(), short("a"))
	require.NoError(t, err)
	calls := 0
	contender := store.LeaseConfig{
		Name: "gw", Owner: "b", TTL: 900 * time.Millisecond, Margin: 50 * time.Millisecond, RenewEvery: 800 * time.Millisecond,
		Now: func() time.Time {
			if calls++; calls <= 2 {
				return time.Now()
			}
			return time.Now().Add(time.Hour)
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
	defer cancel()
	_, err = db.AcquireLease(ctx, contender)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, holder.Valid())
	require.NoError(t, holder.Release(t.Context()))
}

// TestWriteFenced: what the fence refuses does not run, and the fence comes first.
func TestWriteFenced(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		var ran []string
		fence := func(err error) func(context.Context, *store.Tx) error {
			return func(context.Context, *store.Tx) error { ran = append(ran, "fence"); return err }
		}
		write := func(context.Context, *store.Tx) error { ran = append(ran, "write"); return nil }
		require.ErrorIs(t, db.WriteFenced(t.Context(), fence(store.ErrLeaseLost), write), store.ErrLeaseLost)
		require.Equal(t, []string{"fence"}, ran)
		require.NoError(t, db.WriteFenced(t.Context(), fence(nil), write))
		require.Equal(t, []string{"fence", "fence", "write"}, ran)
		require.NoError(t, db.WriteFenced(t.Context(), nil, write))
		require.Equal(t, []string{"fence", "fence", "write", "write"}, ran)
	})
}
