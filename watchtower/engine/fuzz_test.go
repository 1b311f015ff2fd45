package engine

import (
	"bytes"
	"testing"

	"github.com/btcsuite/btcd/chaincfg"
	"github.com/lightningnetwork/lnd/lnwire"
	"github.com/lightningnetwork/lnd/watchtower/blob"
	"github.com/lightningnetwork/lnd/watchtower/wtwire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/watchtower/towertest"
)

// FuzzMessages: whatever a client sends as any of its messages, before or after the
// greeting, the tower lives and serves others.
func FuzzMessages(f *testing.F) {
	e, _ := listening(f, storetest.Open(f, storetest.SQLite(f)), nil)
	bad, good := register(f, e, 1), register(f, e, 2)
	honest := connect(f, e, good, newSession(f))
	code, err := honest.Create(towertest.Policy())
	require.NoError(f, err)
	require.Equal(f, wtwire.CodeOK, code)
	require.NoError(f, honest.Close())
	kind := towertest.Policy().BlobType
	var seq uint16

	wire := func(msg wtwire.Message) []byte {
		var b bytes.Buffer
		_, err := wtwire.WriteMessage(&b, msg, 0)
		require.NoError(f, err)
		return b.Bytes()
	}
	create := wire(&wtwire.CreateSession{BlobType: kind, MaxUpdates: 3, SweepFeeRate: 2500})
	upload := wire(&wtwire.StateUpdate{SeqNum: 1, Hint: blob.BreachHint{1}, EncryptedBlob: make([]byte, sizeOf(f, kind))})
	for _, messages := range [][2][]byte{
		{create, upload},
		{upload, create},
		{create, wire(&wtwire.StateUpdate{SeqNum: 0, EncryptedBlob: make([]byte, sizeOf(f, kind))})},
		{create, wire(&wtwire.StateUpdate{SeqNum: 65_535, LastApplied: 65_535, EncryptedBlob: []byte{1}})},
		{create, wire(&wtwire.StateUpdate{SeqNum: 1, IsComplete: 255, EncryptedBlob: nil})},
		{create, wire(&wtwire.DeleteSession{})},
		{wire(&wtwire.DeleteSession{}), upload},
		{create, create},
		{create[:7], upload[:9]},
		{wire(&wtwire.CreateSession{BlobType: blob.TypeRewardCommit, MaxUpdates: 65_535, RewardBase: 1 << 31, RewardRate: 1 << 31, SweepFeeRate: 1 << 62}), upload},
		{wire(&wtwire.CreateSession{BlobType: 0xffff, MaxUpdates: 0}), nil},
		{wire(wtwire.NewInitMessage(lnwire.NewRawFeatureVector(), *chaincfg.MainNetParams.GenesisHash)), create},
		{wire(&wtwire.Error{Code: 50, Data: make([]byte, 100)}), create},
		{wire(&wtwire.CreateSessionReply{Code: wtwire.CodeOK}), wire(&wtwire.StateUpdateReply{})},
		{{2}, {0xff, 0xff}},
	} {
		f.Add(true, messages[0], messages[1])
		f.Add(false, messages[0], messages[1])
	}
	f.Fuzz(func(t *testing.T, greeted bool, first, second []byte) {
		c, err := towertest.Dial(e.URIs(bad)[0], newSession(t))
		require.NoError(t, err)
		if greeted {
			require.NoError(t, c.Greet(*chaincfg.RegressionNetParams.GenesisHash))
		}
		for _, raw := range [][]byte{first, second} {
			// The transport bounds a message; the tower may have closed the connection.
			if len(raw) > 60_000 || c.SendRaw(raw) != nil {
				break
			}
		}
		require.NoError(t, c.Close())
		if seq == towertest.Policy().MaxUpdates {
			return
		}
		seq++
		honest := connect(t, e, good, honest.Session)
		code, applied, err := honest.Update(stateUpdate(t, towertest.Policy(), seq, seq-1, uint64(seq)))
		require.NoError(t, err)
		require.Equal(t, wtwire.CodeOK, code)
		require.Equal(t, seq, applied)
		require.NoError(t, honest.Close())
	})
}
