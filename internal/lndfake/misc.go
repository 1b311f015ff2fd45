package lndfake

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"github.com/btcsuite/btcd/wire"
)

func sha(b [32]byte) [32]byte { return sha256.Sum256(b[:]) }

func decodeTx(raw []byte) (*wire.MsgTx, error) {
	tx := wire.NewMsgTx(2)
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("decode transaction: %w", err)
	}
	return tx, nil
}

func encodeTx(tx *wire.MsgTx) []byte {
	var b bytes.Buffer
	if err := tx.Serialize(&b); err != nil {
		return nil
	}
	return b.Bytes()
}
