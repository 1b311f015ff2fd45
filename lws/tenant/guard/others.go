package guard

import (
	"github.com/btcsuite/btcd/btcec/v2"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// SharedKey is a request for the secret that a key of the node shares with a public key.
type SharedKey struct {
	Key ln.KeyLocator
	// Raw is the public key of the locator, where lnd adds it.
	Raw []byte
	// With is the other key.
	With []byte
}

// JudgeSharedKey decides about a shared secret, and says what it is for.
//
// With the node's key it is every connection and every onion: the other key is then a
// stranger's, made for once, and any is as good as any. So the host can always speak as
// the node to its peers. From the other families nothing of that kind is given.
func (k *Keyring) JudgeSharedKey(p Policy, r SharedKey) (string, error) {
	if r.Key.Family < 0 || r.Key.Index < 0 {
		return "", refuse(RuleKey, "a key that is none of lnd's")
	}
	own, err := k.Lnd(uint32(r.Key.Family), uint32(r.Key.Index))
	if err != nil {
		return "", err
	}
	with, err := btcec.ParsePubKey(r.With)
	if err != nil || len(r.With) != btcec.PubKeyBytesLenCompressed {
		return "", refuse(RuleForm, "a shared secret with what is no public key")
	}
	if key := pubKey(own); len(r.Raw) > 0 && string(r.Raw) != string(key[:]) {
		return "", refuse(RuleKey, "a key and a locator that do not belong together")
	}
	switch {
	case r.Key == ln.KeyLocator{Family: familyNode}:
		return "connection or onion", nil
	case r.Key.Family == familyRevocationRoot:
		multisig, err := k.Multisig(pubKey(with))
		if err != nil {
			return "", err
		}
		if multisig {
			return "a channel's revocations", nil
		}
		return "", refuse(RuleSharedKey, "the secret of a channel's revocations with a key that is no channel's")
	case r.Key.Family == familyTowerSession && p.Watchtower:
		return "watchtower session", nil
	}
	return "", refuse(RuleSharedKey, "a shared secret of the key %d/%d, which lnd does not need", r.Key.Family, r.Key.Index)
}

// MuSig2Session is a request to open a session of signing together.
type MuSig2Session struct {
	Key ln.KeyLocator
	// Nonce is the signer's secret nonce, if the host made it.
	Nonce []byte
}

// JudgeMuSig2 decides about a session of MuSig2, which never comes to a signature here.
//
// A partial signature is the secret nonce plus the key times what everybody knows. Who
// made the nonce has the key; and from a key below an account and the account's public
// key, which the host has, comes every key of the account. lnd makes the nonces of
// taproot channels at the host. So behind a guard there are none.
func (k *Keyring) JudgeMuSig2(r MuSig2Session) (string, error) {
	if len(r.Nonce) > 0 {
		return "", refuse(RuleMuSig2, "a MuSig2 session with a nonce of the host's: a signature in it would tell the private key")
	}
	if (r.Key != ln.KeyLocator{Family: familyNode}) {
		return "", refuse(RuleMuSig2, "a MuSig2 session with the key %d/%d", r.Key.Family, r.Key.Index)
	}
	return "session without a signature", nil
}

// JudgeKey decides about a public key that is asked for.
func (k *Keyring) JudgeKey(at ln.KeyLocator) (string, error) {
	if at.Family < 0 || at.Index < 0 {
		return "", refuse(RuleKey, "a key that is none of lnd's")
	}
	_, err := k.Lnd(uint32(at.Family), uint32(at.Index))
	return "public key", err
}
