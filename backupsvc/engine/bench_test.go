package engine_test

import (
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/backupsvc/engine"
	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// BenchmarkPut overwrites one object of 1 KiB per client, receipted and durable
// as in production.
func BenchmarkPut(b *testing.B) {
	for _, name := range []store.Engine{store.SQLite, store.Postgres} {
		for _, clients := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/clients=%d", name, clients), func(b *testing.B) {
				cfg := storetest.SQLite(b)
				if name == store.Postgres {
					cfg = storetest.StartPostgres(b, true).Database(b)
				}
				cfg.Log = zap.NewNop()
				benchmarkPut(b, cfg, clients)
			})
		}
	}
}

func benchmarkPut(b *testing.B, cfg store.Config, clients int) {
	db := storetest.Open(b, cfg)
	require.NoError(b, backups.Migrate(b.Context(), db))
	secret, err := backups.SharedKey(b.Context(), db, rand.Reader)
	require.NoError(b, err)
	signer, err := vault.NewSigner(secret)
	require.NoError(b, err)
	c := engine.Defaults()
	c.Rate, c.NewPerHour, c.NewPerAddress = auth.Rate{PerSecond: 1e6, Burst: 1e6}, 1e6, 1e6
	c.Quota.DayWrites, c.Quota.DayBytes = 1<<40, 1<<50
	e, err := engine.New(engine.Options{DB: db, Signer: signer, Config: c, Now: time.Now, Log: zap.NewNop()})
	require.NoError(b, err)
	go func() { _ = e.Run(b.Context()) }()
	value := make([]byte, 1024)
	_, err = rand.Read(value)
	require.NoError(b, err)
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	start := time.Now()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			id := vault.Identity(fmt.Sprintf("sig:%d", i))
			for n := int64(0); left.Add(-1) >= 0; n++ {
				_, err := e.Put(b.Context(), id, vault.Write{Store: "s", Puts: []vault.Item{{Key: "k", Version: n, Value: value}}})
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "puts/s")
}
