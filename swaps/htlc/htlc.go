package htlc

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/btcsuite/btcd/btcec/v2/schnorr/musig2"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/txscript"
	"golang.org/x/crypto/ripemd160" //nolint:gosec,staticcheck // the contract's OP_HASH160

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Terms fix one contract. In a swap out each side uses one key for the leaves
// and for the key path; in a swap in the internal keys are others.
type Terms struct {
	Hash             ln.Hash   `json:"hash"`
	ExpiryHeight     uint32    `json:"expiry_height"`
	Sender           ln.PubKey `json:"sender"`
	Receiver         ln.PubKey `json:"receiver"`
	SenderInternal   ln.PubKey `json:"sender_internal"`
	ReceiverInternal ln.PubKey `json:"receiver_internal"`
}

// Contract is the output that the terms amount to.
type Contract struct {
	Terms
	// PkScript is the output script (P2TR).
	PkScript []byte

	keys          []*btcec.PublicKey
	internal      *btcec.PublicKey
	output        *btcec.PublicKey
	root          [32]byte
	successScript []byte
	timeoutScript []byte
}

// Check says whether the terms make a contract, for a tenth of what New costs: keys that
// are no points of the curve make none.
func (t Terms) Check() error {
	_, err := t.parse()
	return err
}

func (t Terms) parse() (parsed [4]*btcec.PublicKey, err error) {
	if t.ExpiryHeight == 0 || t.ExpiryHeight >= txscript.LockTimeThreshold {
		return parsed, fmt.Errorf("expiry %d is not a block height", t.ExpiryHeight)
	}
	for i, k := range []ln.PubKey{t.Sender, t.Receiver, t.SenderInternal, t.ReceiverInternal} {
		if parsed[i], err = btcec.ParsePubKey(k[:]); err != nil {
			return parsed, fmt.Errorf("key %s of the contract: %w", k.Short(), err)
		}
	}
	return parsed, nil
}

// New computes the contract of terms that stand up to Check.
func New(t Terms) (*Contract, error) {
	parsed, err := t.parse()
	if err != nil {
		return nil, err
	}
	c := &Contract{Terms: t, keys: []*btcec.PublicKey{parsed[2], parsed[3]}}
	if c.successScript, err = successScript(parsed[1], t.Hash); err != nil {
		return nil, err
	}
	if c.timeoutScript, err = timeoutScript(parsed[0], t.ExpiryHeight); err != nil {
		return nil, err
	}
	tree := txscript.AssembleTaprootScriptTree(txscript.NewBaseTapLeaf(c.successScript), txscript.NewBaseTapLeaf(c.timeoutScript))
	c.root = tree.RootNode.TapHash()
	aggregate, _, _, err := musig2.AggregateKeys(c.keys, true, musig2.WithTaprootKeyTweak(c.root[:]))
	if err != nil {
		return nil, fmt.Errorf("aggregate the contract's keys: %w", err)
	}
	c.internal, c.output = aggregate.PreTweakedKey, aggregate.FinalKey
	if c.PkScript, err = txscript.PayToTaprootScript(c.output); err != nil {
		return nil, fmt.Errorf("the contract's output: %w", err)
	}
	return c, nil
}

// Address is the output as people write it.
func (c *Contract) Address(params *chaincfg.Params) (string, error) {
	address, err := btcutil.NewAddressTaproot(schnorr.SerializePubKey(c.output), params)
	if err != nil {
		return "", fmt.Errorf("the contract's address: %w", err)
	}
	return address.EncodeAddress(), nil
}

// successScript: the receiver's signature and a 32-byte preimage, at least one
// block after the output's, so that nobody can pin it while unconfirmed.
func successScript(receiver *btcec.PublicKey, hash ln.Hash) ([]byte, error) {
	h := ripemd160.New() //nolint:gosec // what OP_HASH160 makes of the preimage
	_, _ = h.Write(hash[:])
	return txscript.NewScriptBuilder().
		AddData(schnorr.SerializePubKey(receiver)).AddOp(txscript.OP_CHECKSIGVERIFY).
		AddOp(txscript.OP_SIZE).AddInt64(32).AddOp(txscript.OP_EQUALVERIFY).
		AddOp(txscript.OP_HASH160).AddData(h.Sum(nil)).AddOp(txscript.OP_EQUALVERIFY).
		AddInt64(1).AddOp(txscript.OP_CHECKSEQUENCEVERIFY).Script()
}

// timeoutScript: the sender's signature, from the expiry height on.
func timeoutScript(sender *btcec.PublicKey, expiry uint32) ([]byte, error) {
	return txscript.NewScriptBuilder().
		AddData(schnorr.SerializePubKey(sender)).AddOp(txscript.OP_CHECKSIGVERIFY).
		AddInt64(int64(expiry)).AddOp(txscript.OP_CHECKLOCKTIMEVERIFY).Script()
}

// controlBlock proves one leaf; the tree has two, so the other is the proof.
func (c *Contract) controlBlock(other []byte) ([]byte, error) {
	proof := txscript.NewBaseTapLeaf(other).TapHash()
	block := txscript.ControlBlock{
		InternalKey: c.internal, OutputKeyYIsOdd: c.output.SerializeCompressed()[0] == 0x03,
		LeafVersion: txscript.BaseLeafVersion, InclusionProof: proof[:],
	}
	return block.ToBytes()
}

// Tweak is the point that lnd is asked to multiply with a private key of its
// seed (signrpc.DeriveSharedKey); the SHA-256 of the product is the private key
// of one swap. So each swap has a key of its own, nothing secret is stored, and
// the seed recovers it.
//
// Nobody knows the point's discrete logarithm: it is found by hashing. With a
// point h·G of a known h, as clients use for keys that they publish later,
// whoever learned the public key of lnd's locator could compute every private key.
func Tweak(purpose string, hash ln.Hash) ln.PubKey {
	seed := sha256.Sum256(append([]byte("sluice/swaps/"+purpose+"/"), hash[:]...))
	for {
		candidate := append([]byte{0x02}, seed[:]...)
		if _, err := btcec.ParsePubKey(candidate); err == nil {
			return ln.PubKey(candidate)
		}
		seed = sha256.Sum256(seed[:])
	}
}

// Key is the private key of one swap.
type Key struct{ private *btcec.PrivateKey }

// KeyFromShared takes what DeriveSharedKey gave.
func KeyFromShared(shared [32]byte) (Key, error) {
	var scalar btcec.ModNScalar
	if overflow := scalar.SetBytes(&shared); overflow != 0 || scalar.IsZero() {
		return Key{}, errors.New("lnd's shared key is not a private key")
	}
	return Key{private: btcec.PrivKeyFromScalar(&scalar)}, nil
}

// PubKey is the key's public half.
func (k Key) PubKey() ln.PubKey { return ln.PubKey(k.private.PubKey().SerializeCompressed()) }

// String and GoString keep the key out of logs.
func (k Key) String() string { return "private key of " + k.PubKey().Short() }

// GoString is String.
func (k Key) GoString() string { return k.String() }
