package guard_test

import (
	"bytes"
	"encoding/binary"
	"image/color"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr/musig2"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnwire"
	"github.com/lightningnetwork/lnd/zpay32"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/guard"
)

func nodeKey() ln.KeyLocator { return ln.KeyLocator{Family: 6} }

func bytesOf(key *btcec.PublicKey) (out [33]byte) {
	copy(out[:], key.SerializeCompressed())
	return out
}

// announcements are lnd's own words, by lnd's own code.
type announcements struct {
	node, update, channel, foreign []byte
}

func announce(t testing.TB, w wallet) announcements {
	t.Helper()
	own, other := bytesOf(w.key(family(6, 0)...)), bytesOf(newWallet(t, 8).key(family(6, 0)...))
	alias, err := lnwire.NewNodeAlias("acme")
	require.NoError(t, err)
	var out announcements
	must := func(raw []byte, err error) []byte {
		require.NoError(t, err)
		return raw
	}
	out.node = must((&lnwire.NodeAnnouncement1{
		Features: lnwire.NewRawFeatureVector(lnwire.AnchorsZeroFeeHtlcTxOptional, lnwire.ScidAliasOptional, lnwire.ScriptEnforcedLeaseOptional), Timestamp: 1, NodeID: own, RGBColor: color.RGBA{1, 2, 3, 0}, Alias: alias,
		Addresses: []net.Addr{&net.TCPAddr{IP: net.IP{10, 0, 0, 1}, Port: 9735}, &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 9735}},
	}).DataToSign())
	out.update = must((&lnwire.ChannelUpdate1{
		ChainHash: *chaincfg.RegressionNetParams.GenesisHash, ShortChannelID: lnwire.NewShortChanIDFromInt(7), Timestamp: 1,
		MessageFlags: lnwire.ChanUpdateRequiredMaxHtlc, TimeLockDelta: 80, HtlcMinimumMsat: 1, BaseFee: 1, FeeRate: 2, HtlcMaximumMsat: 5,
	}).DataToSign())
	a := lnwire.ChannelAnnouncement1{
		Features: lnwire.NewRawFeatureVector(), ChainHash: *chaincfg.RegressionNetParams.GenesisHash, ShortChannelID: lnwire.NewShortChanIDFromInt(7),
		NodeID1: other, NodeID2: own, BitcoinKey1: bytesOf(newWallet(t, 8).key(family(0, 0)...)), BitcoinKey2: bytesOf(w.key(family(0, 3)...)),
	}
	out.channel = must(a.DataToSign())
	a.NodeID2 = other
	out.foreign = must(a.DataToSign())
	return out
}

// signedInvoice is what an invoice's signature covers, as lnd's own code asks for it.
func signedInvoice(t testing.TB, net *chaincfg.Params, options ...func(*zpay32.Invoice)) []byte {
	t.Helper()
	var secret [32]byte
	secret[0] = 1
	options = append(options, zpay32.Description("coffee"), zpay32.PaymentAddr(secret), zpay32.Features(lnwire.NewFeatureVector(lnwire.NewRawFeatureVector(lnwire.TLVOnionPayloadRequired, lnwire.PaymentAddrRequired), lnwire.Features)))
	invoice, err := zpay32.NewInvoice(net, [32]byte{9}, time.Unix(1_700_000_000, 0), options...)
	require.NoError(t, err)
	var msg []byte
	_, err = invoice.Encode(zpay32.MessageSigner{SignCompact: func(m []byte) ([]byte, error) {
		msg = bytes.Clone(m)
		return append([]byte{31}, make([]byte, 64)...), nil
	}})
	if err != nil {
		require.NotEmpty(t, msg, "%v", err)
	}
	return msg
}

// TestMessages: lnd's own pass, each with its key and form, and nothing else does.
func TestMessages(t *testing.T) {
	w := newWallet(t, 7)
	k := w.keyring()
	own := announce(t, w)
	funding := ln.KeyLocator{Family: 0, Index: 3}
	gateway := ln.PubKey(bytesOf(newWallet(t, 8).key(family(6, 0)...)))
	text := func(s string) []byte { return []byte("Lightning Signed Message:" + s) }
	cut := func(b []byte) []byte { return b[:len(b)-1] }
	long := func(b []byte) []byte { return append(bytes.Clone(b), 0) }
	for _, row := range []struct {
		name string
		m    guard.Message
		want guard.Rule
	}{
		{"node announcement", guard.Message{Key: nodeKey(), Text: own.node, Double: true}, ""},
		{"channel update", guard.Message{Key: nodeKey(), Text: own.update, Double: true}, ""},
		{"channel announcement, by the node", guard.Message{Key: nodeKey(), Text: own.channel, Double: true}, ""},
		{"channel announcement, by the channel's key", guard.Message{Key: funding, Text: own.channel, Double: true}, ""},
		{"the same by another channel's key", guard.Message{Key: ln.KeyLocator{Family: 0, Index: 4}, Text: own.channel, Double: true}, guard.RuleMessage},
		{"a channel of others", guard.Message{Key: nodeKey(), Text: own.foreign, Double: true}, guard.RuleMessage},
		{"a channel of others, by the channel's key", guard.Message{Key: funding, Text: own.foreign, Double: true}, guard.RuleMessage},
		{"an announcement with a channel's key", guard.Message{Key: funding, Text: own.node, Double: true}, guard.RuleMessage},
		{"hashed once", guard.Message{Key: nodeKey(), Text: own.node}, guard.RuleMessage},
		{"a signature that tells its key", guard.Message{Key: nodeKey(), Text: own.node, Double: true, Compact: true}, guard.RuleMessage},
		{"Schnorr", guard.Message{Key: nodeKey(), Text: own.node, Double: true, Schnorr: true}, guard.RuleMessage},
		{"cut short", guard.Message{Key: nodeKey(), Text: cut(own.node), Double: true}, guard.RuleMessage},
		{"with more behind it", guard.Message{Key: nodeKey(), Text: long(own.node), Double: true}, guard.RuleMessage},
		{"an update cut short", guard.Message{Key: nodeKey(), Text: cut(own.update), Double: true}, guard.RuleMessage},
		{"a channel with more behind it", guard.Message{Key: funding, Text: long(own.channel), Double: true}, guard.RuleMessage},
		{"nothing", guard.Message{Key: nodeKey()}, guard.RuleMessage},
		{"another index of the node's family", guard.Message{Key: ln.KeyLocator{Family: 6, Index: 1}, Text: own.node, Double: true}, guard.RuleMessage},
		{"a key of HTLCs", guard.Message{Key: ln.KeyLocator{Family: 2}, Text: own.node, Double: true}, guard.RuleMessage},
		{"invoice", guard.Message{Key: nodeKey(), Text: signedInvoice(t, &chaincfg.RegressionNetParams), Compact: true}, ""},
		{"invoice with an amount", guard.Message{Key: nodeKey(), Text: signedInvoice(t, &chaincfg.RegressionNetParams, zpay32.Amount(12_345_000)), Compact: true}, ""},
		{"invoice of a round amount", guard.Message{Key: nodeKey(), Text: signedInvoice(t, &chaincfg.RegressionNetParams, zpay32.Amount(100_000_000_000)), Compact: true}, ""},
		{"invoice of another network", guard.Message{Key: nodeKey(), Text: signedInvoice(t, &chaincfg.MainNetParams), Compact: true}, guard.RuleMessage},
		{"invoice hashed twice", guard.Message{Key: nodeKey(), Text: signedInvoice(t, &chaincfg.RegressionNetParams), Compact: true, Double: true}, guard.RuleMessage},
		{"a text that begins like an invoice", guard.Message{Key: nodeKey(), Text: []byte("lnbcrt log me in as this node, please"), Compact: true}, guard.RuleMessage},
		{"a text", guard.Message{Key: nodeKey(), Text: text("log me in"), Double: true, Compact: true}, guard.RuleText},
		{"a text hashed once", guard.Message{Key: nodeKey(), Text: text("log me in"), Compact: true}, guard.RuleText},
		{"the node's word for its tenant", guard.Message{Key: nodeKey(), Text: text(tenant.Statement(gateway, "acme", k.Node())), Double: true, Compact: true}, ""},
		{"for another tenant", guard.Message{Key: nodeKey(), Text: text(tenant.Statement(gateway, "bolt", k.Node())), Double: true, Compact: true}, guard.RuleText},
		{"onboarding", guard.Message{Key: nodeKey(), Text: text("sluice onboarding of acme: " + strings.Repeat("a0", 16)), Double: true, Compact: true}, ""},
		{"onboarding and more", guard.Message{Key: nodeKey(), Text: text("sluice onboarding of acme: " + strings.Repeat("a0", 16) + " and log me in"), Double: true, Compact: true}, guard.RuleText},
		{"the proof", guard.Message{Key: nodeKey(), Text: append([]byte("sluice onboarding: this signer signs for the tenant acme "), make([]byte, 32)...)}, ""},
		{"the proof of another", guard.Message{Key: nodeKey(), Text: append([]byte("sluice onboarding: this signer signs for the tenant bolt "), make([]byte, 32)...)}, guard.RuleMessage},
	} {
		t.Run(row.name, func(t *testing.T) {
			what, err := k.JudgeMessage(policy(), row.m)
			require.Equal(t, row.want, ruleOf(t, err))
			require.Equal(t, row.want == "", what != "")
		})
	}
	p := policy()
	p.SignTexts = true
	_, err := k.JudgeMessage(p, guard.Message{Key: nodeKey(), Text: text("log me in"), Double: true, Compact: true})
	require.NoError(t, err)
	signet := newWallet(t, 7).keyring()
	p.Network = "signet"
	_, err = signet.JudgeMessage(p, guard.Message{Key: nodeKey(), Text: signedInvoice(t, &chaincfg.SigNetParams), Compact: true})
	require.NoError(t, err)
}

// TestNoMessageIsATransaction: a message whose hash is what a transaction's signature
// covers would be a way around every limit. lnd's signer hashes what it is given.
func TestNoMessageIsATransaction(t *testing.T) {
	w := newWallet(t, 7)
	k := w.keyring()
	genesis := chaincfg.RegressionNetParams.GenesisHash[:]
	rapid.Check(t, func(t *rapid.T) {
		// BIP 143's preimage; what a host can choose, it chooses: version, outpoint's
		// index, amount, sequence, lock time, and scripts of its own outputs.
		var b []byte
		version := rapid.SampledFrom([]uint32{0, 1, 2, 3, 0x00000100, 0x01000000}).Draw(t, "version")
		b = binary.LittleEndian.AppendUint32(b, version)
		b = append(b, rapid.SliceOfN(rapid.Byte(), 64, 64).Draw(t, "hashes")...)
		b = append(b, rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "txid")...)
		b = binary.LittleEndian.AppendUint32(b, rapid.Uint32().Draw(t, "index"))
		script := rapid.OneOf(
			rapid.SliceOfN(rapid.Byte(), 25, 25),
			rapid.Custom(func(t *rapid.T) []byte {
				return append(rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "before"), append(bytes.Clone(genesis), rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "after")...)...)
			}),
		).Draw(t, "script")
		var buf bytes.Buffer
		require.NoError(t, wire.WriteVarBytes(&buf, 0, script))
		b = append(b, buf.Bytes()...)
		b = binary.LittleEndian.AppendUint64(b, rapid.Uint64().Draw(t, "amount"))
		b = binary.LittleEndian.AppendUint32(b, rapid.Uint32().Draw(t, "sequence"))
		b = append(b, rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "outputs")...)
		b = binary.LittleEndian.AppendUint32(b, rapid.Uint32().Draw(t, "lock time"))
		b = binary.LittleEndian.AppendUint32(b, uint32(txscript.SigHashAll))
		p := policy()
		p.SignTexts = true
		for _, key := range []ln.KeyLocator{{Family: 0, Index: 3}, {Family: 1}, {Family: 2}, {Family: 3}, {Family: 4}, nodeKey()} {
			for _, m := range []guard.Message{{Key: key, Text: b, Double: true}, {Key: key, Text: b}, {Key: key, Text: b, Double: true, Compact: true}, {Key: key, Text: b, Schnorr: true}} {
				if what, err := k.JudgeMessage(p, m); err == nil {
					t.Fatalf("a transaction's digest passes as a %s: %x", what, b)
				}
			}
		}
	})
}

// TestSharedKeys: what connections, onions, new channels and watchtowers need.
func TestSharedKeys(t *testing.T) {
	w := newWallet(t, 7)
	k := w.keyring()
	stranger := newWallet(t, 8).key(family(6, 0)...).SerializeCompressed()
	node := w.key(family(6, 0)...).SerializeCompressed()
	loc := func(family, index int32) ln.KeyLocator { return ln.KeyLocator{Family: family, Index: index} }
	for _, row := range []struct {
		name string
		r    guard.SharedKey
		want guard.Rule
	}{
		{"a connection", guard.SharedKey{Key: nodeKey(), Raw: node, With: stranger}, ""},
		{"an onion", guard.SharedKey{Key: nodeKey(), With: stranger}, ""},
		{"a channel's revocations", guard.SharedKey{Key: loc(5, 2), With: w.key(family(0, 19)...).SerializeCompressed()}, ""},
		{"of a channel far ahead", guard.SharedKey{Key: loc(5, 2), With: w.key(family(0, 60)...).SerializeCompressed()}, guard.RuleSharedKey},
		{"of no channel", guard.SharedKey{Key: loc(5, 2), With: stranger}, guard.RuleSharedKey},
		{"a tower's session", guard.SharedKey{Key: loc(8, 4), With: stranger}, ""},
		{"the backup's key", guard.SharedKey{Key: loc(7, 0), With: stranger}, guard.RuleSharedKey},
		{"a funding key", guard.SharedKey{Key: loc(0, 3), With: stranger}, guard.RuleSharedKey},
		{"a payment key", guard.SharedKey{Key: loc(3, 3), With: stranger}, guard.RuleSharedKey},
		{"the node's family, another index", guard.SharedKey{Key: loc(6, 1), With: stranger}, guard.RuleSharedKey},
		{"a tower's own identity", guard.SharedKey{Key: loc(9, 0), With: stranger}, guard.RuleSharedKey},
		{"a locator and another key", guard.SharedKey{Key: nodeKey(), Raw: stranger, With: stranger}, guard.RuleKey},
		{"a family that there is not", guard.SharedKey{Key: loc(4000, 0), With: stranger}, guard.RuleKey},
		{"a negative one", guard.SharedKey{Key: loc(-1, 0), With: stranger}, guard.RuleKey},
		{"a negative index", guard.SharedKey{Key: loc(6, -1), With: stranger}, guard.RuleKey},
		{"no key", guard.SharedKey{Key: nodeKey()}, guard.RuleForm},
		{"a point that is none", guard.SharedKey{Key: nodeKey(), With: bytes.Repeat([]byte{2}, 32)}, guard.RuleForm},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := k.JudgeSharedKey(policy(), row.r)
			require.Equal(t, row.want, ruleOf(t, err))
		})
	}
	p := policy()
	p.Watchtower = false
	_, err := k.JudgeSharedKey(p, guard.SharedKey{Key: loc(8, 4), With: stranger})
	require.Equal(t, guard.RuleSharedKey, ruleOf(t, err))
	_, err = k.JudgeKey(loc(7, 0))
	require.NoError(t, err)
	for _, at := range []ln.KeyLocator{loc(-1, 0), loc(6, -1), loc(4000, 0)} {
		_, err = k.JudgeKey(at)
		require.Equal(t, guard.RuleKey, ruleOf(t, err))
	}
}

// TestMuSig2: no session of a host can come to a signature.
func TestMuSig2(t *testing.T) {
	k := newWallet(t, 7).keyring()
	_, err := k.JudgeMuSig2(guard.MuSig2Session{Key: nodeKey()})
	require.NoError(t, err)
	_, err = k.JudgeMuSig2(guard.MuSig2Session{Key: nodeKey(), Nonce: make([]byte, musig2.SecNonceSize)})
	require.Equal(t, guard.RuleMuSig2, ruleOf(t, err))
	_, err = k.JudgeMuSig2(guard.MuSig2Session{Key: ln.KeyLocator{Family: 0, Index: 1}})
	require.Equal(t, guard.RuleMuSig2, ruleOf(t, err))
}
