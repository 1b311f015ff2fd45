package guard

import (
	"bytes"
	"crypto/sha256"

	"github.com/btcsuite/btcd/txscript"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// step is one opcode of a script, or one piece of data whose value a template leaves open.
type step struct {
	op byte
	// data is how long a push is; 0: op is the very opcode.
	data int
	// number: any push of a number.
	number bool
}

func ops(codes ...byte) (out []step) {
	for _, c := range codes {
		out = append(out, step{op: c})
	}
	return out
}

func push(n int) []step { return []step{{data: n}} }

func join(parts ...[]step) (out []step) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// match reads a script along a template and gives the pushes of data, in their order.
func match(script []byte, template []step) ([][]byte, bool) {
	var pushes [][]byte
	t := txscript.MakeScriptTokenizer(0, script)
	for _, want := range template {
		if !t.Next() {
			return nil, false
		}
		switch {
		case want.number:
			if len(t.Data()) > 4 || t.Opcode() > txscript.OP_16 || t.Opcode() == txscript.OP_RESERVED {
				return nil, false
			}
		case want.data > 0:
			if len(t.Data()) != want.data || int(t.Opcode()) != want.data {
				return nil, false
			}
			pushes = append(pushes, t.Data())
		case t.Opcode() != want.op:
			return nil, false
		}
	}
	return pushes, !t.Next() && t.Err() == nil
}

// fundingKeys reads a channel's funding script, 2-of-2.
func fundingKeys(script []byte) (a, b ln.PubKey, ok bool) {
	got, ok := match(script, join(ops(txscript.OP_2), push(33), push(33), ops(txscript.OP_2, txscript.OP_CHECKMULTISIG)))
	if !ok {
		return a, b, false
	}
	copy(a[:], got[0])
	copy(b[:], got[1])
	return a, b, a != b
}

// htlc is what an HTLC's output script says.
type htlc struct {
	keys [2]ln.PubKey
	// anchors: of a channel whose second transactions pay no fee themselves.
	anchors bool
}

// htlcScript reads the script of an HTLC on either side's commitment (BOLT 3).
func htlcScript(script []byte) (htlc, bool) {
	head := join(ops(txscript.OP_DUP, txscript.OP_HASH160), push(20), ops(txscript.OP_EQUAL, txscript.OP_IF, txscript.OP_CHECKSIG, txscript.OP_ELSE),
		push(33), ops(txscript.OP_SWAP, txscript.OP_SIZE), push(1), ops(txscript.OP_EQUAL))
	offered := join(head,
		ops(txscript.OP_NOTIF, txscript.OP_DROP, txscript.OP_2, txscript.OP_SWAP), push(33), ops(txscript.OP_2, txscript.OP_CHECKMULTISIG),
		ops(txscript.OP_ELSE, txscript.OP_HASH160), push(20), ops(txscript.OP_EQUALVERIFY, txscript.OP_CHECKSIG, txscript.OP_ENDIF))
	received := join(head,
		ops(txscript.OP_IF, txscript.OP_HASH160), push(20), ops(txscript.OP_EQUALVERIFY, txscript.OP_2, txscript.OP_SWAP), push(33), ops(txscript.OP_2, txscript.OP_CHECKMULTISIG),
		ops(txscript.OP_ELSE, txscript.OP_DROP), []step{{number: true}}, ops(txscript.OP_CHECKLOCKTIMEVERIFY, txscript.OP_DROP, txscript.OP_CHECKSIG, txscript.OP_ENDIF))
	plain, anchors := ops(txscript.OP_ENDIF), ops(txscript.OP_1, txscript.OP_CHECKSEQUENCEVERIFY, txscript.OP_DROP, txscript.OP_ENDIF)
	for _, way := range []struct {
		template []step
		anchors  bool
		second   int
	}{
		{join(offered, plain), false, 3},
		{join(offered, anchors), true, 3},
		{join(received, plain), false, 4},
		{join(received, anchors), true, 4},
	} {
		if got, ok := match(script, way.template); ok && bytes.Equal(got[2], []byte{32}) {
			out := htlc{anchors: way.anchors}
			copy(out.keys[0][:], got[1])
			copy(out.keys[1][:], got[way.second])
			return out, true
		}
	}
	return htlc{}, false
}

// scriptHashOf is the output script of a witness script.
func scriptHashOf(witness []byte) []byte {
	sum := sha256.Sum256(witness)
	return append([]byte{txscript.OP_0, txscript.OP_DATA_32}, sum[:]...)
}
