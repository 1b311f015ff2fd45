package lnd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// ListCoins lists the wallet's unspent outputs that nobody leased. lnd leaves
// leased ones out.
func (c *Client) ListCoins(ctx context.Context, minConfs int32) ([]ln.Coin, error) {
	resp, err := c.wallet.ListUnspent(ctx, &walletrpc.ListUnspentRequest{
		MinConfs: minConfs, MaxConfs: 1<<31 - 1,
	})
	if err != nil {
		return nil, mapError("list coins", err)
	}
	out := make([]ln.Coin, 0, len(resp.Utxos))
	for _, u := range resp.Utxos {
		op, err := outpointFromBytes(u.Outpoint.GetTxidBytes(), u.Outpoint.GetOutputIndex())
		if err != nil {
			return nil, err
		}
		script, err := decodeHexField("output script", u.PkScript)
		if err != nil {
			return nil, err
		}
		out = append(out, ln.Coin{
			Outpoint: op, AmountSat: sat(u.AmountSat), PkScript: script,
			Confirmations: u.Confirmations, Address: u.Address,
		})
	}
	return out, nil
}

// LeaseCoin keeps a coin from every other user of lnd's wallet until the lease
// expires. Leasing again under the same id prolongs it; under another id it is
// ln.ErrLeased.
func (c *Client) LeaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint, d time.Duration) error {
	_, err := c.wallet.LeaseOutput(ctx, &walletrpc.LeaseOutputRequest{
		Id: id[:], Outpoint: rpcOutpoint(op), ExpirationSeconds: uint64(d / time.Second),
	})
	return mapError(fmt.Sprintf("lease coin %s", op), err)
}

// ReleaseCoin ends a lease; one that is gone already is no error.
func (c *Client) ReleaseCoin(ctx context.Context, id [32]byte, op ln.Outpoint) error {
	_, err := c.wallet.ReleaseOutput(ctx, &walletrpc.ReleaseOutputRequest{Id: id[:], Outpoint: rpcOutpoint(op)})
	mapped := mapError(fmt.Sprintf("release coin %s", op), err)
	if errors.Is(mapped, ln.ErrNotFound) || errors.Is(mapped, ln.ErrLeased) {
		return nil
	}
	return mapped
}

// ListLeases lists every lease in lnd's wallet, whoever took it.
func (c *Client) ListLeases(ctx context.Context) ([]ln.Lease, error) {
	resp, err := c.wallet.ListLeases(ctx, &walletrpc.ListLeasesRequest{})
	if err != nil {
		return nil, mapError("list leases", err)
	}
	out := make([]ln.Lease, 0, len(resp.LockedUtxos))
	for _, l := range resp.LockedUtxos {
		op, err := outpointFromBytes(l.Outpoint.GetTxidBytes(), l.Outpoint.GetOutputIndex())
		if err != nil {
			return nil, err
		}
		lease := ln.Lease{Outpoint: op, ExpiresAt: time.Unix(int64(l.Expiration), 0), AmountSat: ln.Sat(l.Value)}
		copy(lease.ID[:], l.Id)
		out = append(out, lease)
	}
	return out, nil
}

// NewChangeAddress gives a fresh P2TR change address of the wallet.
func (c *Client) NewChangeAddress(ctx context.Context) (string, error) {
	return c.newAddress(ctx, true)
}

// NewAddress gives a fresh P2TR address of the wallet for receiving.
func (c *Client) NewAddress(ctx context.Context) (string, error) { return c.newAddress(ctx, false) }

func (c *Client) newAddress(ctx context.Context, change bool) (string, error) {
	resp, err := c.wallet.NextAddr(ctx, &walletrpc.AddrRequest{
		Type: walletrpc.AddressType_TAPROOT_PUBKEY, Change: change,
	})
	if err != nil {
		return "", mapError("make an address", err)
	}
	return resp.Addr, nil
}

// FinalizePsbt signs every input with the wallet's keys and returns the
// complete transaction. It does not broadcast.
func (c *Client) FinalizePsbt(ctx context.Context, psbt []byte) (rawTx []byte, err error) {
	resp, err := c.wallet.FinalizePsbt(ctx, &walletrpc.FinalizePsbtRequest{FundedPsbt: psbt})
	if err != nil {
		return nil, mapError("sign the funding transaction", err)
	}
	return resp.RawFinalTx, nil
}

// Publish hands a transaction to the network. A transaction that is known
// already is success; one that conflicts is ln.ErrDoubleSpend.
func (c *Client) Publish(ctx context.Context, rawTx []byte, label string) error {
	resp, err := c.wallet.PublishTransaction(ctx, &walletrpc.Transaction{TxHex: rawTx, Label: label})
	if err != nil {
		mapped := mapError("publish a transaction", err)
		if errors.Is(mapped, ln.ErrKnownTx) {
			return nil
		}
		return mapped
	}
	if resp.PublishError != "" {
		return fmt.Errorf("publish a transaction: lnd: %s", resp.PublishError)
	}
	return nil
}

// BumpFee asks lnd's sweeper to spend op at the given rate for the child
// alone, and never to pay more than budget in all. The child is published with the
// next block, and lnd forgets the request when it restarts before that.
//
// Immediate is never set. lnd 0.21.2 makes such a child in two places at once when a
// block comes in while it is asked (sweep.TxPublisher.Broadcast and processRecords),
// both tell a channel that holds one result, and the sweeper never moves again: no
// block is processed, no HTLC on chain is claimed, GetInfo does not answer.
func (c *Client) BumpFee(ctx context.Context, op ln.Outpoint, satPerVByte uint64, budget ln.Sat) error {
	_, err := c.wallet.BumpFee(ctx, &walletrpc.BumpFeeRequest{
		Outpoint: rpcOutpoint(op), SatPerVbyte: satPerVByte, Budget: uint64(budget),
	})
	return mapError(fmt.Sprintf("bump the fee by spending %s", op), err)
}

// EstimateFee is lnd's estimate for confirmation within target blocks, and the
// lowest rate that its backend relays.
func (c *Client) EstimateFee(ctx context.Context, targetBlocks int32) (rate, relay ln.FeeRateSatPerKW, err error) {
	resp, err := c.wallet.EstimateFee(ctx, &walletrpc.EstimateFeeRequest{ConfTarget: targetBlocks})
	if err != nil {
		return 0, 0, mapError("estimate the fee rate", err)
	}
	return ln.FeeRateSatPerKW(resp.SatPerKw), ln.FeeRateSatPerKW(resp.MinRelayFeeSatPerKw), nil
}

// WalletBalance is what the on-chain wallet holds.
func (c *Client) WalletBalance(ctx context.Context) (ln.Balances, error) {
	resp, err := c.lightning.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
	if err != nil {
		return ln.Balances{}, mapError("wallet balance", err)
	}
	return ln.Balances{
		ConfirmedSat: sat(resp.ConfirmedBalance), UnconfirmedSat: sat(resp.UnconfirmedBalance),
		LockedSat: sat(resp.LockedBalance), ReservedSat: sat(resp.ReservedBalanceAnchorChan),
	}, nil
}

// Transactions lists the wallet's transactions from a block height on,
// unconfirmed ones included.
func (c *Client) Transactions(ctx context.Context, fromHeight int32) ([]ln.WalletTx, error) {
	resp, err := c.lightning.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{StartHeight: fromHeight, EndHeight: -1})
	if err != nil {
		return nil, mapError("list transactions", err)
	}
	out := make([]ln.WalletTx, 0, len(resp.Transactions))
	for _, t := range resp.Transactions {
		id, err := ln.ParseTxID(t.TxHash)
		if err != nil {
			return nil, err
		}
		raw, err := decodeHexField("transaction", t.RawTxHex)
		if err != nil {
			return nil, err
		}
		tx := ln.WalletTx{
			TxID: id, AmountSat: t.Amount, FeeSat: sat(t.TotalFees), Confirmations: t.NumConfirmations,
			Height: t.BlockHeight, At: time.Unix(t.TimeStamp, 0), Label: t.Label, RawTx: raw,
		}
		for _, prev := range t.PreviousOutpoints {
			spent, err := ln.ParseOutpoint(prev.Outpoint)
			if err != nil {
				return nil, err
			}
			tx.Spends = append(tx.Spends, spent)
			tx.Inputs = append(tx.Inputs, ln.WalletInput{Outpoint: spent, Ours: prev.IsOurOutput})
		}
		for _, paid := range t.OutputDetails {
			tx.Outputs = append(tx.Outputs, ln.WalletOutput{ValueSat: paid.Amount, Ours: paid.IsOurAddress})
		}
		out = append(out, tx)
	}
	return out, nil
}

// SubscribeTransactions tells that the wallet has a new transaction or knows more
// of one. There is no replay.
func (c *Client) SubscribeTransactions(ctx context.Context, handle func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.lightning.SubscribeTransactions(ctx, &lnrpc.GetTransactionsRequest{})
	if err != nil {
		return mapError("subscribe to transactions", err)
	}
	return receive("transactions", stream.Recv, func(*lnrpc.Transaction) error {
		handle()
		return nil
	})
}
