package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

const keyDays = 30 * 24 * time.Hour

func migrated(t *testing.T, open func() *store.DB) *store.DB {
	t.Helper()
	db := open()
	require.NoError(t, lspstore.Migrate(t.Context(), db))
	return db
}

func replica(db *store.DB, now func() time.Time) *keyring {
	return &keyring{db: db, every: keyDays, now: now, random: rand.Reader, log: zap.NewNop()}
}

func stored(t *testing.T, db *store.DB) (keys []lspdb.LspPromiseKey) {
	t.Helper()
	require.NoError(t, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) (err error) {
		keys, err = lspdb.New(tx).PromiseKeys(ctx)
		return err
	}))
	return keys
}

// TestKeysRotate is two replicas over two months: what one promises the other
// honours, before, during and after each change of the key, and no longer than
// the promise is valid for.
func TestKeysRotate(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		clock := func() time.Time { return now }
		a, b := replica(migrated(t, open), clock), replica(open(), clock)
		client := ln.PubKey{2, 1}
		offer := func(k *keyring) lsp.OpeningFeeParams {
			t.Helper()
			items, err := k.promise(t.Context(), client, []lsp.OpeningFeeParams{{MinFeeMsat: 7, ValidUntil: now.Add(lsp.MaxOfferFor)}})
			require.NoError(t, err)
			return items[0]
		}
		honour := func(o lsp.OpeningFeeParams) {
			t.Helper()
			for _, k := range []*keyring{a, b} {
				require.NoError(t, k.verify(t.Context(), client, o))
			}
		}
		// Nothing was read yet: promising reads, and makes the first key.
		first := offer(a)
		honour(first)
		require.Len(t, stored(t, a.db), 1)
		require.ErrorIs(t, a.verify(t.Context(), ln.PubKey{2, 2}, first), lsp.ErrPromiseBad)

		// A day before it is due nothing changes.
		now = now.Add(keyDays - 24*time.Hour)
		require.NoError(t, a.refresh(t.Context()))
		require.Len(t, stored(t, a.db), 1)

		// Due: one replica makes the next key, which nobody signs with before the
		// other has had time to read it.
		now = now.Add(24 * time.Hour)
		require.NoError(t, b.refresh(t.Context()))
		require.Len(t, stored(t, a.db), 2)
		require.Equal(t, []bool{true, false}, signing(b))
		early := offer(b)
		honour(early)
		require.NoError(t, a.refresh(t.Context()))
		require.NoError(t, b.refresh(t.Context()))
		require.Len(t, stored(t, a.db), 2, "one key, whoever looks")

		// Its turn. What the old key promised last is honoured to its end.
		now = now.Add(4 * time.Minute)
		require.NoError(t, a.refresh(t.Context()))
		now = now.Add(time.Minute)
		require.NoError(t, b.refresh(t.Context()))
		last := offer(a) // a has not read in the last minute: still the old key
		require.NoError(t, a.refresh(t.Context()))
		require.Equal(t, []bool{false, true}, signing(a))
		require.Equal(t, signing(a), signing(b))
		late := offer(b)
		require.NotEqual(t, version(last), version(late))
		honour(early)
		honour(last)
		honour(late)

		now = now.Add(lsp.MaxOfferFor - time.Second)
		require.NoError(t, a.refresh(t.Context()))
		honour(last)
		require.NoError(t, last.Valid(now))

		// Nothing that it promised is valid any more: it goes, and what it
		// promised is unknown from then on.
		now = now.Add(11 * time.Minute)
		require.NoError(t, a.refresh(t.Context()))
		require.Len(t, stored(t, a.db), 1)
		require.NoError(t, b.refresh(t.Context()))
		for _, k := range []*keyring{a, b} {
			err := k.verify(t.Context(), client, last)
			require.ErrorIs(t, err, lsp.ErrPromiseOldKey)
			require.Equal(t, errkind.Invalid, errkind.Of(err))
			require.Contains(t, errkind.Sentence(err), "expired or is unknown")
			require.NoError(t, k.verify(t.Context(), client, late))
		}

		// A replica that was away for a year finds keys that it never saw.
		now = now.Add(365 * 24 * time.Hour)
		require.NoError(t, b.refresh(t.Context()))
		now = now.Add(5 * time.Minute)
		require.NoError(t, b.refresh(t.Context()))
		require.NoError(t, a.verify(t.Context(), client, offer(b)))
	})
}

func version(o lsp.OpeningFeeParams) string { return o.Promise[:12] }

func signing(k *keyring) (out []bool) {
	for _, s := range k.status() {
		out = append(out, s.Signs)
	}
	return out
}

// TestOneKeyForAll: replicas that find a key due at the same moment agree on
// one.
func TestOneKeyForAll(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		clock := func() time.Time { return now }
		replicas := []*keyring{replica(migrated(t, open), clock)}
		for range 3 {
			replicas = append(replicas, replica(open(), clock))
		}
		for want := 1; want <= 2; want++ {
			var all sync.WaitGroup
			errs := make([]error, len(replicas))
			for i, k := range replicas {
				all.Go(func() { errs[i] = k.refresh(t.Context()) })
			}
			all.Wait()
			require.NoError(t, errors.Join(errs...))
			require.Len(t, stored(t, replicas[0].db), want)
			for _, k := range replicas[1:] {
				require.NoError(t, k.refresh(t.Context()))
				require.Equal(t, replicas[0].keys[0], k.keys[0])
			}
			now = now.Add(keyDays)
		}
	})
}

// TestKeysNeedTheLease: a process that lost its lease makes no key, and goes on
// with those it has only as long as no other can have changed them.
func TestKeysNeedTheLease(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		k := replica(migrated(t, open), func() time.Time { return now })
		require.NoError(t, k.refresh(t.Context()))
		lost := errors.New("the lease is another's")
		k.fence = func(context.Context, *store.Tx) error { return lost }
		now = now.Add(keyDays)
		require.ErrorIs(t, k.refresh(t.Context()), lost)
		require.Len(t, stored(t, k.db), 1)
		_, err := k.promise(t.Context(), ln.PubKey{2}, []lsp.OpeningFeeParams{{}})
		require.ErrorIs(t, err, errkind.Unavailable)
		require.NotContains(t, errkind.Sentence(err), "lease")
		require.ErrorIs(t, k.verify(t.Context(), ln.PubKey{2}, lsp.OpeningFeeParams{}), errkind.Unavailable)
	})
}

// TestDamagedKey: a secret that is cut short is an error, never a shorter key.
func TestDamagedKey(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := migrated(t, open)
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			_, err := lspdb.New(tx).InsertPromiseKey(ctx, lspdb.InsertPromiseKeyParams{Version: 1, Secret: make([]byte, 31)})
			return err
		}))
		require.ErrorContains(t, replica(db, time.Now).refresh(t.Context()), "damaged")
	})
}
