package main

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/seal"
)

// walletOf says whether a remote signer has its keys.
type walletOf struct {
	watchOnly bool
	err       error
}

func (w walletOf) WatchOnly(context.Context) (bool, error) { return w.watchOnly, w.err }

// TestTheHostIsNamed: a seed's key on a node whose keys a remote signer has is one
// that the node's host can make, and that is said; of a passphrase it is not so.
func TestTheHostIsNamed(t *testing.T) {
	fails := errors.New("no answer")
	for _, c := range []struct {
		name   string
		kind   seal.Kind
		wallet walletOf
		warned bool
		err    error
	}{
		{"own keys", seal.FromSeed, walletOf{}, false, nil},
		{"remote signer", seal.FromSeed, walletOf{watchOnly: true}, true, nil},
		{"not known", seal.FromSeed, walletOf{err: fails}, false, fails},
		{"passphrase", seal.FromPassphrase, walletOf{watchOnly: true, err: fails}, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var said bytes.Buffer
			err := warnOfHost(&world{ctx: t.Context(), stderr: &said}, c.wallet, seal.Secret{Kind: c.kind})
			require.ErrorIs(t, err, c.err)
			if c.warned {
				require.Contains(t, said.String(), "--passphrase-file")
			} else {
				require.Empty(t, said.String())
			}
		})
	}
}
