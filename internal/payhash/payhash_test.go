package payhash_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// TestClaim: one owner to a hash, and whoever is refused can go on in his transaction.
func TestClaim(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		require.NoError(t, payhash.Migrate(t.Context(), db))
		claim := func(owner string, hashes ...ln.Hash) (taken int, err error) {
			err = db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				taken = 0
				for _, hash := range hashes {
					err := payhash.Claim(ctx, tx, hash, owner)
					if errors.Is(err, payhash.ErrTaken) {
						taken++
					} else if err != nil {
						return err
					}
				}
				return nil
			})
			return taken, err
		}
		for _, c := range []struct {
			owner  string
			hashes []ln.Hash
			taken  int
		}{
			{"swap_out/a", []ln.Hash{{1}}, 0},
			{"wrap/b", []ln.Hash{{1}, {2}}, 1},
			{"swap_in/c", []ln.Hash{{1}, {2}, {3}}, 2},
		} {
			taken, err := claim(c.owner, c.hashes...)
			require.NoError(t, err)
			require.Equal(t, c.taken, taken, c.owner)
		}
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return payhash.Release(ctx, tx, "wrap/b")
		}))
		taken, err := claim("wrap/d", ln.Hash{1}, ln.Hash{2}, ln.Hash{3})
		require.NoError(t, err)
		require.Equal(t, 2, taken)
		require.ErrorIs(t, db.WriteTogether(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return payhash.Claim(ctx, tx, ln.Hash{1}, "wrap/e")
		}), payhash.ErrTaken)
	})
}

type node struct {
	invoices map[ln.Hash]ln.Invoice
	payments map[ln.Hash]ln.PaymentState
	down     bool
	full     error
}

func (n *node) AddHoldInvoice(_ context.Context, r ln.HoldInvoiceRequest) (string, error) {
	switch _, has := n.invoices[r.Hash]; {
	case n.down:
		return "", ln.ErrUnavailable
	case n.full != nil:
		return "", n.full
	case has:
		return "", ln.ErrExists
	}
	n.invoices[r.Hash] = ln.Invoice{
		Hash: r.Hash, AmountMsat: r.AmountMsat, Memo: r.Memo, FinalCltvDelta: max(r.FinalCltvDelta, 80), State: ln.InvoiceOpen, Bolt11: "lnbcrt",
	}
	return "lnbcrt", nil
}

func (n *node) LookupInvoice(_ context.Context, hash ln.Hash) (ln.Invoice, error) {
	if n.down {
		return ln.Invoice{}, ln.ErrUnavailable
	}
	if inv, ok := n.invoices[hash]; ok {
		return inv, nil
	}
	return ln.Invoice{}, ln.ErrNotFound
}

func (n *node) TrackPayment(_ context.Context, hash ln.Hash) (ln.Payment, error) {
	if n.down {
		return ln.Payment{}, ln.ErrUnavailable
	}
	if state, ok := n.payments[hash]; ok {
		return ln.Payment{Hash: hash, State: state}, nil
	}
	return ln.Payment{Hash: hash, State: ln.PaymentUnknown}, nil
}

func TestUnknown(t *testing.T) {
	n := &node{
		invoices: map[ln.Hash]ln.Invoice{{1}: {State: ln.InvoiceCanceled}},
		payments: map[ln.Hash]ln.PaymentState{{2}: ln.PaymentFailed},
	}
	unknown := func(hashes ...ln.Hash) error { return payhash.Unknown(t.Context(), n, n, hashes...) }
	require.NoError(t, unknown(ln.Hash{3}, ln.Hash{4}))
	require.ErrorIs(t, unknown(ln.Hash{3}, ln.Hash{1}), payhash.ErrTaken)
	require.ErrorIs(t, unknown(ln.Hash{2}), payhash.ErrTaken)
	n.down = true
	require.ErrorIs(t, unknown(ln.Hash{3}), ln.ErrUnavailable)
}

// TestHoldInvoice: an earlier attempt's is found, and nothing that differs is taken for it.
func TestHoldInvoice(t *testing.T) {
	request := ln.HoldInvoiceRequest{Hash: ln.Hash{1}, AmountMsat: 5_000, Memo: "tea", FinalCltvDelta: 120, Expiry: time.Hour}
	for name, change := range map[string]func(*ln.Invoice){
		"amount": func(inv *ln.Invoice) { inv.AmountMsat++ },
		"memo":   func(inv *ln.Invoice) { inv.Memo = "coffee" },
		"delta":  func(inv *ln.Invoice) { inv.FinalCltvDelta++ },
		"state":  func(inv *ln.Invoice) { inv.State = ln.InvoiceAccepted },
	} {
		n := &node{invoices: map[ln.Hash]ln.Invoice{}}
		for range 2 {
			inv, refused, err := payhash.HoldInvoice(t.Context(), n, request)
			require.NoError(t, err)
			require.Empty(t, refused)
			require.Equal(t, "lnbcrt", inv.Bolt11)
		}
		inv := n.invoices[request.Hash]
		change(&inv)
		n.invoices[request.Hash] = inv
		_, refused, err := payhash.HoldInvoice(t.Context(), n, request)
		require.NoError(t, err)
		require.NotEmpty(t, refused, name)
	}
	n := &node{down: true}
	_, refused, err := payhash.HoldInvoice(t.Context(), n, request)
	require.ErrorIs(t, err, ln.ErrUnavailable)
	require.Empty(t, refused)
	n = &node{full: errors.New("the memo is too long")}
	_, refused, err = payhash.HoldInvoice(t.Context(), n, request)
	require.NoError(t, err)
	require.Equal(t, "the memo is too long", refused)
}
