package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// LiveRows reads the durable ledger without owning it.
type LiveRows interface {
	Live(ctx context.Context) ([]interceptor.Row, error)
	Get(ctx context.Context, keys []ln.CircuitKey) ([]interceptor.Row, error)
}

// Channels lists lnd's channels with their HTLCs.
type Channels interface {
	ListChannels(ctx context.Context) ([]ln.Channel, error)
}

// Ends tells how HTLCs ended that lnd no longer has.
type Ends interface {
	LookupResolution(ctx context.Context, key ln.CircuitKey) (ln.Resolution, error)
	ForwardingHistory(ctx context.Context, since time.Time, offset, limit uint32) ([]ln.Forward, error)
}

const (
	// beyondLookups bounds how many HTLCs lnd is asked about one by one, beyondForwards
	// how many pages of a thousand of its history are read.
	beyondLookups  = 200
	beyondForwards = 3
)

// LookBeyond compares the rows that call an HTLC undecided with lnd, and says in sentences
// for the operator which of them lnd has forwarded or settled. A decision is committed
// before it is sent (law 2), so that the ledger is an older copy then, or somebody else
// decided: another program that had the stream, an lnd that ran without
// requireinterceptor. Either way such rows must not be trusted. Without such rows lnd
// is asked nothing.
//
// lnd is asked before the rows are read for good: another process may decide meanwhile.
func LookBeyond(ctx context.Context, rows LiveRows, node Channels, ends Ends) ([]string, error) {
	live, err := rows.Live(ctx)
	if err != nil {
		return nil, err
	}
	undecided := make(map[ln.CircuitKey]interceptor.Row)
	for _, r := range live {
		if r.Undecided() && !r.Gone() {
			undecided[r.Key] = r
		}
	}
	if len(undecided) == 0 {
		return nil, nil
	}
	channels, err := node.ListChannels(ctx)
	if err != nil {
		return nil, err
	}
	moved := make(map[ln.CircuitKey]string)
	var keys []ln.CircuitKey
	tell := func(key ln.CircuitKey, text string) {
		if _, told := moved[key]; !told {
			moved[key] = text
			keys = append(keys, key)
		}
	}
	// What lnd no longer has although it has its channel may have been settled. (Where the
	// channel is gone, lnd may have claimed it on chain by itself.)
	absent := make(map[ln.CircuitKey]interceptor.Row)
	for _, c := range channels {
		there := make(map[ln.CircuitKey]bool, len(c.Htlcs))
		for _, h := range c.Htlcs {
			key := h.IncomingKey(c.ChanID)
			if !h.Incoming {
				continue
			}
			there[key] = true
			if _, known := undecided[key]; known && h.ForwardingChan != 0 {
				tell(key, "has forwarded it")
			}
		}
		for key, r := range undecided {
			if key.ChanID == c.ChanID && !there[key] && r.State == interceptor.StateHeld && !r.OnChain {
				absent[key] = r
			}
		}
	}
	settled, err := settledOf(ctx, absent, ends)
	if err != nil {
		return nil, err
	}
	for _, key := range settled {
		tell(key, "has settled it")
	}
	if len(keys) == 0 {
		return nil, nil
	}
	now, err := rows.Get(ctx, keys)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, r := range now {
		if r.Undecided() && !r.Gone() {
			found = append(found, fmt.Sprintf("the database has HTLC %s (%s, hash %s) as %s, and lnd %s", r.Key, r.IncomingMsat, r.Hash.Short(), r.State, moved[r.Key]))
		}
	}
	return found, nil
}

// settledOf are those of the HTLCs whose money the gateway got.
func settledOf(ctx context.Context, absent map[ln.CircuitKey]interceptor.Row, ends Ends) (settled []ln.CircuitKey, err error) {
	open := make(map[ln.CircuitKey]bool)
	var since time.Time
	asked := 0
	for key, r := range absent {
		if asked++; asked > beyondLookups {
			break
		}
		end, err := ends.LookupResolution(ctx, key)
		switch {
		case errors.Is(err, ln.ErrUnavailable):
			return nil, err
		case err == nil && end.Known && end.Settled:
			settled = append(settled, key)
		case err != nil || !end.Known:
			// An lnd without store-final-htlc-resolutions has it in its history.
			open[key] = true
			if since.IsZero() || r.OfferedAt.Before(since) {
				since = r.OfferedAt
			}
		}
	}
	for page := uint32(0); len(open) > 0 && page < beyondForwards; page++ {
		const size = 1000
		forwards, err := ends.ForwardingHistory(ctx, since.Add(-time.Minute), page*size, size)
		if err != nil {
			return nil, err
		}
		for _, f := range forwards {
			if f.HasIndexes && open[f.Incoming] {
				settled = append(settled, f.Incoming)
				delete(open, f.Incoming)
			}
		}
		if len(forwards) < size {
			break
		}
	}
	return settled, nil
}
