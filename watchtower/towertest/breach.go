// Package towertest makes what a tower's tests need of Lightning and of the
// chain: revoked commitments with valid blobs for them, and a chain that can be
// reorganised, cut off and made to refuse transactions.
//
// It promises that what it calls valid passes the script engine.
package towertest

import (
	"encoding/binary"
	"fmt"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/txsort"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/input"
	"github.com/lightningnetwork/lnd/lnwallet"
	"github.com/lightningnetwork/lnd/lnwire"
	"github.com/lightningnetwork/lnd/watchtower/blob"
	"github.com/lightningnetwork/lnd/watchtower/wtpolicy"
)

// Breach is a revoked commitment of an anchor channel, with the blob that its
// victim would have sent.
type Breach struct {
	Commit  *wire.MsgTx
	Hint    blob.BreachHint
	Blob    []byte
	Justice *wire.MsgTx
	// SweepScript is the victim's.
	SweepScript []byte
	toLocal     []byte
	cheater     *btcec.PrivateKey
	revocation  *btcec.PrivateKey
}

// Policy is what a stock client asks for on anchor channels.
func Policy() wtpolicy.Policy {
	return wtpolicy.Policy{
		TxPolicy:   wtpolicy.TxPolicy{BlobType: blob.TypeAltruistAnchorCommit, SweepFeeRate: wtpolicy.DefaultSweepFeeRate},
		MaxUpdates: wtpolicy.DefaultMaxUpdates,
	}
}

// The balances of a commitment, and the cheater's delay.
const (
	ToLocalSat  = 600_000
	ToRemoteSat = 300_000
	delay       = 144
)

func privateKey(n uint64, use byte) *btcec.PrivateKey {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], n+1)
	seed[31] = use + 1
	k, _ := btcec.PrivKeyFromBytes(seed[:])
	return k
}

// NewBreach makes the n-th breach under a policy for anchor channels.
func NewBreach(policy wtpolicy.Policy, n uint64) (*Breach, error) {
	revocation, cheater, victim := privateKey(n, 0), privateKey(n, 1), privateKey(n, 2)
	toLocal, err := input.CommitScriptToSelf(delay, cheater.PubKey(), revocation.PubKey())
	if err != nil {
		return nil, err
	}
	toRemote, err := input.CommitScriptToRemoteConfirmed(victim.PubKey())
	if err != nil {
		return nil, err
	}
	commit := wire.NewMsgTx(2)
	var funding chainhash.Hash
	binary.BigEndian.PutUint64(funding[:], n+1)
	commit.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: funding}})
	for _, out := range []struct {
		script []byte
		value  int64
	}{{toRemote, ToRemoteSat}, {toLocal, ToLocalSat}} {
		pk, err := input.WitnessScriptHash(out.script)
		if err != nil {
			return nil, err
		}
		commit.AddTxOut(&wire.TxOut{Value: out.value, PkScript: pk})
	}
	b := &Breach{Commit: commit, toLocal: toLocal, cheater: cheater, revocation: revocation}
	if b.SweepScript, err = input.WitnessPubKeyHash(victim.PubKey().SerializeCompressed()); err != nil {
		return nil, err
	}
	kit, err := blob.AnchorCommitment.NewJusticeKit(b.SweepScript, &lnwallet.BreachRetribution{
		RemoteDelay: delay,
		KeyRing:     &lnwallet.CommitmentKeyRing{RevocationKey: revocation.PubKey(), ToLocalKey: cheater.PubKey(), ToRemoteKey: victim.PubKey()},
	}, true)
	if err != nil {
		return nil, err
	}
	txid := commit.TxHash()
	var weight input.TxWeightEstimator
	weight.AddP2WKHOutput()
	local, err := blob.AnchorCommitment.ToLocalWitnessSize()
	if err != nil {
		return nil, err
	}
	remote, err := blob.AnchorCommitment.ToRemoteWitnessSize()
	if err != nil {
		return nil, err
	}
	weight.AddWitnessInput(local)
	weight.AddWitnessInput(remote)
	justice := wire.NewMsgTx(2)
	justice.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: txid, Index: 1}})
	justice.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: txid, Index: 0}, Sequence: 1})
	if justice.TxOut, err = policy.ComputeJusticeTxOuts(btcutil.Amount(ToLocalSat+ToRemoteSat), weight.Weight(), b.SweepScript, nil); err != nil {
		return nil, err
	}
	txsort.InPlaceSort(justice)
	for i, in := range justice.TxIn {
		out := commit.TxOut[in.PreviousOutPoint.Index]
		script, key, add := toLocal, revocation, kit.AddToLocalSig
		if in.PreviousOutPoint.Index == 0 {
			script, key, add = toRemote, victim, kit.AddToRemoteSig
		}
		sig, err := sign(justice, i, commit, out, script, key)
		if err != nil {
			return nil, err
		}
		wireSig, err := lnwire.NewSigFromSignature(sig)
		if err != nil {
			return nil, err
		}
		add(wireSig)
		full := append(sig.Serialize(), byte(txscript.SigHashAll))
		if in.PreviousOutPoint.Index == 0 {
			in.Witness = wire.TxWitness{full, script}
		} else {
			in.Witness = wire.TxWitness{full, {1}, script}
		}
	}
	b.Justice = justice
	b.Hint = blob.NewBreachHintFromHash(&txid)
	b.Blob, err = blob.Encrypt(kit, blob.NewBreachKeyFromHash(&txid))
	return b, err
}

func sign(tx *wire.MsgTx, i int, commit *wire.MsgTx, out *wire.TxOut, script []byte, key *btcec.PrivateKey) (*ecdsa.Signature, error) {
	fetch := txscript.NewMultiPrevOutFetcher(nil)
	for _, in := range tx.TxIn {
		fetch.AddPrevOut(in.PreviousOutPoint, commit.TxOut[in.PreviousOutPoint.Index])
	}
	digest, err := txscript.CalcWitnessSigHash(script, txscript.NewTxSigHashes(tx, fetch), txscript.SigHashAll, tx, i, out.Value)
	if err != nil {
		return nil, err
	}
	return ecdsa.Sign(key, digest), nil
}

// spend makes a transaction of one input, the cheater's output.
func (b *Breach) spend(key *btcec.PrivateKey, selector []byte, sequence uint32, pay byte) (*wire.MsgTx, error) {
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: b.Commit.TxHash(), Index: 1}, Sequence: sequence})
	tx.AddTxOut(&wire.TxOut{Value: ToLocalSat - 1000, PkScript: append([]byte{0, 20}, make([]byte, 19)...)})
	tx.TxOut[0].PkScript = append(tx.TxOut[0].PkScript, pay)
	sig, err := sign(tx, 0, b.Commit, b.Commit.TxOut[1], b.toLocal, key)
	if err != nil {
		return nil, err
	}
	tx.TxIn[0].Witness = wire.TxWitness{append(sig.Serialize(), byte(txscript.SigHashAll)), selector, b.toLocal}
	return tx, nil
}

// TakenByCheater is the cheater's own way out, after its delay.
func (b *Breach) TakenByCheater() (*wire.MsgTx, error) { return b.spend(b.cheater, nil, delay, 1) }

// TakenByVictim is what the victim's own node does.
func (b *Breach) TakenByVictim() (*wire.MsgTx, error) {
	return b.spend(b.revocation, []byte{1}, 0, 2)
}

// Check passes a transaction that spends the commitment through the script
// engine.
func (b *Breach) Check(tx *wire.MsgTx) error {
	fetch := txscript.NewMultiPrevOutFetcher(nil)
	for _, in := range tx.TxIn {
		fetch.AddPrevOut(in.PreviousOutPoint, b.Commit.TxOut[in.PreviousOutPoint.Index])
	}
	hashes := txscript.NewTxSigHashes(tx, fetch)
	for i, in := range tx.TxIn {
		out := b.Commit.TxOut[in.PreviousOutPoint.Index]
		vm, err := txscript.NewEngine(out.PkScript, tx, i, txscript.StandardVerifyFlags, nil, hashes, out.Value, fetch)
		if err == nil {
			err = vm.Execute()
		}
		if err != nil {
			return fmt.Errorf("input %d: %w", i, err)
		}
	}
	return nil
}

// FeeSat is what a justice transaction pays under a fee rate.
func (b *Breach) FeeSat() int64 {
	fee := int64(ToLocalSat + ToRemoteSat)
	for _, out := range b.Justice.TxOut {
		fee -= out.Value
	}
	return fee
}
