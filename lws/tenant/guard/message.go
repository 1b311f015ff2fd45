package guard

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/btcsuite/btcd/chaincfg/chainhash"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Message is a request to sign a message, as lnd's signer takes it.
type Message struct {
	Key    ln.KeyLocator
	Text   []byte
	Double bool
	// Compact is a signature that tells its key.
	Compact bool
	// Schnorr, and what comes with it, is nothing that lnd asks of a signer.
	Schnorr bool
}

const (
	maxMessage = 1 << 16
	// textPrefix is before everything that lncli signmessage signs.
	textPrefix = "Lightning Signed Message:"
)

// Texts that Sluice itself has the node sign, by their beginnings; the tenant's name
// follows. lws/tenant and lws/tenant/onboard have them.
const (
	proofText    = "sluice onboarding: this signer signs for the tenant "
	identityText = "sluice onboarding of "
)

// JudgeMessage decides about a message, and says what it is.
//
// The digest of a transaction is the hash of a message too. So nothing is signed that
// does not read from its first byte to its last as one of lnd's own messages: of those
// with keys that coins can be under, the announcement of a channel, which has the chain's
// hash where a transaction has hashes that nobody can choose.
func (k *Keyring) JudgeMessage(p Policy, m Message) (string, error) {
	node := m.Key == ln.KeyLocator{Family: familyNode}
	switch {
	case len(m.Text) == 0 || len(m.Text) > maxMessage:
		return "", refuse(RuleMessage, "a message of %d bytes", len(m.Text))
	case m.Schnorr:
		return "", refuse(RuleMessage, "a Schnorr signature, which lnd asks no signer for")
	case m.Key.Family == familyMultisig && m.Double && !m.Compact:
		return k.announcedWith(p, m)
	case !node:
		return "", refuse(RuleMessage, "a message with the key %d/%d, with which lnd signs none", m.Key.Family, m.Key.Index)
	case m.Compact && bytes.HasPrefix(m.Text, []byte(textPrefix)):
		return k.text(p, string(m.Text[len(textPrefix):]))
	case m.Compact && !m.Double:
		return invoice(p, m.Text)
	case !m.Double && !m.Compact:
		if rest, ok := strings.CutPrefix(string(m.Text), proofText+p.Tenant+" "); ok && len(rest) == 32 {
			return "onboarding proof", nil
		}
	case m.Double && !m.Compact:
		if k.nodeAnnouncement(m.Text) {
			return "node announcement", nil
		}
		if channelUpdate(p, m.Text) {
			return "channel update", nil
		}
		if a, ok := channelAnnouncement(p, m.Text); ok && (a.nodes[0] == k.node || a.nodes[1] == k.node) {
			return "channel announcement", nil
		}
	}
	return "", refuse(RuleMessage, "a message that is none of lnd's own")
}

// text is lncli signmessage.
func (k *Keyring) text(p Policy, text string) (string, error) {
	if p.SignTexts {
		return "text", nil
	}
	if rest, ok := strings.CutPrefix(text, identityText+p.Tenant+": "); ok && isHex(rest, 32) {
		return "onboarding identity", nil
	}
	if statement(p.Tenant, k.node, text) {
		return "onboarding statement", nil
	}
	return "", refuse(RuleText, "a text, with which the host could log in as the node (sign_texts)")
}

// statement is the word by which a tenant takes a node for its own at a gateway.
func statement(tenant string, node ln.PubKey, text string) bool {
	const head, middle, tail = "sluice tenant, version 1: the node ", " belongs to the tenant ", " of the gateway "
	rest, ok := strings.CutPrefix(text, head+node.String()+middle+tenant+tail)
	return ok && isHex(rest, 66)
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// reader reads a message from its first byte to its last.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return make([]byte, n)
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) u16() int { return int(binary.BigEndian.Uint16(r.take(2))) }

func (r *reader) key() (out ln.PubKey) {
	copy(out[:], r.take(len(out)))
	return out
}

func (r *reader) chain(p Policy) bool {
	var hash chainhash.Hash
	copy(hash[:], r.take(len(hash)))
	params, err := Params(p.Network)
	return err == nil && hash == *params.GenesisHash
}

func (r *reader) done() bool { return !r.bad && len(r.rest) == 0 }

// maxFeatures is more than a node announces: lnd's own bits go to 2023, others' further.
const maxFeatures = 4096

// nodeAnnouncement reads BOLT 7's, of this node.
func (k *Keyring) nodeAnnouncement(msg []byte) bool {
	r := &reader{rest: msg}
	n := r.u16()
	if n > maxFeatures {
		return false
	}
	r.take(n + 4)
	own := r.key() == k.node
	r.take(3 + 32)
	addresses := &reader{rest: r.take(r.u16())}
	for !addresses.bad && len(addresses.rest) > 0 {
		switch addresses.take(1)[0] {
		case 1:
			addresses.take(4 + 2)
		case 2:
			addresses.take(16 + 2)
		case 3:
			addresses.take(10 + 2)
		case 4:
			addresses.take(35 + 2)
		case 5:
			addresses.take(int(addresses.take(1)[0]) + 2)
		default:
			return false
		}
	}
	return own && !addresses.bad && r.done()
}

const (
	updateHasMost   = 1
	maxOpaqueUpdate = 32
)

// channelUpdate reads BOLT 7's, whoever's the channel is: aliases are not the guard's to
// know. What lnd adds is an inbound fee.
func channelUpdate(p Policy, msg []byte) bool {
	r := &reader{rest: msg}
	if !r.chain(p) {
		return false
	}
	r.take(8 + 4)
	flags := r.take(2)
	r.take(2 + 8 + 4 + 4)
	if flags[0]&updateHasMost != 0 {
		r.take(8)
	}
	return !r.bad && len(r.rest) <= maxOpaqueUpdate
}

type announcement struct{ nodes, bitcoins [2]ln.PubKey }

// channelAnnouncement reads BOLT 7's, without features, as lnd writes it: a length of
// theirs that a host chose could move the chain's hash to where a transaction has bytes
// of the host's.
func channelAnnouncement(p Policy, msg []byte) (a announcement, ok bool) {
	r := &reader{rest: msg}
	if r.u16() != 0 || !r.chain(p) {
		return a, false
	}
	r.take(8)
	a.nodes = [2]ln.PubKey{r.key(), r.key()}
	a.bitcoins = [2]ln.PubKey{r.key(), r.key()}
	return a, r.done()
}

// announcedWith is the signature of a funding key under its channel's announcement.
func (k *Keyring) announcedWith(p Policy, m Message) (string, error) {
	a, ok := channelAnnouncement(p, m.Text)
	if !ok || m.Key.Index < 0 {
		return "", refuse(RuleMessage, "a message with a channel's key that announces no channel")
	}
	key, err := k.Lnd(familyMultisig, uint32(m.Key.Index))
	if err != nil {
		return "", err
	}
	for side := range a.nodes {
		if a.nodes[side] == k.node && a.bitcoins[side] == pubKey(key) {
			return "channel announcement", nil
		}
	}
	return "", refuse(RuleMessage, "the announcement of a channel that is not the node's")
}

// invoice reads what BOLT 11 signs: the prefix as text, then the data in groups of five
// bits, of which lnd pads the last byte.
func invoice(p Policy, msg []byte) (string, error) {
	wrong := refuse(RuleMessage, "a message that is none of lnd's own")
	params, err := Params(p.Network)
	if err != nil {
		return "", err
	}
	prefix := "ln" + params.Bech32HRPSegwit
	if p.Network == "signet" {
		prefix = "lntbs"
	}
	rest, ok := bytes.CutPrefix(msg, []byte(prefix))
	if !ok {
		return "", wrong
	}
	// Where the amount ends and the data begins is not said. One way to read it is enough.
	for n := 0; ; n++ {
		if invoiceData(rest[n:]) {
			return "invoice", nil
		}
		if n >= len(rest) || n > 24 || !amountByte(rest[n]) {
			return "", wrong
		}
	}
}

func amountByte(b byte) bool {
	return (b >= '0' && b <= '9') || b == 'm' || b == 'u' || b == 'n' || b == 'p'
}

// invoiceData reads a time and tagged fields.
func invoiceData(data []byte) bool {
	bits := 8 * len(data)
	at := 0
	read := func(n int) int {
		v := 0
		for range n {
			v <<= 1
			if at < bits && data[at/8]>>(7-at%8)&1 == 1 {
				v |= 1
			}
			at++
		}
		return v
	}
	if read(35); at > bits {
		return false
	}
	for bits-at >= 15 {
		read(5)
		if at += 5 * read(10); at > bits {
			return false
		}
	}
	// What is left is padding.
	for at < bits {
		if bits-at >= 8 || read(1) != 0 {
			return false
		}
	}
	return true
}
