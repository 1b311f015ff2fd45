package lookout

import (
	"context"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
)

// Chain is an lnd's view of the chain. Calls fail while it is away, and are
// repeated.
type Chain interface {
	// Best is the height of the best block.
	Best(ctx context.Context) (int32, error)
	// BlockHash is the hash of the block at a height of the best chain.
	BlockHash(ctx context.Context, height int32) (chainhash.Hash, error)
	// Block is the block itself.
	Block(ctx context.Context, hash chainhash.Hash) (*wire.MsgBlock, error)
	// Publish hands out a transaction; one that is known already is no error.
	Publish(ctx context.Context, rawTx []byte) error
	// Watch calls wake at every new block until it fails. It may miss some.
	Watch(ctx context.Context, wake func()) error
}

// callTimeout is far above what a block takes. An lnd that lost its backend may
// answer nothing at all, and a call that hangs must not look like a quiet chain.
const callTimeout = time.Minute

// bounded is a chain whose calls end.
type bounded struct {
	Chain
	after time.Duration
}

func within[T any](ctx context.Context, after time.Duration, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, after, fmt.Errorf("lnd did not answer for %s", after))
	defer cancel()
	out, err := call(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return out, err
}

func (b bounded) Best(ctx context.Context) (int32, error) { return within(ctx, b.after, b.Chain.Best) }

func (b bounded) BlockHash(ctx context.Context, height int32) (chainhash.Hash, error) {
	return within(ctx, b.after, func(ctx context.Context) (chainhash.Hash, error) { return b.Chain.BlockHash(ctx, height) })
}

func (b bounded) Block(ctx context.Context, hash chainhash.Hash) (*wire.MsgBlock, error) {
	return within(ctx, b.after, func(ctx context.Context) (*wire.MsgBlock, error) { return b.Chain.Block(ctx, hash) })
}

func (b bounded) Publish(ctx context.Context, rawTx []byte) error {
	_, err := within(ctx, b.after, func(ctx context.Context) (struct{}, error) { return struct{}{}, b.Chain.Publish(ctx, rawTx) })
	return err
}
