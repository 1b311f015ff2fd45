package fsm_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// BenchmarkSend prints what one Send costs until it is durable, on a disk that
// is waited for, beside a bare transaction of one INSERT on the same database:
// the floor. /parallel is the throughput of many instances at a time.
func BenchmarkSend(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) {
		cfg := storetest.SQLite(b)
		cfg.Log = zap.NewNop()
		benchmarkSend(b, cfg)
	})
	b.Run("postgres", func(b *testing.B) {
		cfg := storetest.StartPostgres(b, true).Database(b)
		cfg.Log = zap.NewNop()
		benchmarkSend(b, cfg)
	})
}

// benchmarkSend uses a machine that goes round in a circle, each transition with
// one effect that is done at once and leads to nothing.
func benchmarkSend(b *testing.B, cfg store.Config) {
	db := storetest.Open(b, cfg)
	m := escrow()
	m.Step = func(s state, v event) (state, []effect, error) {
		switch s := s.(type) {
		case stPaying:
			return stSettling(s), nil, nil
		case stSettling:
			return stPaying(s), nil, nil
		}
		return step(s, v)
	}
	e := started(b, newEngine(b, db, m, options{}))
	ctx := context.Background()
	create := func(id string) {
		if _, err := e.Create(ctx, id, stNew{}, evOffered{2}); err != nil {
			b.Fatal(err)
		}
	}
	require.NoError(b, db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, "CREATE TABLE floor (id BIGINT NOT NULL PRIMARY KEY, data TEXT NOT NULL)")
		return err
	}))
	b.Run("floor", func(b *testing.B) {
		var n atomic.Int64
		n.Store(time.Now().UnixNano())
		timed(b, func() error {
			return db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
				_, err := tx.ExecContext(ctx, "INSERT INTO floor (id, data) VALUES ($1, $2)", n.Add(1), strings.Repeat("x", 200))
				return err
			})
		})
	})
	b.Run("send", func(b *testing.B) {
		id := fmt.Sprint("one", time.Now().UnixNano())
		create(id)
		timed(b, func() error {
			_, err := e.Send(ctx, id, evDelivered{})
			return err
		})
	})
	b.Run("parallel", func(b *testing.B) {
		var next atomic.Int64
		b.SetParallelism(10)
		b.RunParallel(func(pb *testing.PB) {
			id := fmt.Sprint("many", time.Now().UnixNano(), next.Add(1))
			create(id)
			for pb.Next() {
				if _, err := e.Send(ctx, id, evDelivered{}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// timed reports the median and the 99th percentile beside the mean.
func timed(b *testing.B, f func() error) {
	b.Helper()
	times := make([]time.Duration, 0, b.N)
	for b.Loop() {
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
}
