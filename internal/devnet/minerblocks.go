package devnet

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/integration/rpctest"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
)

// MineOnly makes one block that holds these transactions and nothing of the mempool: a
// block that others won, or one with a transaction that the mempool would refuse.
func (m *Miner) MineOnly(ctx context.Context, txs ...*wire.MsgTx) error {
	height, err := m.Height(ctx)
	if err != nil {
		return err
	}
	hash, err := m.BlockHash(ctx, height)
	if err != nil {
		return err
	}
	tip, err := m.Block(ctx, hash)
	if err != nil {
		return err
	}
	prev := btcutil.NewBlock(tip)
	prev.SetHeight(int32(height)) //nolint:gosec // a height
	inside := make([]*btcutil.Tx, 0, len(txs))
	for _, tx := range txs {
		inside = append(inside, btcutil.NewTx(tx))
	}
	address, err := btcutil.NewAddressWitnessPubKeyHash(btcutil.Hash160(m.key.PubKey().SerializeCompressed()), &chaincfg.RegressionNetParams)
	if err != nil {
		return err
	}
	const version = 0x20000000
	block, err := rpctest.CreateBlock(prev, inside, version, time.Time{}, address, nil, &chaincfg.RegressionNetParams)
	if err != nil {
		return fmt.Errorf("make a block: %w", err)
	}
	var raw bytes.Buffer
	if err := block.MsgBlock().Serialize(&raw); err != nil {
		return err
	}
	var refused *string
	if err := m.rpc.call(ctx, &refused, "submitblock", hex.EncodeToString(raw.Bytes())); err != nil {
		return err
	}
	if refused != nil {
		return fmt.Errorf("btcd refuses the block: %s", *refused)
	}
	return nil
}

// ReorgWithout is [Miner.Reorg], but the new blocks have no transactions: what the old
// ones had is unconfirmed again until [Miner.Mine] makes a block.
func (m *Miner) ReorgWithout(ctx context.Context, depth, newBlocks int) (int64, error) {
	return m.ReorgWith(ctx, depth, make([][]*wire.MsgTx, newBlocks)...)
}

// ReorgWith is [Miner.Reorg], but each new block holds exactly what is given: what
// conflicts with that is undone for good.
func (m *Miner) ReorgWith(ctx context.Context, depth int, blocks ...[]*wire.MsgTx) (int64, error) {
	return m.reorg(ctx, depth, len(blocks), func() error {
		for _, txs := range blocks {
			if err := m.MineOnly(ctx, txs...); err != nil {
				return err
			}
		}
		return nil
	})
}

// Respend makes a transaction that spends the coins of one of the miner's own, for
// outputs and else for itself. Only one of both can be in a chain; it publishes none.
func (m *Miner) Respend(ctx context.Context, txid chainhash.Hash, outputs ...Output) (*wire.MsgTx, error) {
	sent, _, err := m.Tx(ctx, txid)
	if err != nil {
		return nil, err
	}
	tx := wire.NewMsgTx(2)
	prev := txscript.NewMultiPrevOutFetcher(nil)
	var total int64
	for _, in := range sent.TxIn {
		from, _, err := m.Tx(ctx, in.PreviousOutPoint.Hash)
		if err != nil {
			return nil, err
		}
		coin := from.TxOut[in.PreviousOutPoint.Index]
		if !bytes.Equal(coin.PkScript, m.script) {
			return nil, errors.New("this transaction is not the miner's own")
		}
		prev.AddPrevOut(in.PreviousOutPoint, coin)
		tx.AddTxIn(wire.NewTxIn(&in.PreviousOutPoint, nil, nil))
		total += coin.Value
	}
	const fee = 10_000
	var others int64
	if tx.TxOut, others, err = payTo(outputs); err != nil {
		return nil, err
	}
	tx.AddTxOut(wire.NewTxOut(total-others-fee, m.script))
	hashes := txscript.NewTxSigHashes(tx, prev)
	for i, in := range tx.TxIn {
		coin := prev.FetchPrevOutput(in.PreviousOutPoint)
		if in.Witness, err = txscript.WitnessSignature(tx, hashes, i, coin.Value, m.script, txscript.SigHashAll, m.key, true); err != nil {
			return nil, err
		}
	}
	return tx, nil
}
