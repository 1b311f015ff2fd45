package funding

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Weights in weight units (BIP 141), at their largest: a DER signature with
// low S has at most 71 bytes and a sighash byte; a Schnorr signature with the
// default sighash has 64.
const (
	// version, locktime, output count: four each byte; marker and flag: one.
	txBaseWU = (4+4+1)*4 + 2
	// outpoint, empty script, sequence.
	inputBaseWU     = (36 + 1 + 4) * 4
	p2wpkhWitnessWU = 1 + 1 + 72 + 1 + 33
	p2trWitnessWU   = 1 + 1 + 64
)

// kind is what a script pays to, as far as funding cares.
type kind int

const (
	other kind = iota
	p2wpkh
	p2wsh
	p2tr
)

func kindOf(script []byte) kind {
	switch {
	case len(script) == 22 && script[0] == 0x00 && script[1] == 20:
		return p2wpkh
	case len(script) == 34 && script[0] == 0x00 && script[1] == 32:
		return p2wsh
	case len(script) == 34 && script[0] == 0x51 && script[1] == 32:
		return p2tr
	}
	return other
}

// inputWU is the weight of spending a coin of ours; only P2WPKH and P2TR key
// spends may fund a channel: their txid cannot change when they are signed.
func inputWU(script []byte) (uint64, bool) {
	switch kindOf(script) {
	case p2wpkh:
		return inputBaseWU + p2wpkhWitnessWU, true
	case p2tr:
		return inputBaseWU + p2trWitnessWU, true
	}
	return 0, false
}

// outputWU is the weight of an output: amount, script length, script.
func outputWU(script []byte) uint64 { return uint64(8+1+len(script)) * 4 }

// DustLimit is the least amount that nodes relay to a script (Bitcoin Core's
// rule at 3 sat/vbyte).
func DustLimit(script []byte) (ln.Sat, error) {
	switch kindOf(script) {
	case p2wpkh:
		return 294, nil
	case p2wsh, p2tr:
		return 330, nil
	}
	return 0, fmt.Errorf("script %x is neither P2WPKH nor P2WSH nor P2TR", script)
}

func countWU(n int) uint64 {
	if n < 0xfd {
		return 4
	}
	return 12
}

// fundingScriptLen: a channel's funding output is P2WSH or P2TR.
const fundingScriptLen = 34

// fundingOutputWU is the weight of a channel's funding output.
const fundingOutputWU = uint64(8+1+fundingScriptLen) * 4

// p2trScriptLen is the longest script that a wallet's own output has.
const p2trScriptLen = 34

// OpeningWU is what a funding transaction weighs at most that spends so many
// coins and has change.
func OpeningWU(inputs int) uint64 {
	n := max(inputs, 1)
	return txBaseWU + countWU(n) + uint64(n)*(inputBaseWU+p2wpkhWitnessWU) + //nolint:gosec // positive
		fundingOutputWU + uint64(8+1+p2trScriptLen)*4
}

// ClosingWU is what a cooperative close weighs at most: the funding output is
// spent (two signatures, a 2-of-2 script), and each side has an output.
const ClosingWU = txBaseWU + 4 + inputBaseWU + (1 + 1 + 2*(1+72) + 1 + 71) + 2*(8+1+p2trScriptLen)*4
