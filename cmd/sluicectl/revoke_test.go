package main

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// keyHolder is a signer's admin with its macaroon root keys.
type keyHolder struct{ keys map[uint64]bool }

func (k *keyHolder) RootKeys(context.Context) ([]uint64, error) {
	return slices.Sorted(maps.Keys(k.keys)), nil
}

func (k *keyHolder) Bake(_ context.Context, _ []string, rootKey uint64) ([]byte, error) {
	k.keys[rootKey] = true
	return []byte{byte(rootKey)}, nil
}

func (k *keyHolder) DeleteRootKey(_ context.Context, id uint64) error {
	delete(k.keys, id)
	return nil
}

// TestRevokeEndsAll: a macaroon that init baked and another one took the place of, since
// its file was lost for example, is still at the operator. Revoking ends that one as well,
// or a node there could sign beside the tenant's own.
func TestRevokeEndsAll(t *testing.T) {
	at := signerAt{Dir: t.TempDir(), Network: "regtest"}
	signer := &keyHolder{keys: map[uint64]bool{0: true}}
	bake := func() []byte {
		t.Helper()
		state, err := at.state()
		require.NoError(t, err)
		mac, err := SignerInitCmd{signerAt: at}.macaroon(t.Context(), signer, state)
		require.NoError(t, err)
		return mac
	}
	first := bake()
	require.NoError(t, os.Remove(filepath.Join(at.Dir, signerMacaroonFile)))
	require.NotEqual(t, first, bake())
	require.Len(t, signer.keys, 3)
	state, err := at.state()
	require.NoError(t, err)
	require.True(t, state.good())

	var out bytes.Buffer
	require.NoError(t, SignerRevokeCmd{at}.revoke(&world{ctx: t.Context(), stdout: &out}, &Globals{}, signer, state))
	require.Equal(t, map[uint64]bool{0: true}, signer.keys, "lnd's own is what is left")
	state, err = at.state()
	require.NoError(t, err)
	require.False(t, state.good())
}

// TestRecoverWaitsForEveryRevocation: an earlier macaroon of the operator's alone is
// enough to have two nodes of one seed.
func TestRecoverWaitsForEveryRevocation(t *testing.T) {
	require.True(t, signerState{Earlier: []uint64{3}}.good())
	require.True(t, signerState{RootKey: 3}.good())
	require.False(t, signerState{BirthdayUnix: 1}.good())
}
