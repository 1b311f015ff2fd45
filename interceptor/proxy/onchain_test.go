package proxy_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/ballot"
	"github.com/sluice-lsp/sluice/interceptor/proxy"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// stranded is an interceptor with one row, whose HTLC is on chain by the time that anything
// is decided about it.
type stranded struct {
	interceptor.Registry
	interceptor.Ledger
	row     interceptor.Row
	decided atomic.Int64
}

func (*stranded) Register(context.Context, interceptor.HandlerConfig) error { return nil }

func (s *stranded) Attach(ctx context.Context, _ string, sink func(interceptor.Event)) error {
	sink(interceptor.Event{Kind: interceptor.EventOffered, Row: s.row})
	sink(interceptor.Event{Kind: interceptor.EventSynced})
	<-ctx.Done()
	return ctx.Err()
}

func (s *stranded) Decide(_ context.Context, d []interceptor.Decision) error {
	s.decided.Add(1)
	return &interceptor.RowError{Key: d[0].Key, State: interceptor.StateHeld, Err: interceptor.ErrOnChain}
}

// What programs say of an HTLC on chain changes nothing any more, and is said once.
func TestWhatIsOnChainIsToldOnce(t *testing.T) {
	hub, err := proxy.NewHub(proxy.HubConfig{
		Programs:  []proxy.Program{{Name: "a", MacaroonID: "a", WhileAway: interceptor.AbsentFail, WhenSlow: hold, AnswerWithin: time.Minute}},
		AwayGrace: time.Millisecond,
	})
	require.NoError(t, err)
	text, err := ballot.New("a").Text()
	require.NoError(t, err)
	s := &stranded{row: interceptor.Row{
		Key: ln.CircuitKey{ChanID: 1, HtlcID: 1}, Handler: interceptor.ProgramsHandler, State: interceptor.StateHeld, Ballot: text, OfferedAt: time.Now(),
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		hub.Run(ctx, s, s)
		close(done)
	}()
	require.Eventually(t, func() bool { return s.decided.Load() > 0 }, patience, time.Millisecond)
	// Bounds on time are looked at ten times a second.
	time.Sleep(time.Second)
	cancel()
	<-done
	require.EqualValues(t, 1, s.decided.Load())
	require.Zero(t, hub.Status()[0].Waiting)
}
