package forget_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sluice-lsp/sluice/internal/forget"
	"github.com/sluice-lsp/sluice/internal/ln"
)

type wallet struct {
	says  map[ln.TxID]error
	asked []ln.TxID
}

func (w *wallet) ForgetTx(_ context.Context, id ln.TxID) error {
	w.asked = append(w.asked, id)
	return w.says[id]
}

func TestTxs(t *testing.T) {
	gone, kept, away, last := ln.TxID{1}, ln.TxID{2}, ln.TxID{3}, ln.TxID{4}
	w := &wallet{says: map[ln.TxID]error{gone: ln.ErrNotFound, kept: errors.New("it has children"), away: ln.ErrUnavailable}}
	core, logs := observer.New(zap.DebugLevel)
	require.ErrorIs(t, forget.Txs(t.Context(), w, zap.New(core), gone, kept, away, last), ln.ErrUnavailable, "it is asked again")
	require.Equal(t, []ln.TxID{gone, kept, away, last}, w.asked)
	require.Equal(t, 1, logs.Len(), "only what is kept is worth a word")
	require.Equal(t, kept.String(), logs.All()[0].ContextMap()["txid"])

	delete(w.says, away)
	require.NoError(t, forget.Txs(t.Context(), w, zap.NewNop(), gone, kept, away, last))
}
