package engine_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/backupsvc/engine"
	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

const alice = vault.Identity("sig:02aa")

// start runs an engine on a database until the test ends.
func start(t *testing.T, cfg store.Config, change func(*engine.Config)) *engine.Engine {
	t.Helper()
	db := storetest.Open(t, cfg)
	require.NoError(t, backups.Migrate(t.Context(), db))
	secret, err := backups.SharedKey(t.Context(), db, rand.Reader)
	require.NoError(t, err)
	signer, err := vault.NewSigner(secret)
	require.NoError(t, err)
	epoch, err := backups.Epoch(t.Context(), db, rand.Reader)
	require.NoError(t, err)
	c := engine.Defaults()
	c.Rate, c.NewPerHour, c.NewPerAddress = auth.Rate{PerSecond: 1e6, Burst: 1e6}, 1e6, 1e6
	if change != nil {
		change(&c)
	}
	e, err := engine.New(engine.Options{DB: db, Signer: signer, Epoch: epoch, Config: c, Now: time.Now, Log: zaptest.NewLogger(t)})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-done)
	})
	return e
}

func put(key string, version int64, value string) vault.Write {
	return vault.Write{Store: "s", Puts: []vault.Item{{Key: key, Version: version, Value: []byte(value)}}}
}

// TestManyAtOnce: writes that share commits keep their order within each
// identity, and each has a receipt that continues the one before.
func TestManyAtOnce(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		e := start(t, cfg, nil)
		const clients, writes = 24, 12
		var wg sync.WaitGroup
		for c := range clients {
			wg.Go(func() {
				id := vault.Identity(fmt.Sprintf("sig:%d", c))
				known, err := e.Head(t.Context(), id, make([]byte, vault.NonceSize))
				require.NoError(t, err)
				for n := range writes {
					r, err := e.Put(t.Context(), id, put("k", int64(n), fmt.Sprint(n)))
					require.NoError(t, err)
					require.NoError(t, r.Verify())
					verdict, err := vault.Compare(known.Head, r.Head.Head, r.Entries)
					require.NoError(t, err)
					require.Equal(t, vault.Continues, verdict)
					known = r.Head
				}
				obj, head, err := e.GetProven(t.Context(), id, "s", "k", bytes.Repeat([]byte{1}, vault.NonceSize))
				require.NoError(t, err)
				require.NoError(t, head.Verify())
				require.Equal(t, fmt.Sprint(writes-1), string(obj.Value))
				verdict, err := vault.Compare(known.Head, head.Head, nil)
				require.NoError(t, err)
				require.Equal(t, vault.Same, verdict)
			})
		}
		wg.Wait()
	})
}

// TestDevicesRace: two devices of one identity, and only one write of each
// version is acknowledged.
func TestDevicesRace(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		e := start(t, cfg, nil)
		var wins atomic.Int64
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				_, err := e.Put(t.Context(), alice, put("k", 0, "mine"))
				if err == nil {
					wins.Add(1)
					return
				}
				require.ErrorIs(t, err, vault.ErrConflict)
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, wins.Load())
	})
}

func TestLostAnswer(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cfg.Hooks = faults.Hooks()
		e := start(t, cfg, nil)
		_, err := e.Put(t.Context(), alice, put("k", 0, "1"))
		require.NoError(t, err)
		// The first sweep may come in between, and it is its answer that is lost.
		version := int64(1)
		for lost := false; !lost; version++ {
			require.Less(t, version, int64(5))
			faults.LoseAnswer(1)
			_, err = e.Put(t.Context(), alice, put("k", version, "2"))
			lost = err != nil
		}
		require.ErrorIs(t, err, errkind.Unavailable)
		require.Contains(t, errkind.Sentence(err), "unknown", "no receipt, and no claim that nothing happened")
		_, err = e.Put(t.Context(), alice, put("k", version-1, "2"))
		require.ErrorIs(t, err, vault.ErrConflict, "it had taken place")
		faults.Set(storetest.Full)
		_, err = e.Put(t.Context(), alice, put("k", version, "3"))
		require.ErrorIs(t, err, errkind.Unavailable)
		require.Contains(t, errkind.Sentence(err), "nothing was changed")
		faults.Set(storetest.Healthy)
		_, err = e.Put(t.Context(), alice, put("k", version, "3"))
		require.NoError(t, err)
	})
}

func TestWatch(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		e := start(t, cfg, nil)
		_, err := e.Put(t.Context(), alice, put("k", 0, "1"))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		heard := make(chan vault.Entry, 10)
		enough := errors.New("enough")
		done := make(chan error, 1)
		go func() {
			done <- e.Watch(ctx, alice, 0, func(entries []vault.Entry) error {
				for _, entry := range entries {
					heard <- entry
					if entry.Seq == 3 {
						return enough
					}
				}
				return nil
			})
		}()
		require.EqualValues(t, 1, (<-heard).Seq, "what was there")
		for n := int64(1); n < 3; n++ {
			_, err = e.Put(t.Context(), alice, put("k", n, "x"))
			require.NoError(t, err)
			require.EqualValues(t, n+1, (<-heard).Seq, "what came")
		}
		require.ErrorIs(t, <-done, enough)
		err = e.Watch(ctx, alice, 4, func([]vault.Entry) error { return nil })
		require.ErrorIs(t, err, errkind.Conflict, "a log that ends before what the client knows is said so")
	})
}

func TestLimits(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		e := start(t, cfg, func(c *engine.Config) {
			c.NewPerHour, c.NewPerAddress = 4, 2
			c.Rate = auth.Rate{PerSecond: 0.001, Burst: 3}
		})
		for i := range 4 {
			_, err := e.Put(t.Context(), vault.Identity(fmt.Sprintf("sig:%d", i)), put("k", 0, "v"))
			if i < 2 {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, errkind.Exhausted, "the third newcomer from one address in an hour")
			}
		}
		for i := range 3 {
			from := engine.From(t.Context(), fmt.Sprint("198.51.100.", i))
			_, err := e.Put(from, vault.Identity(fmt.Sprintf("sig:other%d", i)), put("k", 0, "v"))
			require.Equal(t, i < 2, err == nil, "four newcomers from all addresses: %v", err)
		}
		_, err := e.Get(t.Context(), "sig:0", "s", "k")
		require.NoError(t, err)
		_, err = e.Get(t.Context(), "sig:0", "s", "k")
		require.NoError(t, err)
		_, err = e.Get(t.Context(), "sig:0", "s", "k")
		require.ErrorIs(t, err, errkind.Exhausted)
		_, err = e.Get(t.Context(), "sig:1", "s", "k")
		require.NoError(t, err, "each identity has a rate of its own")

		for _, bytes := range []int64{1 << 60, -1} {
			require.ErrorIs(t, e.SetLimits(t.Context(), "sig:0", vault.Quota{Bytes: bytes}, false), errkind.Invalid)
		}
	})
}

func TestFullServerTakesNoNewcomers(t *testing.T) {
	e := start(t, storetest.SQLite(t), func(c *engine.Config) { c.MaxIdentities = 1 })
	_, err := e.Put(t.Context(), alice, put("k", 0, "v"))
	require.NoError(t, err)
	// The sum is taken every few seconds: Collect shows when it is.
	require.Eventually(t, func() bool { return e.Totals().Identities == 1 }, 30*time.Second, 10*time.Millisecond)
	_, err = e.Put(t.Context(), "sig:new", put("k", 0, "v"))
	require.ErrorIs(t, err, vault.ErrQuota)
	_, err = e.Put(t.Context(), alice, put("k", 1, "v"))
	require.NoError(t, err)
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(e.Collector()))
	found, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, found, 6)
}

// TestStoppedServiceAnswers: nobody waits for a service that has stopped.
func TestStoppedServiceAnswers(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, backups.Migrate(t.Context(), db))
	signer, err := vault.NewSigner(bytes.Repeat([]byte{1}, 32))
	require.NoError(t, err)
	e, err := engine.New(engine.Options{DB: db, Signer: signer, Config: engine.Defaults(), Now: time.Now, Log: zaptest.NewLogger(t)})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	require.NoError(t, e.Run(ctx))
	_, err = e.Put(t.Context(), alice, put("k", 0, "v"))
	require.ErrorIs(t, err, errkind.Unavailable)
}

func TestSettings(t *testing.T) {
	require.NoError(t, engine.Defaults().Validate())
	for name, change := range map[string]func(*engine.Config){
		"objects larger than all": func(c *engine.Config) { c.Quota.ObjectBytes = c.Quota.Bytes + 1 },
		"no quota":                func(c *engine.Config) { c.Quota = vault.Quota{} },
		"no identities":           func(c *engine.Config) { c.MaxIdentities = 0 },
		"no rate":                 func(c *engine.Config) { c.Rate = auth.Rate{} },
		"negative retention":      func(c *engine.Config) { c.Retention.Days = -1 },
	} {
		c := engine.Defaults()
		change(&c)
		require.Error(t, c.Validate(), name)
	}
}
