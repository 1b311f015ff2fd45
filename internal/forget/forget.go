// Package forget takes transactions out of lnd's wallet that can never confirm: the
// wallet would count them, and take the coins that they spend for spent.
//
// It promises to fail only when asking again may help, and to give up on none for
// another's sake: nothing but what lnd calls its balance depends on it, so what lnd keeps
// all the same is only logged. The caller has seen a conflicting spend buried.
package forget

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Wallet is lnd's. ln.ErrNotFound says that it has no such transaction.
type Wallet interface {
	ForgetTx(ctx context.Context, id ln.TxID) error
}

// Txs takes them out; one that is not there is success. What it did before an error need
// not be done again, and may be.
func Txs(ctx context.Context, wallet Wallet, log *zap.Logger, ids ...ln.TxID) error {
	var away error
	for _, id := range ids {
		err := wallet.ForgetTx(ctx, id)
		switch {
		case errors.Is(err, ln.ErrUnavailable):
			away = err
		case err != nil && !errors.Is(err, ln.ErrNotFound):
			log.Warn("lnd's wallet keeps a transaction that can never confirm, counts it, and takes its coins for spent until lnd starts again",
				zap.Stringer("txid", id), zap.Error(err))
		}
	}
	return away
}
