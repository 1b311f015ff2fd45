package lnd

import (
	"context"
	"fmt"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// SubscribeBackups gives the whole backup at every change of the channels:
// pending, open, closed, resolved. The state at its beginning is not among
// them: ExportBackup gives it.
func (c *Client) SubscribeBackups(ctx context.Context, handle func(ln.ChannelBackup)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.lightning.SubscribeChannelBackups(ctx, &lnrpc.ChannelBackupSubscription{})
	if err != nil {
		return mapError("subscribe to channel backups", err)
	}
	return receive("channel backups", stream.Recv, func(m *lnrpc.ChanBackupSnapshot) error {
		b, err := backupFromRPC(m)
		if err == nil {
			handle(b)
		}
		return err
	})
}

// ExportBackup gives the backup of all channels as they are now.
func (c *Client) ExportBackup(ctx context.Context) (ln.ChannelBackup, error) {
	resp, err := c.lightning.ExportAllChannelBackups(ctx, &lnrpc.ChanBackupExportRequest{})
	if err != nil {
		return ln.ChannelBackup{}, mapError("export the channel backup", err)
	}
	return backupFromRPC(resp)
}

func backupFromRPC(m *lnrpc.ChanBackupSnapshot) (ln.ChannelBackup, error) {
	multi := m.GetMultiChanBackup()
	out := ln.ChannelBackup{Multi: multi.GetMultiChanBackup()}
	for _, p := range multi.GetChanPoints() {
		op, err := outpointFromPoint(p)
		if err != nil {
			return out, fmt.Errorf("lnd's channel backup: %w", err)
		}
		out.Channels = append(out.Channels, op)
	}
	return out, nil
}

func outpointFromPoint(p *lnrpc.ChannelPoint) (ln.Outpoint, error) {
	if text := p.GetFundingTxidStr(); text != "" {
		txid, err := ln.ParseTxID(text)
		return ln.Outpoint{TxID: txid, Index: p.GetOutputIndex()}, err
	}
	var txid ln.TxID
	if raw := p.GetFundingTxidBytes(); len(raw) != len(txid) {
		return ln.Outpoint{}, fmt.Errorf("a funding txid has %d bytes", len(raw))
	}
	copy(txid[:], p.GetFundingTxidBytes())
	return ln.Outpoint{TxID: txid, Index: p.GetOutputIndex()}, nil
}

// VerifyBackup has lnd open a backup and gives the channels in it. lnd opens
// only what was made with its own seed.
func (c *Client) VerifyBackup(ctx context.Context, multi []byte) ([]ln.Outpoint, error) {
	resp, err := c.lightning.VerifyChanBackup(ctx, &lnrpc.ChanBackupSnapshot{
		MultiChanBackup: &lnrpc.MultiChanBackup{MultiChanBackup: multi},
	})
	if err != nil {
		return nil, mapError("have lnd open the channel backup", err)
	}
	out := make([]ln.Outpoint, 0, len(resp.ChanPoints))
	for _, text := range resp.ChanPoints {
		op, err := ln.ParseOutpoint(text)
		if err != nil {
			return nil, fmt.Errorf("lnd's channel backup: %w", err)
		}
		out = append(out, op)
	}
	return out, nil
}

// RestoreBackup makes lnd take channels from a backup, connect to their peers
// and ask them to close. Channels that lnd has already are left alone, so that
// an interrupted restore is begun again. It gives how many were new.
func (c *Client) RestoreBackup(ctx context.Context, multi []byte) (int, error) {
	resp, err := c.lightning.RestoreChannelBackups(ctx, &lnrpc.RestoreChanBackupRequest{
		Backup: &lnrpc.RestoreChanBackupRequest_MultiChanBackup{MultiChanBackup: multi},
	})
	if err != nil {
		return 0, mapError("restore the channel backup", err)
	}
	return int(resp.NumRestored), nil
}

// SharedKey is the ECDH of a key of lnd's wallet with a point: SHA-256 of the
// product's compressed form. Only what has the seed can compute it.
func (c *Client) SharedKey(ctx context.Context, key ln.KeyLocator, point ln.PubKey) ([32]byte, error) {
	resp, err := c.signer.DeriveSharedKey(ctx, &signrpc.SharedKeyRequest{
		EphemeralPubkey: point[:], KeyLoc: &signrpc.KeyLocator{KeyFamily: key.Family, KeyIndex: key.Index},
	})
	if err != nil {
		return [32]byte{}, mapError("derive a shared key", err)
	}
	var out [32]byte
	if len(resp.SharedKey) != len(out) {
		return out, fmt.Errorf("lnd's shared key has %d bytes", len(resp.SharedKey))
	}
	copy(out[:], resp.SharedKey)
	return out, nil
}

// WatchOnly says that the wallet has no private keys: a remote signer has them,
// and whoever runs this node can ask the signer for anything.
func (c *Client) WatchOnly(ctx context.Context) (bool, error) {
	resp, err := c.wallet.ListAccounts(ctx, &walletrpc.ListAccountsRequest{})
	if err != nil {
		return false, mapError("list the wallet's accounts", err)
	}
	return watchOnly(resp.GetAccounts()), nil
}

// watchOnly: a wallet with keys has accounts with keys, beside ones that were
// imported as public keys.
func watchOnly(accounts []*walletrpc.Account) bool {
	for _, a := range accounts {
		if !a.GetWatchOnly() {
			return false
		}
	}
	return len(accounts) > 0
}
