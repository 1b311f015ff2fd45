package books

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Losers are listed transactions that can not all become true with the others:
// lnd's wallet lists a transaction and its replacement until one is confirmed,
// and counts the change of both. Of two, the confirmed one stands, then the
// one that pays more, as a mempool decides; descendants fall with it.
func Losers(txs []ln.WalletTx) map[ln.TxID]bool {
	spent := make(map[ln.Outpoint]bool)
	young := make(map[ln.TxID]ln.WalletTx)
	for _, tx := range txs {
		if tx.Confirmations > 0 {
			for _, op := range tx.Spends {
				spent[op] = true
			}
		} else {
			young[tx.TxID] = tx
		}
	}
	order := make([]ln.WalletTx, 0, len(young))
	for _, tx := range young {
		order = append(order, tx)
	}
	age := generations(young)
	slices.SortFunc(order, func(a, b ln.WalletTx) int {
		return cmp.Or(cmp.Compare(age[a.TxID], age[b.TxID]), cmp.Compare(b.FeeSat, a.FeeSat), b.At.Compare(a.At),
			strings.Compare(a.TxID.String(), b.TxID.String()))
	})
	losers := make(map[ln.TxID]bool)
	for _, tx := range order {
		if slices.ContainsFunc(tx.Spends, func(op ln.Outpoint) bool { return spent[op] || losers[op.TxID] }) {
			losers[tx.TxID] = true
			continue
		}
		for _, op := range tx.Spends {
			spent[op] = true
		}
	}
	return losers
}

// ParentsFirst sorts transactions so that what one spends comes before it.
func ParentsFirst(txs []ln.WalletTx) []ln.WalletTx {
	all := make(map[ln.TxID]ln.WalletTx, len(txs))
	for _, tx := range txs {
		all[tx.TxID] = tx
	}
	age := generations(all)
	out := slices.Clone(txs)
	slices.SortStableFunc(out, func(a, b ln.WalletTx) int { return cmp.Compare(age[a.TxID], age[b.TxID]) })
	return out
}

// generations puts parents before their children.
func generations(young map[ln.TxID]ln.WalletTx) map[ln.TxID]int {
	age := make(map[ln.TxID]int, len(young))
	var of func(ln.TxID) int
	of = func(id ln.TxID) int {
		tx, ok := young[id]
		if !ok {
			return 0
		}
		if n, seen := age[id]; seen {
			return n
		}
		age[id] = 1
		n := 1
		for _, op := range tx.Spends {
			n = max(n, 1+of(op.TxID))
		}
		age[id] = n
		return n
	}
	for id := range young {
		of(id)
	}
	return age
}

// MiscountedSat is by how much lnd's wallet balance is too high because it
// counts losers. known is false when a loser spends a coin of the wallet's that
// nothing else spends and whose value is not among the transactions.
func MiscountedSat(txs []ln.WalletTx, losers map[ln.TxID]bool) (sat int64, known bool) {
	if len(losers) == 0 {
		return 0, true
	}
	anySpends, winnerSpends := make(map[ln.Outpoint]bool), make(map[ln.Outpoint]bool)
	value := make(map[ln.Outpoint]int64)
	for _, tx := range txs {
		for _, op := range tx.Spends {
			anySpends[op] = true
			winnerSpends[op] = winnerSpends[op] || !losers[tx.TxID]
		}
		for i, o := range tx.Outputs {
			value[ln.Outpoint{TxID: tx.TxID, Index: uint32(i)}] = o.ValueSat //nolint:gosec // an index
		}
	}
	known = true
	freed := make(map[ln.Outpoint]bool)
	for _, tx := range txs {
		if !losers[tx.TxID] {
			continue
		}
		for i, o := range tx.Outputs {
			if o.Ours && !anySpends[ln.Outpoint{TxID: tx.TxID, Index: uint32(i)}] { //nolint:gosec // an index
				sat += o.ValueSat
			}
		}
		for _, in := range tx.Inputs {
			if !in.Ours || winnerSpends[in.Outpoint] || losers[in.Outpoint.TxID] || freed[in.Outpoint] {
				continue
			}
			freed[in.Outpoint] = true
			v, found := value[in.Outpoint]
			known = known && found
			sat -= v
		}
	}
	return sat, known
}
