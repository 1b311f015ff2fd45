package guard

import (
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
)

// Signed is a commitment transaction of a channel that was signed for: a state that the
// peer may have. Its number is hidden in the lock time and the sequence (BOLT 3); whoever
// has the channel's keys can read it.
type Signed struct {
	Channel            wire.OutPoint
	TxID               chainhash.Hash
	LockTime, Sequence uint32
}

// The upper bytes of a commitment's lock time and sequence. A closing transaction has
// others.
const (
	commitmentLock     = 0x20
	commitmentSequence = 0x80
)

// Signed says which state of which channel a request signs, if it does.
func (s Spend) Signed() (Signed, bool) {
	for _, a := range s.asks {
		if a.kind != ofChannel {
			continue
		}
		// One input, or it would not be of this kind.
		sequence := s.tx.TxIn[0].Sequence
		if s.tx.LockTime>>24 != commitmentLock || sequence>>24 != commitmentSequence {
			return Signed{}, false
		}
		return Signed{Channel: a.outpoint, TxID: s.id, LockTime: s.tx.LockTime, Sequence: sequence}, true
	}
	return Signed{}, false
}
