package devnet

import (
	"context"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
)

// Output is an amount for an address.
type Output struct {
	Address   string
	AmountSat int64
}

// payTo are outputs, and what they come to.
func payTo(outputs []Output) (txOut []*wire.TxOut, total int64, err error) {
	for _, out := range outputs {
		addr, err := btcutil.DecodeAddress(out.Address, &chaincfg.RegressionNetParams)
		if err != nil {
			return nil, 0, fmt.Errorf("address %s: %w", out.Address, err)
		}
		script, err := txscript.PayToAddrScript(addr)
		if err != nil {
			return nil, 0, err
		}
		txOut = append(txOut, wire.NewTxOut(out.AmountSat, script))
		total += out.AmountSat
	}
	return txOut, total, nil
}

// Send pays outputs from matured coinbases in one transaction, unconfirmed.
func (m *Miner) Send(ctx context.Context, outputs ...Output) (chainhash.Hash, error) {
	tx := wire.NewMsgTx(2)
	txOut, total, err := payTo(outputs)
	if err != nil {
		return chainhash.Hash{}, err
	}
	tx.TxOut = txOut

	m.mu.Lock()
	defer m.mu.Unlock()
	height, err := m.Height(ctx)
	if err != nil {
		return chainhash.Hash{}, err
	}
	var (
		spent []minerCoin
		in    int64
		fee   int64
	)
	for {
		// A P2WPKH input is 68 vbytes; outputs are at most 43 (P2TR).
		fee = minerFeeSatPerVByte * int64(11+68*len(spent)+43*(len(tx.TxOut)+1))
		if in >= total+fee {
			break
		}
		coin, err := m.nextCoin(ctx, height)
		if err != nil {
			// What was picked for nothing can be picked again.
			m.coins = append(m.coins, spent...)
			return chainhash.Hash{}, err
		}
		spent = append(spent, coin)
		in += coin.value
	}
	const dustSat = 1000
	change := in - total - fee
	if change > dustSat {
		tx.AddTxOut(wire.NewTxOut(change, m.script))
	}

	prev := txscript.NewMultiPrevOutFetcher(nil)
	for _, coin := range spent {
		tx.AddTxIn(wire.NewTxIn(&coin.point, nil, nil))
		prev.AddPrevOut(coin.point, wire.NewTxOut(coin.value, m.script))
	}
	hashes := txscript.NewTxSigHashes(tx, prev)
	for i, coin := range spent {
		witness, err := txscript.WitnessSignature(tx, hashes, i, coin.value, m.script, txscript.SigHashAll, m.key, true)
		if err != nil {
			return chainhash.Hash{}, err
		}
		tx.TxIn[i].Witness = witness
	}
	if err := m.Publish(ctx, tx); err != nil {
		m.coins = append(m.coins, spent...)
		return chainhash.Hash{}, fmt.Errorf("send from the miner: %w", err)
	}
	txid := tx.TxHash()
	if change > dustSat {
		point := wire.OutPoint{Hash: txid, Index: uint32(len(tx.TxOut) - 1)}
		m.coins = append(m.coins, minerCoin{point: point, value: change})
	}
	return txid, nil
}

// nextCoin removes and returns a coin that can be spent now. Callers hold m.mu.
func (m *Miner) nextCoin(ctx context.Context, tip int64) (minerCoin, error) {
	for {
		for i, coin := range m.coins {
			if coin.height != 0 && tip-coin.height+1 < coinbaseMaturity {
				continue
			}
			m.coins = append(m.coins[:i], m.coins[i+1:]...)
			// A reorganisation may have taken it: only btcd knows.
			var unspent *struct{}
			if err := m.rpc.call(ctx, &unspent, "gettxout", coin.point.Hash.String(), coin.point.Index, true); err != nil {
				return minerCoin{}, err
			}
			if unspent != nil {
				return coin, nil
			}
			break
		}
		if tip-m.scanned < coinbaseMaturity {
			return minerCoin{}, errors.New("the miner has no matured coin left: mine more blocks")
		}
		m.scanned++
		hash, err := m.BlockHash(ctx, m.scanned)
		if err != nil {
			return minerCoin{}, err
		}
		block, err := m.Block(ctx, hash)
		if err != nil {
			return minerCoin{}, err
		}
		coinbase := block.Transactions[0]
		for i, out := range coinbase.TxOut {
			if string(out.PkScript) == string(m.script) {
				point := wire.OutPoint{Hash: coinbase.TxHash(), Index: uint32(i)}
				m.coins = append(m.coins, minerCoin{point: point, value: out.Value, height: m.scanned})
			}
		}
	}
}
