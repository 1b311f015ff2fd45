package psbts_test

import (
	"bytes"
	"testing"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/psbts"
)

func valid(t testing.TB) []byte {
	t.Helper()
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(&wire.TxIn{})
	tx.AddTxOut(&wire.TxOut{Value: 1, PkScript: []byte{0x51}})
	p, err := psbt.NewFromUnsignedTx(tx)
	require.NoError(t, err)
	var raw bytes.Buffer
	require.NoError(t, p.Serialize(&raw))
	return raw.Bytes()
}

func TestParse(t *testing.T) {
	raw := valid(t)
	p, err := psbts.Parse(raw)
	require.NoError(t, err)
	require.Len(t, p.UnsignedTx.TxIn, 1)
	for n := range raw {
		_, err := psbts.Parse(raw[:n])
		require.ErrorIs(t, err, psbts.ErrMalformed, n)
	}
}

// FuzzParse never panics, and what it takes it can write.
func FuzzParse(f *testing.F) {
	f.Add(valid(f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 400_000 {
			return
		}
		if p, err := psbts.Parse(raw); err == nil {
			require.NotNil(t, p.UnsignedTx)
		} else {
			require.ErrorIs(t, err, psbts.ErrMalformed)
		}
	})
}
