package htlc

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/btcsuite/btcd/btcec/v2/schnorr/musig2"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Weights of transactions with one P2TR output (BIP 141), and of the inputs that
// spend a contract, at their largest: a timeout script of at most 41 bytes.
const (
	emptyWU   = (4+4+1+1)*4 + 2 + (8+1+34)*4
	inputWU   = (36 + 1 + 4) * 4
	keyWU     = inputWU + 1 + (1 + 64)
	successWU = inputWU + 1 + (1 + 32) + (1 + 64) + (1 + 63) + (1 + 65)
	timeoutWU = inputWU + 1 + (1 + 64) + (1 + 41) + (1 + 65)

	// Of transactions with one input.
	RefundWU   = emptyWU + timeoutWU
	ClaimWU    = emptyWU + successWU
	KeyClaimWU = emptyWU + keyWU

	// OutputWU is what the contract's output adds to a transaction.
	OutputWU = (8 + 1 + 34) * 4
)

// InputWU is what one more input that is spent in this way adds.
func (s Spend) InputWU() uint64 {
	switch s {
	case SpendKey:
		return keyWU
	case SpendTimeout:
		return timeoutWU
	}
	return successWU
}

// TogetherWU is the weight of a transaction that spends so many contracts.
func TogetherWU(ways ...Spend) uint64 {
	sum := uint64(emptyWU)
	for _, w := range ways {
		sum += w.InputWU()
	}
	return sum
}

// dustSat is the least that nodes relay to a P2TR output.
const dustSat = 330

// Taking is one contract's output that a transaction takes, and with what: by the
// timeout leaf with the sender's key; by the success leaf with the receiver's and
// the preimage; by the key path with both internal keys.
type Taking struct {
	Contract  *Contract
	Outpoint  ln.Outpoint
	AmountSat ln.Sat
	Way       Spend
	Ours      Key
	Theirs    Key
	Preimage  ln.Preimage
}

func (t Taking) check() error {
	c := t.Contract
	if t.Ours.private == nil || t.Way == SpendKey && t.Theirs.private == nil {
		return errors.New("a key of the spend is missing")
	}
	switch t.Way {
	case SpendTimeout:
		if t.Ours.PubKey() != c.Sender {
			return errors.New("the refund's key is not the sender's of this contract")
		}
	case SpendSuccess:
		if t.Ours.PubKey() != c.Receiver || t.Preimage.Hash() != c.Hash {
			return errors.New("the claim's key or preimage is not that of this contract")
		}
	case SpendKey:
		if t.Theirs.PubKey() != c.SenderInternal || t.Ours.PubKey() != c.ReceiverInternal {
			return errors.New("the claim's keys are not the internal keys of this contract")
		}
	default:
		return fmt.Errorf("there is no spend %q", t.Way)
	}
	return nil
}

// Take builds and signs one transaction that takes all of them to one output and
// pays the fee. It can be mined once the last of its timeouts has expired, and
// signals replacement. Every signature commits to every output that is taken: if
// one of them is gone, the transaction is worth nothing.
func Take(all []Taking, to []byte, fee ln.Sat, random io.Reader) (Claimed, error) {
	tx := wire.NewMsgTx(2)
	known := make(map[wire.OutPoint]*wire.TxOut, len(all))
	var sum ln.Sat
	for _, t := range all {
		if err := t.check(); err != nil {
			return Claimed{}, err
		}
		var err error
		if sum, err = sum.Add(t.AmountSat); err != nil {
			return Claimed{}, err
		}
		value, err := t.AmountSat.Int64()
		if err != nil {
			return Claimed{}, err
		}
		prev := wirePoint(t.Outpoint)
		if known[prev] != nil {
			return Claimed{}, fmt.Errorf("the output %s is taken twice", t.Outpoint)
		}
		known[prev] = wire.NewTxOut(value, t.Contract.PkScript)
		in := wire.NewTxIn(&prev, nil, nil)
		// All signal replacement. Only the success leaf waits for a block: a key spend
		// that did, too, could not follow its output back into a mempool after a reorg.
		in.Sequence = wire.MaxTxInSequenceNum - 2
		switch t.Way {
		case SpendSuccess:
			in.Sequence = 1
		case SpendTimeout:
			tx.LockTime = max(tx.LockTime, t.Contract.ExpiryHeight)
		}
		tx.AddTxIn(in)
	}
	if len(all) == 0 || fee+dustSat > sum {
		return Claimed{}, ErrNotWorthIt
	}
	value, err := (sum - fee).Int64()
	if err != nil {
		return Claimed{}, err
	}
	tx.AddTxOut(wire.NewTxOut(value, to))
	fetcher := txscript.NewMultiPrevOutFetcher(known)
	hashes := txscript.NewTxSigHashes(tx, fetcher)
	for i, t := range all {
		if tx.TxIn[i].Witness, err = t.witness(tx, i, hashes, fetcher, random); err != nil {
			return Claimed{}, err
		}
	}
	var raw bytes.Buffer
	if err := tx.Serialize(&raw); err != nil {
		return Claimed{}, fmt.Errorf("serialise the transaction: %w", err)
	}
	return Claimed{Raw: raw.Bytes(), TxID: ln.TxID(tx.TxHash()), FeeSat: fee}, nil
}

func (t Taking) witness(tx *wire.MsgTx, index int, hashes *txscript.TxSigHashes, fetcher txscript.PrevOutputFetcher, random io.Reader) (wire.TxWitness, error) {
	c := t.Contract
	if t.Way == SpendKey {
		hash, err := txscript.CalcTaprootSignatureHash(hashes, txscript.SigHashDefault, tx, index, fetcher)
		if err != nil {
			return nil, fmt.Errorf("hash the claim: %w", err)
		}
		sig, err := c.signByKeys([32]byte(hash), t.Theirs, t.Ours, random)
		if err != nil {
			return nil, err
		}
		return wire.TxWitness{sig.Serialize()}, nil
	}
	script, other := c.successScript, c.timeoutScript
	if t.Way == SpendTimeout {
		script, other = other, script
	}
	hash, err := txscript.CalcTapscriptSignaturehash(hashes, txscript.SigHashDefault, tx, index, fetcher, txscript.NewBaseTapLeaf(script))
	if err != nil {
		return nil, fmt.Errorf("hash the spend: %w", err)
	}
	sig, err := schnorr.Sign(t.Ours.private, hash)
	if err != nil {
		return nil, fmt.Errorf("sign the spend: %w", err)
	}
	block, err := c.controlBlock(other)
	if err != nil {
		return nil, fmt.Errorf("the control block: %w", err)
	}
	witness := wire.TxWitness{sig.Serialize(), script, block}
	if t.Way == SpendSuccess {
		witness = append(wire.TxWitness{t.Preimage.Bytes()}, witness...)
	}
	return witness, nil
}

// signByKeys signs for the key path with both private keys.
func (c *Contract) signByKeys(hash [32]byte, sender, receiver Key, random io.Reader) (*schnorr.Signature, error) {
	keys := []*btcec.PrivateKey{sender.private, receiver.private}
	var nonces [2]*musig2.Nonces
	var err error
	for i, k := range keys {
		if nonces[i], err = musig2.GenNonces(musig2.WithPublicKey(k.PubKey()), musig2.WithNonceSecretKeyAux(k), musig2.WithCustomRand(random)); err != nil {
			return nil, fmt.Errorf("draw a nonce: %w", err)
		}
	}
	combined, err := musig2.AggregateNonces([][66]byte{nonces[0].PubNonce, nonces[1].PubNonce})
	if err != nil {
		return nil, fmt.Errorf("combine the nonces: %w", err)
	}
	var halves [2]*musig2.PartialSignature
	for i, k := range keys {
		halves[i], err = musig2.Sign(nonces[i].SecNonce, k, combined, c.keys, hash, musig2.WithSortedKeys(), musig2.WithTaprootSignTweak(c.root[:]))
		if err != nil {
			return nil, fmt.Errorf("sign the claim: %w", err)
		}
	}
	sig := musig2.CombineSigs(halves[0].R, halves[:], musig2.WithTaprootTweakedCombine(hash, c.keys, c.root[:], true))
	if !sig.Verify(hash[:], c.output) {
		return nil, errors.New("the halves of the claim's signature make none")
	}
	return sig, nil
}
