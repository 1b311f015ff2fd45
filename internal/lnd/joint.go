package lnd

import (
	"context"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/chanbackup"
	"github.com/lightningnetwork/lnd/fn/v2"
	"github.com/lightningnetwork/lnd/input"
	"github.com/lightningnetwork/lnd/keychain"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// SignPsbt signs the inputs whose key paths stand in the PSBT and leaves all
// others alone. It neither finalizes nor broadcasts.
func (c *Client) SignPsbt(ctx context.Context, psbt []byte) (signed []byte, inputs int, err error) {
	resp, err := c.wallet.SignPsbt(ctx, &walletrpc.SignPsbtRequest{FundedPsbt: psbt})
	if err != nil {
		return nil, 0, mapError("sign the inputs of a transaction", err)
	}
	return resp.SignedPsbt, len(resp.SignedInputs), nil
}

// FundingScript is the output script that a channel of this node's spends from:
// that of its own and the peer's key. lnd takes any outpoint that its peer
// names for a channel's, and no call shows those keys; the channel's backup holds
// them. A channel that lnd does not have is ln.ErrNotFound.
func (c *Client) FundingScript(ctx context.Context, op ln.Outpoint, capacity ln.Sat) ([]byte, error) {
	resp, err := c.lightning.ExportAllChannelBackups(ctx, &lnrpc.ChanBackupExportRequest{})
	if err != nil {
		return nil, mapError("export the channel backup", err)
	}
	for _, b := range resp.GetSingleChanBackups().GetChanBackups() {
		point, err := outpointFromPoint(b.GetChanPoint())
		if err != nil {
			return nil, fmt.Errorf("lnd's channel backup: %w", err)
		}
		if point != op {
			continue
		}
		return fundingScript(keyRing{ctx: ctx, derive: c.publicKey}, b.GetChanBackup(), op, capacity)
	}
	return nil, fmt.Errorf("the backup of channel %s: %w", op, ln.ErrNotFound)
}

func fundingScript(keys keychain.KeyRing, packed []byte, op ln.Outpoint, capacity ln.Sat) ([]byte, error) {
	amount, err := capacity.Int64()
	if err != nil {
		return nil, err
	}
	singles, err := chanbackup.PackedSingles{packed}.Unpack(keys)
	if err != nil {
		return nil, fmt.Errorf("open the backup of channel %s: %w", op, err)
	}
	if len(singles) != 1 || singles[0].FundingOutpoint != (wire.OutPoint{Hash: chainhash.Hash(op.TxID), Index: op.Index}) {
		return nil, fmt.Errorf("the backup of channel %s is of another channel", op)
	}
	s := singles[0]
	local, err := keys.DeriveKey(s.LocalChanCfg.MultiSigKey.KeyLocator)
	if err != nil {
		return nil, fmt.Errorf("our key of channel %s: %w", op, err)
	}
	remote := s.RemoteChanCfg.MultiSigKey.PubKey
	if remote == nil {
		return nil, fmt.Errorf("the backup of channel %s has no key of the peer", op)
	}
	var script []byte
	switch {
	case s.Version.HasTapscriptRoot():
		return nil, fmt.Errorf("channel %s has a tapscript root, which no agreement of ours has", op)
	case s.Version.IsTaproot():
		script, _, err = input.GenTaprootFundingScript(local.PubKey, remote, amount, fn.None[chainhash.Hash]())
	default:
		var witness []byte
		if witness, err = input.GenMultiSigScript(local.PubKey.SerializeCompressed(), remote.SerializeCompressed()); err == nil {
			script, err = input.WitnessScriptHash(witness)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the funding script of channel %s: %w", op, err)
	}
	return script, nil
}

// publicKey derives a public key of lnd's wallet.
func (c *Client) publicKey(ctx context.Context, loc keychain.KeyLocator) (*btcec.PublicKey, error) {
	resp, err := c.wallet.DeriveKey(ctx, &signrpc.KeyLocator{KeyFamily: int32(loc.Family), KeyIndex: int32(loc.Index)}) //nolint:gosec // lnd's own locators
	if err != nil {
		return nil, mapError("derive a public key", err)
	}
	key, err := btcec.ParsePubKey(resp.RawKeyBytes)
	if err != nil {
		return nil, fmt.Errorf("lnd's public key: %w", err)
	}
	return key, nil
}

// keyRing is lnd's wallet as lnd's own packages see it. It lives as long as one
// call.
type keyRing struct {
	ctx    context.Context //nolint:containedctx // lnd's interface has none
	derive func(context.Context, keychain.KeyLocator) (*btcec.PublicKey, error)
}

// DeriveNextKey is not for us: it would move lnd's own counter.
func (keyRing) DeriveNextKey(keychain.KeyFamily) (keychain.KeyDescriptor, error) {
	return keychain.KeyDescriptor{}, errors.New("no new keys are derived to read a backup")
}

// DeriveKey gives the public key of a locator.
func (k keyRing) DeriveKey(loc keychain.KeyLocator) (keychain.KeyDescriptor, error) {
	key, err := k.derive(k.ctx, loc)
	return keychain.KeyDescriptor{KeyLocator: loc, PubKey: key}, err
}
