package lookout_test

import (
	"bytes"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnwallet/chainfee"
	"github.com/lightningnetwork/lnd/watchtower/blob"
	"github.com/lightningnetwork/lnd/watchtower/wtdb"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/lookout"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
	"github.com/sluice-lsp/sluice/watchtower/towertest"
)

// FuzzJudge: whatever a client sent for a commitment that it knows, also under the
// right key, gives a transaction that the script engine takes and whose sums are
// right, or the breach is unusable with a reason that can be stored.
func FuzzJudge(f *testing.F) {
	b, err := towertest.NewBreach(towertest.Policy(), 1)
	require.NoError(f, err)
	txid := b.Commit.TxHash()
	cipher, err := chacha20poly1305.NewX(func() []byte { k := blob.NewBreachKeyFromHash(&txid); return k[:] }())
	require.NoError(f, err)
	plain, err := cipher.Open(nil, b.Blob[:chacha20poly1305.NonceSizeX], b.Blob[chacha20poly1305.NonceSizeX:], nil)
	require.NoError(f, err)
	rate := uint64(towertest.Policy().SweepFeeRate)
	f.Add(true, plain, uint16(towertest.Policy().BlobType), rate)
	f.Add(true, plain, uint16(towertest.Policy().BlobType), rate*2)
	f.Add(true, plain, uint16(blob.TypeAltruistTaprootCommit), rate)
	f.Add(true, plain, uint16(blob.TypeRewardCommit), rate)
	f.Add(true, plain[:100], uint16(blob.TypeAltruistCommit), rate)
	f.Add(true, bytes.Repeat([]byte{0xff}, blob.V1PlaintextSize), uint16(blob.TypeAltruistTaprootFinalCommit), rate)
	f.Add(true, plain, uint16(0xffff), uint64(1)<<63)
	f.Add(false, b.Blob, uint16(towertest.Policy().BlobType), rate)
	f.Add(false, []byte{}, uint16(towertest.Policy().BlobType), rate)
	f.Fuzz(func(t *testing.T, sealed bool, raw []byte, kind uint16, fee uint64) {
		if len(raw) > 1000 {
			return // the store takes blobs of their type's size only
		}
		if sealed {
			raw = cipher.Seal(make([]byte, chacha20poly1305.NonceSizeX), make([]byte, chacha20poly1305.NonceSizeX), raw, nil)
		}
		policy := towertest.Policy()
		policy.BlobType, policy.SweepFeeRate = blob.Type(kind), chainfee.SatPerKWeight(fee) //nolint:gosec // any number
		match := tower.Match{Tenant: 1, Match: wtdb.Match{
			ID: wtdb.SessionID{1}, SeqNum: 1, Hint: b.Hint, EncryptedBlob: raw, SessionInfo: &wtdb.SessionInfo{ID: wtdb.SessionID{1}, Policy: policy},
		}}
		got, text := lookout.Judge(match, b.Commit, watchtower.Point{Height: 7}, time.Unix(1, 0))
		require.NotEmpty(t, text)
		require.True(t, utf8.ValidString(text) && utf8.ValidString(got.Problem))
		require.NotContains(t, text+got.Problem, "\x00")
		if got.State == watchtower.Unusable {
			require.True(t, got.Final)
			require.NotEmpty(t, got.Problem)
			require.Less(t, len(got.Problem), lookout.LongestProblem+10)
			return
		}
		require.Equal(t, watchtower.Found, got.State)
		var justice wire.MsgTx
		require.NoError(t, justice.Deserialize(bytes.NewReader(got.Justice)))
		require.NoError(t, b.Check(&justice))
		require.Positive(t, got.SweptSat)
		require.GreaterOrEqual(t, got.FeeSat, int64(0))
		taken := int64(0)
		for _, in := range justice.TxIn {
			require.Equal(t, txid, in.PreviousOutPoint.Hash)
			taken += b.Commit.TxOut[in.PreviousOutPoint.Index].Value
		}
		require.Equal(t, taken, got.SweptSat+got.FeeSat)
	})
}
