package engine_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// ledger is what the database says, and lndSays what lnd does.
type ledger []interceptor.Row

func (l ledger) Live(context.Context) ([]interceptor.Row, error) { return l, nil }

func (l ledger) Get(_ context.Context, keys []ln.CircuitKey) (rows []interceptor.Row, err error) {
	for _, r := range l {
		for _, key := range keys {
			if r.Key == key {
				rows = append(rows, r)
			}
		}
	}
	return rows, nil
}

type lndSays struct {
	channels    []ln.Channel
	resolutions map[ln.CircuitKey]ln.Resolution
	history     []ln.Forward
	away        error
	asked       int
}

func (l *lndSays) ListChannels(context.Context) ([]ln.Channel, error) {
	l.asked++
	return l.channels, l.away
}

func (l *lndSays) LookupResolution(_ context.Context, key ln.CircuitKey) (ln.Resolution, error) {
	return l.resolutions[key], l.away
}

func (l *lndSays) ForwardingHistory(_ context.Context, _ time.Time, offset, _ uint32) ([]ln.Forward, error) {
	return l.history[min(int(offset), len(l.history)):], l.away
}

// TestLndMovedWhatIsHeld: what lnd did with HTLCs that the database calls undecided tells
// an older copy of it.
func TestLndMovedWhatIsHeld(t *testing.T) {
	key := ln.CircuitKey{ChanID: 1, HtlcID: 4}
	row := func(s interceptor.State) ledger { return ledger{{Key: key, State: s, IncomingMsat: 2_000}} }
	there := func(forwarding ln.SCID) []ln.Channel {
		return []ln.Channel{{ChanID: 1, Htlcs: []ln.ChannelHtlc{{Incoming: true, Index: 4, ForwardingChan: forwarding}, {Index: 4, ForwardingChan: 9}}}}
	}
	empty := []ln.Channel{{ChanID: 1}}
	settled := map[ln.CircuitKey]ln.Resolution{key: {Known: true, Settled: true, OffChain: true}}
	onChain := row(interceptor.StateHeld)
	onChain[0].OnChain = true
	gone := row(interceptor.StateHeld)
	gone[0].GoneAt = time.Now()
	for _, c := range []struct {
		name  string
		rows  ledger
		lnd   lndSays
		found string
		asks  bool
	}{
		{"no rows", nil, lndSays{channels: there(9)}, "", false},
		{"decided", row(interceptor.StateResumed), lndSays{channels: there(9)}, "", false},
		{"gone", gone, lndSays{channels: there(9), resolutions: settled}, "", false},
		{"held, and lnd holds it", row(interceptor.StateHeld), lndSays{channels: there(0)}, "", true},
		{"held, and lnd has forwarded it", row(interceptor.StateHeld), lndSays{channels: there(9)}, "as held, and lnd has forwarded it", true},
		{"paying, and lnd has forwarded it", row(interceptor.StatePaying), lndSays{channels: there(9)}, "as paying, and lnd has forwarded it", true},
		{"held, and lnd has settled it", row(interceptor.StateHeld), lndSays{channels: empty, resolutions: settled}, "lnd has settled it", true},
		{"held, and its payer got it back", row(interceptor.StateHeld), lndSays{channels: empty, resolutions: map[ln.CircuitKey]ln.Resolution{key: {Known: true}}}, "", true},
		{"held, and lnd does not know", row(interceptor.StateHeld), lndSays{channels: empty}, "", true},
		{"held, and in lnd's history", row(interceptor.StateHeld), lndSays{channels: empty, history: []ln.Forward{{}, {HasIndexes: true, Incoming: key}}}, "lnd has settled it", true},
		// lnd claims on chain by itself what it knows the preimage of.
		{"held, its channel gone", row(interceptor.StateHeld), lndSays{resolutions: settled}, "", true},
		{"held on chain", onChain, lndSays{channels: empty, resolutions: settled}, "", true},
		{"paying, and settled", row(interceptor.StatePaying), lndSays{channels: empty, resolutions: settled}, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := engine.LookBeyond(t.Context(), c.rows, &c.lnd, &c.lnd)
			require.NoError(t, err)
			require.Equal(t, c.asks, c.lnd.asked > 0)
			if c.found == "" {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			require.Contains(t, found[0], c.found)
		})
	}
	_, err := engine.LookBeyond(t.Context(), row(interceptor.StateHeld), &lndSays{away: ln.ErrUnavailable}, &lndSays{})
	require.ErrorIs(t, err, ln.ErrUnavailable)
}

// decidedMeanwhile is a ledger that another process decides in while lnd is asked.
type decidedMeanwhile struct{ ledger }

func (d decidedMeanwhile) Get(ctx context.Context, keys []ln.CircuitKey) ([]interceptor.Row, error) {
	rows, err := d.ledger.Get(ctx, keys)
	for i := range rows {
		rows[i].State = interceptor.StateResumed
	}
	return rows, err
}

// TestAStandbyIsNotDeceived: the owner resumes an HTLC between what a standby that starts
// reads of the database and of lnd.
func TestAStandbyIsNotDeceived(t *testing.T) {
	key := ln.CircuitKey{ChanID: 1, HtlcID: 4}
	lnd := &lndSays{channels: []ln.Channel{{ChanID: 1, Htlcs: []ln.ChannelHtlc{{Incoming: true, Index: 4, ForwardingChan: 9}}}}}
	found, err := engine.LookBeyond(t.Context(), decidedMeanwhile{ledger{{Key: key, State: interceptor.StateHeld}}}, lnd, lnd)
	require.NoError(t, err)
	require.Empty(t, found)
}
