package onboard

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/hdkeychain"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/psbts"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
)

// proofText opens what the signer signs, so that it can mean nothing elsewhere.
const proofText = "sluice onboarding: this signer signs for the tenant "

// ProofMessage is what a signer signs to show that it does; nonce has 32 bytes.
func ProofMessage(tenant string, nonce []byte) []byte {
	return append([]byte(proofText+tenant+" "), nonce...)
}

// wrongSeed is what a tenant does about a signature by another key.
const wrongSeed = "open the wallet of the right seed at the signer, then " + again

// proof: the signer signs, each way that a node needs, and the signatures are valid
// under the bundle's keys.
func proof(ctx context.Context, in Input, s Signer) (string, error) {
	nonce := make([]byte, 32)
	if _, err := io.ReadFull(in.Random, nonce); err != nil {
		return "", fmt.Errorf("draw a nonce: %w", err)
	}
	own, err := childKey(in.Bundle, identityKey())
	if err != nil {
		return "", err
	}
	msg := ProofMessage(in.Bundle.Tenant, nonce)
	sig, err := s.SignMessage(ctx, identityKey(), msg)
	if err != nil {
		return "", err
	}
	if !validMessage(own, msg, sig) {
		return "", fail(wrongSeed, "the signer signed a message with another key than the node's %s", own)
	}
	packet, coins, err := dummySpend(in.Bundle, nonce)
	if err != nil {
		return "", err
	}
	var raw bytes.Buffer
	if err := packet.Serialize(&raw); err != nil {
		return "", err
	}
	signed, err := s.SignPsbt(ctx, raw.Bytes())
	if err != nil {
		return "", err
	}
	if err := validSpend(signed, packet.UnsignedTx, coins); err != nil {
		return "", fail(wrongSeed, "the signer did not sign a spend of the wallet's coins: %v", err)
	}
	other, err := onCurve(nonce)
	if err != nil {
		return "", err
	}
	if err := s.MuSig2(ctx, identityKey(), own, other); err != nil {
		return "", fail("use lnd v0.21.2 at the signer, then "+again, "the signer opens no MuSig2 session, which taproot channels need: %v", err)
	}
	return "a message, a P2WKH and a P2TR spend and a MuSig2 session are signed with the bundle's keys", nil
}

// SignedBy says whether a signer signed a message of the onboarding with a key. lnd never
// asks: a signer whose wallet was made anew answers every call.
func SignedBy(key ln.PubKey, msg, sig []byte) bool { return validMessage(key, msg, sig) }

// validMessage checks a DER signature over the SHA-256 of a message.
func validMessage(key ln.PubKey, msg, raw []byte) bool {
	sig, err := ecdsa.ParseDERSignature(raw)
	if err != nil {
		return false
	}
	public, err := btcec.ParsePubKey(key[:])
	if err != nil {
		return false
	}
	digest := sha256.Sum256(msg)
	return sig.Verify(digest[:], public)
}

// coin is an output that does not exist.
type coin struct {
	key ln.PubKey
	out *wire.TxOut
}

// dummySpend is a transaction of two coins that do not exist, by random outpoints, to an
// output that nobody can spend: signed or not, it is worth nothing.
func dummySpend(b bundle.Bundle, nonce []byte) (*psbt.Packet, []coin, error) {
	tx := wire.NewMsgTx(2)
	var coins []coin
	for i, purpose := range []uint32{purposeWitness, purposeTaproot} {
		key, err := walletKey(b, purpose)
		if err != nil {
			return nil, nil, err
		}
		script, err := scriptOf(purpose, key)
		if err != nil {
			return nil, nil, err
		}
		id := chainhash.Hash(sha256.Sum256(append([]byte{byte(i)}, nonce...)))
		tx.AddTxIn(wire.NewTxIn(wire.NewOutPoint(&id, 0), nil, nil))
		coins = append(coins, coin{key: key, out: wire.NewTxOut(1000, script)})
	}
	nothing, err := txscript.NullDataScript([]byte("sluice onboarding proof"))
	if err != nil {
		return nil, nil, err
	}
	tx.AddTxOut(wire.NewTxOut(0, nothing))
	packet, err := psbt.NewFromUnsignedTx(tx)
	if err != nil {
		return nil, nil, err
	}
	for i, purpose := range []uint32{purposeWitness, purposeTaproot} {
		in := &packet.Inputs[i]
		path := []uint32{purpose + hdkeychain.HardenedKeyStart, hdkeychain.HardenedKeyStart, hdkeychain.HardenedKeyStart, 0, 0}
		in.WitnessUtxo, in.SighashType = coins[i].out, txscript.SigHashAll
		in.Bip32Derivation = []*psbt.Bip32Derivation{{PubKey: coins[i].key[:], Bip32Path: path}}
		if purpose == purposeTaproot {
			in.SighashType = txscript.SigHashDefault
			in.TaprootInternalKey = coins[i].key[1:]
			in.TaprootBip32Derivation = []*psbt.TaprootBip32Derivation{{XOnlyPubKey: coins[i].key[1:], Bip32Path: path}}
		}
	}
	return packet, coins, nil
}

// ProbeSpend is a spend of coins that do not exist, always the same one of a tenant's:
// signed again and again to see how long that takes, it counts once at a guard.
func ProbeSpend(b bundle.Bundle) ([]byte, error) {
	nonce := sha256.Sum256([]byte("sluice probe of the signer of " + b.Tenant))
	packet, _, err := dummySpend(b, nonce[:])
	if err != nil {
		return nil, err
	}
	var raw bytes.Buffer
	err = packet.Serialize(&raw)
	return raw.Bytes(), err
}

// walletKey is the first key of an account of the wallet's own.
func walletKey(b bundle.Bundle, purpose uint32) (ln.PubKey, error) {
	for _, a := range b.Accounts {
		if p, _, n, err := a.Numbers(); err == nil && p == purpose && n == 0 {
			return derive(a.Key, 0, 0)
		}
	}
	return ln.PubKey{}, fmt.Errorf("there is no account of purpose %d", purpose)
}

func scriptOf(purpose uint32, key ln.PubKey) ([]byte, error) {
	if purpose == purposeWitness {
		return append([]byte{txscript.OP_0, txscript.OP_DATA_20}, btcutil.Hash160(key[:])...), nil
	}
	internal, err := btcec.ParsePubKey(key[:])
	if err != nil {
		return nil, err
	}
	return txscript.PayToTaprootScript(txscript.ComputeTaprootKeyNoScript(internal))
}

// validSpend checks both signatures of the very transaction that was asked for.
func validSpend(signed []byte, tx *wire.MsgTx, coins []coin) error {
	packet, err := psbts.Parse(signed)
	if err != nil {
		return fmt.Errorf("its answer is no PSBT: %w", err)
	}
	if packet.UnsignedTx.TxHash() != tx.TxHash() {
		return fmt.Errorf("its answer is another transaction")
	}
	outs := txscript.NewMultiPrevOutFetcher(nil)
	for i, c := range coins {
		outs.AddPrevOut(tx.TxIn[i].PreviousOutPoint, c.out)
	}
	hashes := txscript.NewTxSigHashes(tx, outs)
	if len(packet.Inputs[0].PartialSigs) != 1 {
		return fmt.Errorf("the P2WKH coin is not signed")
	}
	raw := packet.Inputs[0].PartialSigs[0].Signature
	if len(raw) == 0 {
		return fmt.Errorf("the P2WKH coin is not signed")
	}
	sig, err := ecdsa.ParseDERSignature(raw[:len(raw)-1])
	if err != nil {
		return fmt.Errorf("the P2WKH signature cannot be read: %w", err)
	}
	public, err := btcec.ParsePubKey(coins[0].key[:])
	if err != nil {
		return err
	}
	digest, err := txscript.CalcWitnessSigHash(coins[0].out.PkScript, hashes, txscript.SigHashAll, tx, 0, coins[0].out.Value)
	if err != nil {
		return err
	}
	if txscript.SigHashType(raw[len(raw)-1]) != txscript.SigHashAll || !sig.Verify(digest, public) {
		return fmt.Errorf("the P2WKH coin is signed with another key")
	}
	digest, err = txscript.CalcTaprootSignatureHash(hashes, txscript.SigHashDefault, tx, 1, outs)
	if err != nil {
		return err
	}
	taproot, err := schnorr.ParseSignature(packet.Inputs[1].TaprootKeySpendSig)
	if err != nil {
		return fmt.Errorf("the P2TR coin is not signed: %w", err)
	}
	key, err := schnorr.ParsePubKey(coins[1].out.PkScript[2:])
	if err != nil {
		return err
	}
	if !taproot.Verify(digest, key) {
		return fmt.Errorf("the P2TR coin is signed with another key")
	}
	return nil
}

// onCurve is some public key that nobody has the private key of.
func onCurve(nonce []byte) (ln.PubKey, error) {
	for i := range byte(255) {
		x := sha256.Sum256(append([]byte{i}, nonce...))
		if _, err := schnorr.ParsePubKey(x[:]); err == nil {
			return ln.PubKeyFromBytes(append([]byte{2}, x[:]...))
		}
	}
	return ln.PubKey{}, fmt.Errorf("no key was found")
}
