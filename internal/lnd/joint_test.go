package lnd

import (
	"bytes"
	"testing"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/chanbackup"
	"github.com/lightningnetwork/lnd/channeldb"
	"github.com/lightningnetwork/lnd/fn/v2"
	"github.com/lightningnetwork/lnd/input"
	"github.com/lightningnetwork/lnd/keychain"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// ring derives a key of each locator.
type ring struct{}

func (ring) DeriveNextKey(keychain.KeyFamily) (keychain.KeyDescriptor, error) {
	return keychain.KeyDescriptor{}, nil
}

func (ring) DeriveKey(loc keychain.KeyLocator) (keychain.KeyDescriptor, error) {
	return keychain.KeyDescriptor{KeyLocator: loc, PubKey: testKey(byte(loc.Family), byte(loc.Index))}, nil
}

func testKey(a, b byte) *btcec.PublicKey {
	_, pub := btcec.PrivKeyFromBytes(append(bytes.Repeat([]byte{1}, 30), a+1, b+1))
	return pub
}

// The script is that of both nodes' keys as the channel's own backup has them, for
// channels with anchors and simple taproot ones; another channel's backup, or one
// that does not open, tells nothing.
func TestFundingScriptFromBackup(t *testing.T) {
	op := ln.Outpoint{TxID: ln.TxID{7}, Index: 1}
	remote := testKey(90, 1)
	own := keychain.KeyLocator{Family: 0, Index: 5}
	mine, err := ring{}.DeriveKey(own)
	require.NoError(t, err)
	pack := func(v chanbackup.SingleBackupVersion, at ln.Outpoint) []byte {
		config := func(k keychain.KeyDescriptor) channeldb.ChannelConfig {
			return channeldb.ChannelConfig{
				MultiSigKey: k, RevocationBasePoint: k, PaymentBasePoint: k, DelayBasePoint: k, HtlcBasePoint: k,
			}
		}
		single := chanbackup.Single{
			Version: v, FundingOutpoint: wire.OutPoint{Hash: chainhash.Hash(at.TxID), Index: at.Index}, RemoteNodePub: testKey(80, 1), Capacity: 1_000_000,
			LocalChanCfg: config(keychain.KeyDescriptor{KeyLocator: own}), RemoteChanCfg: config(keychain.KeyDescriptor{PubKey: remote}),
			ShaChainRootDesc: keychain.KeyDescriptor{PubKey: testKey(70, 1)}, CloseTxInputs: fn.None[chanbackup.CloseTxInputs](),
		}
		var raw bytes.Buffer
		require.NoError(t, single.PackToWriter(&raw, ring{}))
		return raw.Bytes()
	}
	anchors := pack(chanbackup.AnchorsZeroFeeHtlcTxCommitVersion, op)
	got, err := fundingScript(ring{}, anchors, op, 1_000_000)
	require.NoError(t, err)
	_, want, err := input.GenFundingPkScript(mine.PubKey.SerializeCompressed(), remote.SerializeCompressed(), 1_000_000)
	require.NoError(t, err)
	require.Equal(t, want.PkScript, got)

	got, err = fundingScript(ring{}, pack(chanbackup.SimpleTaprootVersion, op), op, 1_000_000)
	require.NoError(t, err)
	_, want, err = input.GenTaprootFundingScript(mine.PubKey, remote, 1_000_000, fn.None[chainhash.Hash]())
	require.NoError(t, err)
	require.Equal(t, want.PkScript, got)
	require.Len(t, got, 34)

	_, err = fundingScript(ring{}, pack(chanbackup.AnchorsZeroFeeHtlcTxCommitVersion, ln.Outpoint{TxID: ln.TxID{8}}), op, 1_000_000)
	require.ErrorContains(t, err, "another channel")
	anchors[len(anchors)-1]++
	_, err = fundingScript(ring{}, anchors, op, 1_000_000)
	require.Error(t, err)
}
