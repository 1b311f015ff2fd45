package htlc

import (
	"bytes"
	"fmt"
	"io"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr/musig2"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/psbts"
)

// Prevout is an output that a transaction spends.
type Prevout struct {
	Outpoint ln.Outpoint
	ValueSat ln.Sat
	PkScript []byte
}

// maxSweepInputs bounds the work of one request.
const maxSweepInputs = 500

// SweepHash reads a client's transaction and computes the BIP 341 hash of the
// input that spends our output, for the key path with the default sighash. The
// hash commits to every input and output: whoever lies about a prevout gets a
// signature that is good for nothing.
func (c *Contract) SweepHash(packet []byte, prevouts []Prevout, ours ln.Outpoint, amount ln.Sat) ([32]byte, error) {
	invalid := func(format string, args ...any) ([32]byte, error) {
		return [32]byte{}, errkind.Newf(errkind.Invalid, format, args...)
	}
	parsed, err := psbts.Parse(packet)
	if err != nil {
		return invalid("the sweep's PSBT cannot be read: %v", err)
	}
	tx := parsed.UnsignedTx
	if len(tx.TxIn) > maxSweepInputs {
		return invalid("a sweep of %d inputs is not signed: split it", len(tx.TxIn))
	}
	index := -1
	for i, in := range tx.TxIn {
		if outpointOf(in.PreviousOutPoint) == ours {
			index = i
		}
	}
	if index < 0 {
		return invalid("the sweep does not spend this swap's output %s", ours)
	}
	known := make(map[wire.OutPoint]*wire.TxOut, len(prevouts))
	for _, p := range prevouts {
		value, err := p.ValueSat.Int64()
		if err != nil {
			return invalid("the value of %s is no amount of bitcoin", p.Outpoint)
		}
		known[wirePoint(p.Outpoint)] = wire.NewTxOut(value, p.PkScript)
	}
	for _, in := range tx.TxIn {
		if known[in.PreviousOutPoint] == nil {
			return invalid("the output %s that the sweep spends is not described", in.PreviousOutPoint)
		}
	}
	mine := known[wirePoint(ours)]
	if mine.Value != int64(amount) || !bytes.Equal(mine.PkScript, c.PkScript) { //nolint:gosec // bounded
		return invalid("this swap's output is described wrongly: it holds %s", amount)
	}
	fetcher := txscript.NewMultiPrevOutFetcher(known)
	hash, err := txscript.CalcTaprootSignatureHash(txscript.NewTxSigHashes(tx, fetcher), txscript.SigHashDefault, tx, index, fetcher)
	if err != nil {
		return invalid("the sweep cannot be hashed: %v", err)
	}
	return [32]byte(hash), nil
}

// Cosign makes our half of a key-path signature. The nonce is drawn here, used
// once, and gone when the call returns: a second call for the same transaction
// has another one.
func (c *Contract) Cosign(key Key, theirs [66]byte, hash [32]byte, random io.Reader) (nonce [66]byte, partial [32]byte, err error) {
	// The library takes the point at infinity, which is no nonce of anybody.
	for _, half := range [][]byte{theirs[:33], theirs[33:]} {
		if _, err := btcec.ParsePubKey(half); err != nil {
			return nonce, partial, errkind.Newf(errkind.Invalid, "the client's nonce is not valid: %v", err)
		}
	}
	nonces, err := musig2.GenNonces(musig2.WithPublicKey(key.private.PubKey()), musig2.WithNonceSecretKeyAux(key.private), musig2.WithCustomRand(random))
	if err != nil {
		return nonce, partial, fmt.Errorf("draw a nonce: %w", err)
	}
	combined, err := musig2.AggregateNonces([][66]byte{nonces.PubNonce, theirs})
	if err != nil {
		return nonce, partial, errkind.Newf(errkind.Invalid, "the client's nonce is not valid: %v", err)
	}
	sig, err := musig2.Sign(nonces.SecNonce, key.private, combined, c.keys, hash,
		musig2.WithSortedKeys(), musig2.WithTaprootSignTweak(c.root[:]))
	if err != nil {
		return nonce, partial, errkind.Newf(errkind.Invalid, "the sweep cannot be signed: %v", err)
	}
	sig.S.PutBytes(&partial)
	return nonces.PubNonce, partial, nil
}

// Spend is how a contract's output was spent.
type Spend string

// The ways. SpendKey needs both sides' signatures.
const (
	SpendSuccess Spend = "success"
	SpendTimeout Spend = "timeout"
	SpendKey     Spend = "key"
)

// Classify reads the witness of an input that spends the contract's output.
func (c *Contract) Classify(witness wire.TxWitness) (Spend, ln.Preimage, error) {
	if n := len(witness); n > 0 && len(witness[n-1]) > 0 && n > 1 && witness[n-1][0] == txscript.TaprootAnnexTag {
		witness = witness[:n-1]
	}
	switch {
	case len(witness) == 1:
		return SpendKey, ln.Preimage{}, nil
	case len(witness) == 4 && bytes.Equal(witness[2], c.successScript):
		preimage, err := ln.PreimageFromBytes(witness[0])
		if err != nil || preimage.Hash() != c.Hash {
			return "", ln.Preimage{}, fmt.Errorf("a success spend without the preimage of %s", c.Hash.Short())
		}
		return SpendSuccess, preimage, nil
	case len(witness) == 3 && bytes.Equal(witness[1], c.timeoutScript):
		return SpendTimeout, ln.Preimage{}, nil
	}
	return "", ln.Preimage{}, fmt.Errorf("a spend with %d witness elements that this contract does not admit", len(witness))
}

// ErrNotWorthIt: the output would pay more for its refund than it holds.
var ErrNotWorthIt = errkind.New(errkind.Conflict, "the refund's fee would leave dust")

// Refund builds and signs the spend by the timeout leaf. It can be mined from
// the expiry height on, and signals replacement.
func (c *Contract) Refund(key Key, spends ln.Outpoint, amount ln.Sat, to []byte, rate ln.FeeRateSatPerKW) (raw []byte, fee ln.Sat, err error) {
	r, err := take(Taking{Contract: c, Outpoint: spends, AmountSat: amount, Way: SpendTimeout, Ours: key}, to, rate, nil)
	return r.Raw, r.FeeSat, err
}

func outpointOf(op wire.OutPoint) ln.Outpoint {
	return ln.Outpoint{TxID: ln.TxID(op.Hash), Index: op.Index}
}

func wirePoint(op ln.Outpoint) wire.OutPoint {
	return wire.OutPoint{Hash: chainhash.Hash(op.TxID), Index: op.Index}
}
