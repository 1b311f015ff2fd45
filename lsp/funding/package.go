package funding

import (
	"bytes"
	"fmt"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Lift is what a child must lift: the transactions that must confirm before it,
// and the output that it spends.
type Lift struct {
	Change       ln.Outpoint
	ChangeSat    ln.Sat
	ChangeScript []byte
	// FeeSat and WeightWU are those of all of them together.
	FeeSat   ln.Sat
	WeightWU uint64
}

// maxChain bounds how far a chain of unconfirmed transactions is followed: nodes
// relay no longer ones.
const maxChain = 25

// Unconfirmed picks the wallet's own unconfirmed transactions: those that spend
// its coins alone. lnd knows the fee of no others.
func Unconfirmed(txs []ln.WalletTx) map[ln.TxID]ln.WalletTx {
	own := make(map[ln.TxID]ln.WalletTx)
	for _, tx := range txs {
		if tx.Confirmations == 0 && tx.FeeSat > 0 {
			own[tx.TxID] = tx
		}
	}
	return own
}

// Depth is how many unconfirmed transactions of own stand in a row up to and
// with id; 0 if own does not have it.
func Depth(own map[ln.TxID]ln.WalletTx, id ln.TxID) int {
	return depth(own, id, 0)
}

func depth(own map[ln.TxID]ln.WalletTx, id ln.TxID, level int) int {
	tx, ok := own[id]
	if !ok || level > maxChain {
		return level
	}
	deepest := level + 1
	for _, spent := range tx.Spends {
		deepest = max(deepest, depth(own, spent.TxID, level+1))
	}
	return deepest
}

// LiftOf finds what lifts the transaction of which change is an output, in a chain
// of unconfirmed transactions that spend each other's change: a child of the
// last one, which pays for all before it. ErrNoBump: none has change left.
func LiftOf(own map[ln.TxID]ln.WalletTx, change ln.Outpoint) (Lift, error) {
	spender := make(map[ln.Outpoint]ln.WalletTx)
	for _, tx := range own {
		// What pays the wallet alone is a child that an earlier bump made: lnd
		// replaces it.
		if tx.PaysOthers() {
			for _, op := range tx.Spends {
				spender[op] = tx
			}
		}
	}
	for range maxChain {
		next, spent := spender[change]
		if !spent {
			return liftAt(own, change)
		}
		var found bool
		if change, found = changeOf(next, spender); !found {
			return Lift{}, ErrNoBump
		}
	}
	return Lift{}, ErrNoBump
}

// changeOf is the largest output that comes back; one that is spent already, by
// what may be lifted in its stead, if there is no other.
func changeOf(tx ln.WalletTx, spender map[ln.Outpoint]ln.WalletTx) (best ln.Outpoint, found bool) {
	var most int64
	free := false
	for i, o := range tx.Outputs {
		op := ln.Outpoint{TxID: tx.TxID, Index: uint32(i)} //nolint:gosec // an output's index
		_, spent := spender[op]
		if !o.Ours || (free && spent) || (free == !spent && o.ValueSat <= most) {
			continue
		}
		best, most, free, found = op, o.ValueSat, !spent, true
	}
	return best, found
}

func liftAt(own map[ln.TxID]ln.WalletTx, change ln.Outpoint) (Lift, error) {
	l := Lift{Change: change}
	seen := make(map[ln.TxID]bool)
	var add func(id ln.TxID) error
	add = func(id ln.TxID) error {
		tx, ok := own[id]
		if !ok || seen[id] {
			return nil
		}
		seen[id] = true
		var msg wire.MsgTx
		if err := msg.Deserialize(bytes.NewReader(tx.RawTx)); err != nil {
			return fmt.Errorf("transaction %s: %w", id, err)
		}
		if id == change.TxID && int(change.Index) < len(msg.TxOut) {
			out := msg.TxOut[change.Index]
			l.ChangeSat, l.ChangeScript = ln.Sat(out.Value), out.PkScript //nolint:gosec // lnd's wallet has no negative output
		}
		l.FeeSat += tx.FeeSat
		l.WeightWU += uint64(blockchain.GetTransactionWeight(btcutil.NewTx(&msg))) //nolint:gosec // not negative
		for _, spent := range tx.Spends {
			if err := add(spent.TxID); err != nil {
				return err
			}
		}
		return nil
	}
	if err := add(change.TxID); err != nil {
		return Lift{}, err
	}
	if l.ChangeScript == nil {
		return Lift{}, ErrNoBump
	}
	return l, nil
}
