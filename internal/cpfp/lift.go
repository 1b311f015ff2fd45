package cpfp

import (
	"bytes"
	"fmt"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Parent is the transaction that lags, as its service knows it.
type Parent struct {
	Change ln.Outpoint
	// The rest is believed where lnd's wallet does not say it: it has not listed the
	// transaction, or does not know its fee, since others spend coins in it too. A
	// WeightWU of 0 leaves all to lnd.
	ChangeSat    ln.Sat
	ChangeScript []byte
	FeeSat       ln.Sat
	WeightWU     uint64
}

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

// LiftOf finds what lifts the parent in a chain of unconfirmed transactions that
// spend each other's change: a child of the last one, which pays for all before it.
// ErrNoBump: the parent is confirmed, none has change left, or the price of one is not
// known.
func LiftOf(txs []ln.WalletTx, parent Parent) (Lift, error) {
	c := chain{parent: parent, listed: make(map[ln.TxID]ln.WalletTx), spender: make(map[ln.Outpoint]ln.WalletTx)}
	for _, tx := range txs {
		if tx.Confirmations > 0 {
			if tx.TxID == parent.Change.TxID {
				return Lift{}, ErrNoBump
			}
			continue
		}
		c.listed[tx.TxID] = tx
		// What pays the wallet alone is a child that an earlier bump made: lnd
		// replaces it.
		if tx.PaysOthers() {
			for _, op := range tx.Spends {
				c.spender[op] = tx
			}
		}
	}
	change := parent.Change
	for range maxChain {
		next, spent := c.spender[change]
		if !spent {
			return c.liftAt(change)
		}
		// Another party pays in it: it may be replaced, and what it lacks is not known.
		if next.FeeSat == 0 {
			return Lift{}, fmt.Errorf("transaction %s spends the change, and the wallet does not know its fee: %w", next.TxID, ErrNoBump)
		}
		var found bool
		if change, found = c.changeOf(next); !found {
			return Lift{}, ErrNoBump
		}
	}
	return Lift{}, ErrNoBump
}

// chain is what the wallet has unconfirmed.
type chain struct {
	parent  Parent
	listed  map[ln.TxID]ln.WalletTx
	spender map[ln.Outpoint]ln.WalletTx
}

// changeOf is the largest output that comes back; one that is spent already, by
// what may be lifted in its stead, if there is no other.
func (c chain) changeOf(tx ln.WalletTx) (best ln.Outpoint, found bool) {
	var most int64
	free := false
	for i, o := range tx.Outputs {
		op := ln.Outpoint{TxID: tx.TxID, Index: uint32(i)} //nolint:gosec // an output's index
		_, spent := c.spender[op]
		if !o.Ours || (free && spent) || (free == !spent && o.ValueSat <= most) {
			continue
		}
		best, most, free, found = op, o.ValueSat, !spent, true
	}
	return best, found
}

// liftAt sums what must confirm before a child of the change.
func (c chain) liftAt(change ln.Outpoint) (Lift, error) {
	l := Lift{Change: change}
	seen := make(map[ln.TxID]bool)
	var add func(id ln.TxID) error
	add = func(id ln.TxID) error {
		if seen[id] {
			return nil
		}
		seen[id] = true
		tx, listed := c.listed[id]
		switch {
		case tx.FeeSat > 0:
			if err := l.add(tx); err != nil {
				return err
			}
		case id == c.parent.Change.TxID && c.parent.WeightWU > 0:
			l.FeeSat += c.parent.FeeSat
			l.WeightWU += c.parent.WeightWU
			if change == c.parent.Change {
				l.ChangeSat, l.ChangeScript = c.parent.ChangeSat, c.parent.ChangeScript
			}
		case !listed, id != change.TxID:
			// Confirmed, or paid for by others too: the wallet does not pay for them.
			return nil
		default:
			return ErrNoBump
		}
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

// add counts a transaction of which the wallet knows all.
func (l *Lift) add(tx ln.WalletTx) error {
	var msg wire.MsgTx
	if err := msg.Deserialize(bytes.NewReader(tx.RawTx)); err != nil {
		return fmt.Errorf("transaction %s: %w", tx.TxID, err)
	}
	if tx.TxID == l.Change.TxID && int(l.Change.Index) < len(msg.TxOut) {
		out := msg.TxOut[l.Change.Index]
		l.ChangeSat, l.ChangeScript = ln.Sat(out.Value), out.PkScript //nolint:gosec // lnd's wallet has no negative output
	}
	l.FeeSat += tx.FeeSat
	l.WeightWU += uint64(blockchain.GetTransactionWeight(btcutil.NewTx(&msg))) //nolint:gosec // not negative
	return nil
}
