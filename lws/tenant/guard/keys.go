package guard

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/hdkeychain"
	"github.com/btcsuite/btcd/txscript"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Account is one account of the signer's wallet, by its public key.
type Account struct {
	Path string `json:"path"`
	Key  string `json:"xpub"`
}

// The purposes of lnd's accounts.
const (
	purposeNested  = 49
	purposeWitness = 84
	purposeTaproot = 86
	purposeLnd     = 1017
)

// lnd's families of keys that the guard knows by name.
const (
	familyMultisig       = 0
	familyHtlc           = 2
	familyRevocationRoot = 5
	familyNode           = 6
	familyTowerSession   = 8
)

// DefaultLookahead is how many keys past the last one that was seen in use are known, as
// many as lnd looks for in a recovery. Of a node that made more addresses than this
// without a transaction of its own to one of them, the next would be taken for a
// stranger's.
const DefaultLookahead = 2500

// account is a public account and how far its two branches were looked at.
type account struct {
	purpose uint32
	branch  [2]*hdkeychain.ExtendedKey
	// upTo is the first index that is not known.
	upTo [2]uint32
}

// place is where a key of the wallet is.
type place struct {
	account *account
	branch  uint32
	index   uint32
}

// Keyring knows the tenant's keys and scripts by the accounts' public keys. It learns
// further ones as earlier ones come into use; so it is for one goroutine at a time.
type Keyring struct {
	lookahead uint32
	coin      uint32
	wallet    map[uint32]*account
	// lnd are the bases m/1017'/coin'/family'/0.
	lnd map[uint32]*hdkeychain.ExtendedKey
	// scripts are those of the wallet's own accounts.
	scripts map[string]place
	// multisig are lnd's keys for funding outputs.
	multisig     map[ln.PubKey]uint32
	multisigUpTo uint32
	node         ln.PubKey
}

// NewKeyring reads the accounts.
func NewKeyring(network string, accounts []Account, lookahead uint32) (*Keyring, error) {
	if _, err := Params(network); err != nil {
		return nil, err
	}
	if lookahead == 0 || lookahead > maxLookahead {
		return nil, fmt.Errorf("a keyring looks 1 to %d keys ahead, not %d", maxLookahead, lookahead)
	}
	k := &Keyring{
		lookahead: lookahead, coin: 1, wallet: map[uint32]*account{}, lnd: map[uint32]*hdkeychain.ExtendedKey{},
		scripts: map[string]place{}, multisig: map[ln.PubKey]uint32{},
	}
	if network == "mainnet" {
		k.coin = 0
	}
	for _, a := range accounts {
		if err := k.read(a); err != nil {
			return nil, err
		}
	}
	for _, purpose := range []uint32{purposeNested, purposeWitness, purposeTaproot} {
		a := k.wallet[purpose]
		if a == nil {
			return nil, fmt.Errorf("the account m/%d'/0'/0' is missing", purpose)
		}
		for branch := range uint32(2) {
			if err := k.extend(a, branch, lookahead); err != nil {
				return nil, err
			}
		}
	}
	node, err := k.Lnd(familyNode, 0)
	if err != nil {
		return nil, err
	}
	k.node = pubKey(node)
	return k, k.extendMultisig(lookahead)
}

// Node is the node's key.
func (k *Keyring) Node() ln.PubKey { return k.node }

func (k *Keyring) read(a Account) error {
	steps := strings.Split(strings.TrimPrefix(a.Path, "m/"), "/")
	if len(steps) != 3 {
		return fmt.Errorf("%q is no account's path", a.Path)
	}
	var path [3]uint32
	for i, s := range steps {
		n, err := strconv.ParseUint(strings.TrimSuffix(s, "'"), 10, 31)
		if err != nil || !strings.HasSuffix(s, "'") {
			return fmt.Errorf("%q is no account's path", a.Path)
		}
		path[i] = uint32(n)
	}
	key, err := hdkeychain.NewKeyFromString(a.Key)
	if err != nil || key.IsPrivate() || key.Depth() != 3 {
		return fmt.Errorf("the account %s has no public key of an account", a.Path)
	}
	switch {
	case path[0] == purposeLnd && path[1] == k.coin:
		if k.lnd[path[2]], err = key.Derive(0); err != nil {
			return fmt.Errorf("the account %s: %w", a.Path, err)
		}
	case path[1] == 0 && path[2] == 0 && (path[0] == purposeNested || path[0] == purposeWitness || path[0] == purposeTaproot):
		out := &account{purpose: path[0]}
		for branch := range uint32(2) {
			if out.branch[branch], err = key.Derive(branch); err != nil {
				return fmt.Errorf("the account %s: %w", a.Path, err)
			}
		}
		k.wallet[path[0]] = out
	default:
		return fmt.Errorf("the account %s is none of a node's on this network", a.Path)
	}
	return nil
}

// extend makes the scripts up to an index known.
func (k *Keyring) extend(a *account, branch, upTo uint32) error {
	for ; a.upTo[branch] < upTo; a.upTo[branch]++ {
		key, err := child(a.branch[branch], a.upTo[branch])
		if err != nil {
			return err
		}
		scripts, err := scriptsOf(a.purpose, key)
		if err != nil {
			return err
		}
		for _, s := range scripts {
			k.scripts[string(s)] = place{account: a, branch: branch, index: a.upTo[branch]}
		}
	}
	return nil
}

func (k *Keyring) extendMultisig(upTo uint32) error {
	for ; k.multisigUpTo < upTo; k.multisigUpTo++ {
		key, err := k.Lnd(familyMultisig, k.multisigUpTo)
		if err != nil {
			return err
		}
		k.multisig[pubKey(key)] = k.multisigUpTo
	}
	return nil
}

// Own says whether a script is the wallet's, and knows further ones from then on.
func (k *Keyring) Own(script []byte) (bool, error) {
	at, ok := k.scripts[string(script)]
	if !ok {
		return false, nil
	}
	return true, k.extend(at.account, at.branch, at.index+1+k.lookahead)
}

// Multisig says whether a key is lnd's for a funding output.
func (k *Keyring) Multisig(key ln.PubKey) (bool, error) {
	at, ok := k.multisig[key]
	if !ok {
		return false, nil
	}
	return true, k.extendMultisig(at + 1 + k.lookahead)
}

// Lnd is the key m/1017'/coin'/family'/0/index.
func (k *Keyring) Lnd(family, index uint32) (*btcec.PublicKey, error) {
	base := k.lnd[family]
	if base == nil {
		return nil, refuse(RuleKey, "there is no family of keys %d", family)
	}
	return child(base, index)
}

// maxIndex keeps a host from naming keys that no node comes to.
const maxIndex = 1 << 24

// walletKey is a key of one of the wallet's accounts. Its neighbours do not become known
// by it: a host that names an index proves nothing.
func (k *Keyring) walletKey(purpose, branch, index uint32) (*btcec.PublicKey, error) {
	a := k.wallet[purpose]
	if a == nil || branch > 1 || index >= maxIndex {
		return nil, refuse(RuleKey, "no wallet of lnd's has the key m/%d'/0'/0'/%d/%d", purpose, branch, index)
	}
	return child(a.branch[branch], index)
}

func child(base *hdkeychain.ExtendedKey, index uint32) (*btcec.PublicKey, error) {
	if index >= hdkeychain.HardenedKeyStart {
		return nil, refuse(RuleKey, "the index %d is none of a public key", index)
	}
	key, err := base.Derive(index)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	return key.ECPubKey()
}

func pubKey(key *btcec.PublicKey) (out ln.PubKey) {
	copy(out[:], key.SerializeCompressed())
	return out
}

// scriptsOf are the output scripts that lnd's wallet makes of an account's key.
func scriptsOf(purpose uint32, key *btcec.PublicKey) ([][]byte, error) {
	witness := append([]byte{txscript.OP_0, txscript.OP_DATA_20}, btcutil.Hash160(key.SerializeCompressed())...)
	switch purpose {
	case purposeWitness:
		return [][]byte{witness}, nil
	case purposeTaproot:
		script, err := txscript.PayToTaprootScript(txscript.ComputeTaprootKeyNoScript(key))
		return [][]byte{script}, err
	}
	// lnd's change of this account is plain witness, its addresses are nested.
	nested := append([]byte{txscript.OP_HASH160, txscript.OP_DATA_20}, btcutil.Hash160(witness)...)
	return [][]byte{append(nested, txscript.OP_EQUAL), witness}, nil
}
