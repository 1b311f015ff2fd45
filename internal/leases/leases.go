// Package leases holds coins of lnd's wallet for one purpose, under an id that
// names it.
//
// It promises that Release leaves none leased under the id, and touches no other.
// A failed call may have done a part: calling it again does the rest.
package leases

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Leaser leases coins; ln.ErrLeased if another id has the coin.
type Leaser interface {
	LeaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint, d time.Duration) error
}

// Releaser lists and gives back leases.
type Releaser interface {
	ListLeases(ctx context.Context) ([]ln.Lease, error)
	ReleaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint) error
}

// All leases every coin, or prolongs its lease.
func All(ctx context.Context, wallet Leaser, id [32]byte, coins []ln.Coin, d time.Duration) error {
	for _, c := range coins {
		if err := wallet.LeaseCoin(ctx, id, c.Outpoint, d); err != nil {
			return err
		}
	}
	return nil
}

// Renew prolongs the lease of every coin: one that fails does not keep it from the others.
// lnd leases coins, too, that a transaction of its wallet spends which is in no block yet.
// Of a transaction that was signed the coins may be spent in a block, of which lnd's wallet
// knows first; one that somebody else has leased is never in order.
func Renew(ctx context.Context, wallet Leaser, id [32]byte, coins []ln.Coin, d time.Duration, signed bool) error {
	var failed []error
	for _, c := range coins {
		err := wallet.LeaseCoin(ctx, id, c.Outpoint, d)
		if err != nil && (!signed || !errors.Is(err, ln.ErrSpent)) {
			failed = append(failed, fmt.Errorf("coin %s: %w", c.Outpoint, err))
		}
	}
	return errors.Join(failed...)
}

// bumpFor is for how long a change is kept for its child. lnd makes that with the next
// block, and it is asked again, which prolongs the lease, while the parent lags.
const bumpFor = 24 * time.Hour

// ForChild keeps a change for the child that lnd is about to make of it: a transaction
// built on the change meanwhile would conflict with that. ln.ErrLeased: something is
// being built on it already. Whatever else lnd refuses the lease for is no reason against
// the child: what it does not know for a coin, nobody builds on.
func ForChild(ctx context.Context, wallet Leaser, id [32]byte, change ln.Outpoint) error {
	err := wallet.LeaseCoin(ctx, id, change, bumpFor)
	if errors.Is(err, ln.ErrLeased) || errors.Is(err, ln.ErrUnavailable) {
		return err
	}
	return nil
}

// Release gives back every coin leased under the id, and tells whether there was
// any.
func Release(ctx context.Context, wallet Releaser, id [32]byte) (found bool, err error) {
	list, err := wallet.ListLeases(ctx)
	if err != nil {
		return false, err
	}
	for _, l := range list {
		if l.ID != id {
			continue
		}
		if err := wallet.ReleaseCoin(ctx, id, l.Outpoint); err != nil {
			return found, err
		}
		found = true
	}
	return found, nil
}
