package engine_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	icstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// BenchmarkHold measures from lnd's offer to the handler's event, one durable
// commit on SQLite included; BenchmarkOrdinary an ordinary forward.
func BenchmarkHold(b *testing.B)     { bench(b, jitSCID) }
func BenchmarkOrdinary(b *testing.B) { bench(b, plainSCID) }

func bench(b *testing.B, scid ln.SCID) {
	cfg := storetest.SQLite(b)
	cfg.Log = nil
	db := storetest.Open(b, cfg)
	require.NoError(b, icstore.Migrate(b.Context(), db))
	ledger := icstore.New(db, leaseName)
	lnd := newFakeLnd(b)
	eng, err := engine.New(engine.Config{
		Open: lnd.Open, Rows: ledger, Handlers: ledger, Node: lnd, MaxHeld: 1 << 30, MaxHeldPerChannel: 482,
		Acquire: func(ctx context.Context) (engine.Lease, error) {
			return ledger.Acquire(ctx, store.LeaseConfig{Owner: "a"})
		},
		KeepForwarding: true, PollEvery: time.Hour,
	})
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = eng.Run(ctx) })
	require.NoError(b, eng.WaitActive(ctx))
	require.NoError(b, eng.Register(ctx, interceptor.HandlerConfig{Name: "jit", OnAbsent: interceptor.AbsentHold}))
	require.NoError(b, eng.ClaimRoutes(ctx, "jit", []interceptor.Route{{SCID: jitSCID}}))
	offered := make(chan ln.CircuitKey, 1000)
	running.Go(func() {
		_ = eng.Attach(ctx, "jit", func(ev interceptor.Event) {
			if ev.Kind == interceptor.EventOffered || ev.Kind == interceptor.EventSynced {
				offered <- ev.Row.Key
			}
		})
	})
	<-offered
	lnd.until("a stream", func() bool { return lnd.session != nil })
	first := lnd.add(1, plainSCID)
	lnd.until("warm", func() bool { return lnd.htlcs[first].moved })
	for b.Loop() {
		key := lnd.add(1, scid)
		if scid == jitSCID {
			require.Equal(b, key, <-offered)
			b.StopTimer()
			require.NoError(b, eng.Decide(ctx, decide(key, interceptor.ActionFail)))
			b.StartTimer()
			continue
		}
		lnd.until("resumed", func() bool { return lnd.htlcs[key].moved })
	}
}
