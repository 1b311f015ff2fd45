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

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Weights of claims with one input and one P2TR output, at their largest.
const (
	ClaimWU    = baseWU + 1 + (1 + 32) + (1 + 64) + (1 + 63) + (1 + 65)
	KeyClaimWU = baseWU + 1 + (1 + 64)
)

// Claimed is a signed claim.
type Claimed struct {
	Raw    []byte
	TxID   ln.TxID
	FeeSat ln.Sat
}

// claimTx is the receiver's spend, unsigned. The sequence satisfies the success
// leaf and signals replacement.
func (c *Contract) claimTx(spends ln.Outpoint, amount ln.Sat, to []byte, rate ln.FeeRateSatPerKW, weightWU uint64) (*wire.MsgTx, txscript.PrevOutputFetcher, ln.Sat, error) {
	fee, err := rate.Fee(weightWU)
	if err != nil {
		return nil, nil, 0, err
	}
	if fee+dustSat > amount {
		return nil, nil, 0, ErrNotWorthIt
	}
	value, err := amount.Int64()
	if err != nil {
		return nil, nil, 0, err
	}
	tx := wire.NewMsgTx(2)
	prev := wirePoint(spends)
	in := wire.NewTxIn(&prev, nil, nil)
	in.Sequence = 1
	tx.AddTxIn(in)
	tx.AddTxOut(wire.NewTxOut(value-int64(fee), to)) //nolint:gosec // less than the amount
	return tx, txscript.NewCannedPrevOutputFetcher(c.PkScript, value), fee, nil
}

func claimed(tx *wire.MsgTx, fee ln.Sat) (Claimed, error) {
	var raw bytes.Buffer
	if err := tx.Serialize(&raw); err != nil {
		return Claimed{}, fmt.Errorf("serialise the claim: %w", err)
	}
	return Claimed{Raw: raw.Bytes(), TxID: ln.TxID(tx.TxHash()), FeeSat: fee}, nil
}

// Claim spends by the success leaf, which needs the receiver alone.
func (c *Contract) Claim(key Key, preimage ln.Preimage, spends ln.Outpoint, amount ln.Sat, to []byte, rate ln.FeeRateSatPerKW) (Claimed, error) {
	if key.PubKey() != c.Receiver || preimage.Hash() != c.Hash {
		return Claimed{}, errors.New("the claim's key or preimage is not that of this contract")
	}
	tx, fetcher, fee, err := c.claimTx(spends, amount, to, rate, ClaimWU)
	if err != nil {
		return Claimed{}, err
	}
	hash, err := txscript.CalcTapscriptSignaturehash(txscript.NewTxSigHashes(tx, fetcher), txscript.SigHashDefault, tx, 0,
		fetcher, txscript.NewBaseTapLeaf(c.successScript))
	if err != nil {
		return Claimed{}, fmt.Errorf("hash the claim: %w", err)
	}
	sig, err := schnorr.Sign(key.private, hash)
	if err != nil {
		return Claimed{}, fmt.Errorf("sign the claim: %w", err)
	}
	block, err := c.controlBlock(c.timeoutScript)
	if err != nil {
		return Claimed{}, fmt.Errorf("the claim's control block: %w", err)
	}
	tx.TxIn[0].Witness = wire.TxWitness{preimage.Bytes(), sig.Serialize(), c.successScript, block}
	return claimed(tx, fee)
}

// ParseKey reads a private key that the other side gave away, and checks whose
// it is.
func ParseKey(raw [32]byte, of ln.PubKey) (Key, error) {
	key, err := KeyFromShared(raw)
	if err != nil || key.PubKey() != of {
		return Key{}, errkind.New(errkind.Invalid, "this is not the private key of the swap's internal key")
	}
	return key, nil
}

// ClaimByKey spends by the key path, with both private keys: the smallest and
// most private spend.
func (c *Contract) ClaimByKey(sender, receiver Key, spends ln.Outpoint, amount ln.Sat, to []byte, rate ln.FeeRateSatPerKW, random io.Reader) (Claimed, error) {
	if sender.PubKey() != c.SenderInternal || receiver.PubKey() != c.ReceiverInternal {
		return Claimed{}, errors.New("the claim's keys are not the internal keys of this contract")
	}
	tx, fetcher, fee, err := c.claimTx(spends, amount, to, rate, KeyClaimWU)
	if err != nil {
		return Claimed{}, err
	}
	raw, err := txscript.CalcTaprootSignatureHash(txscript.NewTxSigHashes(tx, fetcher), txscript.SigHashDefault, tx, 0, fetcher)
	if err != nil {
		return Claimed{}, fmt.Errorf("hash the claim: %w", err)
	}
	hash := [32]byte(raw)
	keys := []*btcec.PrivateKey{sender.private, receiver.private}
	var nonces [2]*musig2.Nonces
	for i, k := range keys {
		if nonces[i], err = musig2.GenNonces(musig2.WithPublicKey(k.PubKey()), musig2.WithNonceSecretKeyAux(k), musig2.WithCustomRand(random)); err != nil {
			return Claimed{}, fmt.Errorf("draw a nonce: %w", err)
		}
	}
	combined, err := musig2.AggregateNonces([][66]byte{nonces[0].PubNonce, nonces[1].PubNonce})
	if err != nil {
		return Claimed{}, fmt.Errorf("combine the nonces: %w", err)
	}
	var halves [2]*musig2.PartialSignature
	for i, k := range keys {
		halves[i], err = musig2.Sign(nonces[i].SecNonce, k, combined, c.keys, hash, musig2.WithSortedKeys(), musig2.WithTaprootSignTweak(c.root[:]))
		if err != nil {
			return Claimed{}, fmt.Errorf("sign the claim: %w", err)
		}
	}
	sig := musig2.CombineSigs(halves[0].R, halves[:], musig2.WithTaprootTweakedCombine(hash, c.keys, c.root[:], true))
	if !sig.Verify(hash[:], c.output) {
		return Claimed{}, errors.New("the halves of the claim's signature make none")
	}
	tx.TxIn[0].Witness = wire.TxWitness{sig.Serialize()}
	return claimed(tx, fee)
}
