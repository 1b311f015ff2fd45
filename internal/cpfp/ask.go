package cpfp

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Records are the wallet's transactions from a height on, and unconfirmed ones.
type Records interface {
	Transactions(ctx context.Context, fromHeight int32) ([]ln.WalletTx, error)
}

// Sweeper makes the child with the next block, and replaces an earlier one of its own.
type Sweeper interface {
	BumpFee(ctx context.Context, op ln.Outpoint, satPerVByte uint64, budget ln.Sat) error
}

// Node is the gateway's node, as far as a child needs it.
type Node struct {
	Records Records
	Coins   leases.Leaser
	Sweeper Sweeper
}

// Request is for one parent to be lifted.
type Request struct {
	Parent Parent
	// LeaseID keeps the change for the child until there is one (leases.ForChild).
	LeaseID [32]byte
	Target  ln.FeeRateSatPerKW
	Limits  Limits
	// TipHeight is the chain's.
	TipHeight uint32
}

// errNotNow: no child is made now, and nothing is unsettled. ln.ErrLeased is in its chain
// when something is being built on the change.
var errNotNow = errkind.New(errkind.Conflict, "no child is made now")

// Ask has lnd make the child. Where none is made now that is logged, and whoever still
// sees the parent lag at a later block asks again. An error says that the node was not
// reached: the same may be asked again at once.
func Ask(ctx context.Context, node Node, log *zap.Logger, r Request) error {
	err := ask(ctx, node, r)
	if errors.Is(err, errNotNow) {
		log.Log(level(err), "a transaction cannot be hurried by a child now; a later block looks again", zap.Error(err))
		return nil
	}
	return err
}

func ask(ctx context.Context, node Node, r Request) error {
	txs, err := node.Records.Transactions(ctx, int32(r.TipHeight)) //nolint:gosec // a height
	if err != nil {
		return err
	}
	lift, err := LiftOf(txs, r.Parent)
	if err != nil {
		return notNow(err)
	}
	child, err := ChildOf(lift, r.Target, r.Limits)
	if err != nil {
		return notNow(err)
	}
	err = leases.ForChild(ctx, node.Coins, r.LeaseID, lift.Change)
	if errors.Is(err, ln.ErrLeased) {
		return notNow(err)
	}
	if err != nil {
		return err
	}
	err = node.Sweeper.BumpFee(ctx, lift.Change, child.RateSatPerVByte, child.BudgetSat)
	if err != nil && !errors.Is(err, ln.ErrUnavailable) {
		return notNow(fmt.Errorf("lnd would not bump it: %w", err))
	}
	return err
}

func notNow(err error) error { return fmt.Errorf("%w: %w", errNotNow, err) }

// level is how loudly errNotNow is logged: what is being built on the change is no
// trouble, and lifts the parent too.
func level(err error) zapcore.Level {
	if errors.Is(err, ln.ErrLeased) {
		return zapcore.InfoLevel
	}
	return zapcore.WarnLevel
}
