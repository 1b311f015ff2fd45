package engine_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor/engine"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// handlers keeps the interface's name apart from that of its method.
type handlers interface{ engine.Handlers }

// closedBook is a ledger that cannot be read.
type closedBook struct{ handlers }

func (closedBook) Begin(context.Context, int64, bool, time.Time) (time.Time, error) {
	return time.Time{}, errors.New("the ledger cannot be read")
}

// noRows is never asked.
type noRows struct{ engine.Rows }

// quietNode has no blocks.
type quietNode struct{ engine.Node }

func (quietNode) SubscribeBlocks(ctx context.Context, _ func(ln.Block)) error {
	<-ctx.Done()
	return ctx.Err()
}

type freeLease struct{}

func (freeLease) Epoch() int64                  { return 1 }
func (freeLease) Valid() bool                   { return true }
func (freeLease) Lost() <-chan struct{}         { return nil }
func (freeLease) Release(context.Context) error { return nil }

// A process that cannot begin leaves others the lease for longer and longer.
func TestWhoCannotBeginLeavesTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		e, err := engine.New(engine.Config{
			Open:    func(context.Context) (engine.Session, error) { return nil, ln.ErrUnavailable },
			Acquire: func(context.Context) (engine.Lease, error) { tries++; return freeLease{}, nil },
			Rows:    noRows{}, Handlers: closedBook{}, Node: quietNode{},
		})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, e.Run(ctx))
		require.Greater(t, tries, 5)
		require.Less(t, tries, 25)
	})
}
