package agent

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// brokenChain tells a spend once, and then ends its streams.
type brokenChain struct {
	Chain
	raw  []byte
	told chan struct{}
}

func (c brokenChain) WatchSpend(ctx context.Context, _ ln.Outpoint, _ []byte, _ uint32, handle func(ln.SpendEvent)) error {
	handle(ln.SpendEvent{Height: 100, RawTx: c.raw})
	select {
	case c.told <- struct{}{}:
		return ln.ErrUnavailable
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A spend that was told counts for as long as the node is listened to: while it is away a
// reorg may undo it, and a channel whose transaction confirms then would be forgotten.
func TestNoSpendIsBelievedUnheard(t *testing.T) {
	var raw bytes.Buffer
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{}, nil, nil))
	require.NoError(t, tx.Serialize(&raw))
	chain := brokenChain{raw: raw.Bytes(), told: make(chan struct{})}
	a, err := New(t.TempDir(), Ports{Chain: chain})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, op := newSpends(), ln.Outpoint{TxID: ln.TxID{1}}
	done := make(chan struct{})
	go func() { defer close(done); a.watch(ctx, "key", op, nil, 1, s) }()
	for range 5 {
		<-chain.told // it is listened to again after 100 ms, and then after twice as long each time
	}
	began := time.Now()
	for believed := true; believed; {
		s.mu.Lock()
		_, believed = s.seen[op]
		s.mu.Unlock()
	}
	require.Less(t, time.Since(began), time.Second, "before it is listened to again, 1.6 s later")
	cancel()
	<-done
}
