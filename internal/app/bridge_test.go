package app

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
)

// rowsLedger is an interceptor's ledger that is read, and no more.
type rowsLedger struct {
	interceptor.Ledger
	rows []interceptor.Row
}

func (l rowsLedger) Rows(_ context.Context, f interceptor.RowFilter) (out []interceptor.Row, _ error) {
	for _, r := range l.rows {
		if r.ID > f.After && r.Hash == *f.Hash && len(out) < f.Limit {
			out = append(out, r)
		}
	}
	return out, nil
}

// TestEveryHTLCOfAHashIsLookedUp: thousands that a stranger had refused before do not hide
// the one that counts.
func TestEveryHTLCOfAHashIsLookedUp(t *testing.T) {
	var l rowsLedger
	for i := range int64(2*lookupPage + 1) {
		l.rows = append(l.rows, interceptor.Row{ID: i + 1, Key: ln.CircuitKey{ChanID: 1, HtlcID: uint64(i)}, State: interceptor.StateFailed}) //nolint:gosec // counted
	}
	l.rows[2*lookupPage].State = interceptor.StateResumed
	for _, n := range []int{0, 1, lookupPage, 2*lookupPage + 1} {
		got, err := lspHolds{ledger: rowsLedger{rows: l.rows[:n]}}.Lookup(t.Context(), ln.Hash{})
		require.NoError(t, err)
		require.Len(t, got, n)
		require.Equal(t, n > 2*lookupPage, n > 0 && got[n-1].Resumed)
	}
}

// TestWhatTheInterceptorSettledWasNotForwarded: lnd had paid the hash, and the interceptor
// settled an HTLC with the preimage. No wallet was paid by it, and no fee earned.
func TestWhatTheInterceptorSettledWasNotForwarded(t *testing.T) {
	for state, settled := range map[interceptor.State]bool{interceptor.StateResumed: true, interceptor.StateSettled: false} {
		got := report(lspengine.HtlcGone, interceptor.Row{State: state, Outcome: interceptor.OutcomeSettled, GoneAt: time.Now()})
		require.True(t, got.Known)
		require.Equal(t, settled, got.Settled, state)
	}
}
