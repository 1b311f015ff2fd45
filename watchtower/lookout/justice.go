package lookout

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/input"
	"github.com/lightningnetwork/lnd/watchtower/blob"
	lndlookout "github.com/lightningnetwork/lnd/watchtower/lookout"

	"github.com/sluice-lsp/sluice/watchtower"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
)

// breachID names a breach by whose, of which session, and by which commitment.
func breachID(tenant int64, session [33]byte, commit chainhash.Hash) watchtower.BreachID {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(tenant))) //nolint:gosec // a name
	h.Write(session[:])
	h.Write(commit[:])
	return watchtower.BreachID(h.Sum(nil)[:16])
}

// judge makes the breach of a match: with its justice transaction, or unusable
// with the reason.
func judge(m tower.Match, commit *wire.MsgTx, at watchtower.Point, now time.Time) (watchtower.Breach, string) {
	txid := commit.TxHash()
	b := watchtower.Breach{
		ID: breachID(m.Tenant, m.ID, txid), Tenant: m.Tenant, Session: m.ID, Seq: m.SeqNum, CommitTx: txid, SeenAt: at,
		State: watchtower.Found, FoundAt: now, ChangedAt: now,
	}
	justice, toLocal, err := justiceOf(m, commit, txid)
	if err != nil {
		b.Unreadable(sayable(err), now)
		return b, fmt.Sprintf("The commitment %s is in block %d, and the blob that the client sent for it gives no valid transaction: %s.", txid, at.Height, b.Problem)
	}
	var raw bytes.Buffer
	if err := justice.Serialize(&raw); err != nil {
		b.Unreadable(sayable(err), now)
		return b, b.Problem
	}
	for _, in := range justice.TxIn {
		b.FeeSat += commit.TxOut[in.PreviousOutPoint.Index].Value
	}
	for _, out := range justice.TxOut {
		b.SweptSat += out.Value
		b.FeeSat -= out.Value
	}
	b.Justice, b.JusticeTx, b.ToLocal = raw.Bytes(), justice.TxHash(), toLocal
	return b, fmt.Sprintf("The revoked commitment %s is in block %d. The justice transaction %s gives %d sat to the victim and pays a fee of %d sat.",
		txid, at.Height, b.JusticeTx, b.SweptSat, b.FeeSat)
}

// justiceOf has lnd's code decrypt the blob and make the transaction, which it
// checks with the script engine. What a client sent must not end this process,
// so a panic of that code is the blob's fault.
func justiceOf(m tower.Match, commit *wire.MsgTx, txid chainhash.Hash) (justice *wire.MsgTx, toLocal uint32, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the blob makes lnd's code fail: %v", r)
		}
	}()
	kit, err := blob.Decrypt(blob.NewBreachKeyFromHash(&txid), m.EncryptedBlob, m.SessionInfo.Policy.BlobType)
	if err != nil {
		return nil, 0, fmt.Errorf("it does not decrypt: %w", err)
	}
	desc := lndlookout.JusticeDescriptor{BreachedCommitTx: commit, SessionInfo: m.SessionInfo, JusticeKit: kit}
	if justice, err = desc.CreateJusticeTxn(); err != nil {
		return nil, 0, err
	}
	script, _, err := kit.ToLocalOutputSpendInfo()
	if err != nil {
		return nil, 0, err
	}
	found, toLocal := input.FindScriptOutputIndex(commit, script.Script())
	if !found {
		return nil, 0, errors.New("the commitment has no such output")
	}
	return justice, toLocal, nil
}

// sayable is an error about what a client sent as a text that every database takes:
// PostgreSQL refuses some bytes, and a block that cannot be stored would hold up
// all that follow.
func sayable(err error) string {
	text := strings.ToValidUTF8(strings.ReplaceAll(err.Error(), "\x00", "?"), "?")
	if len(text) > longestProblem {
		text = strings.ToValidUTF8(text[:longestProblem], "") + " …"
	}
	return text
}

// longestProblem is enough for what lnd's code says.
const longestProblem = 500

// decode reads the justice transaction of a breach.
func decode(b *watchtower.Breach) (*wire.MsgTx, error) {
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(b.Justice)); err != nil {
		return nil, fmt.Errorf("the stored justice transaction of breach %x: %w", b.ID, err)
	}
	return &tx, nil
}

// pathOf tells how a transaction spent outputs of a breach. The cheater's output
// has two ways out: with the revocation key, which its victim alone has, or with
// the cheater's own after the delay. They differ in every element of the witness
// but the signature. The other output is the victim's alone.
func pathOf(b *watchtower.Breach, justice, spender *wire.MsgTx) watchtower.Path {
	if spender.TxHash() == b.JusticeTx {
		return watchtower.ByJustice
	}
	toLocal := wire.OutPoint{Hash: b.CommitTx, Index: b.ToLocal}
	theirs := witness(spender, toLocal)
	if theirs == nil {
		return watchtower.ByVictim
	}
	ours := witness(justice, toLocal)
	if len(ours) != len(theirs) || len(ours) < 2 {
		return watchtower.ByCheater
	}
	for i := 1; i < len(ours); i++ {
		if !bytes.Equal(ours[i], theirs[i]) {
			return watchtower.ByCheater
		}
	}
	return watchtower.ByVictim
}

func witness(tx *wire.MsgTx, op wire.OutPoint) wire.TxWitness {
	for _, in := range tx.TxIn {
		if in.PreviousOutPoint == op {
			return in.Witness
		}
	}
	return nil
}
