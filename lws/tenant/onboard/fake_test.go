package onboard_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	btcecdsa "github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/btcutil/hdkeychain"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/txscript"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// now is the checks' clock.
func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// seed is a wallet.
type seed struct {
	t      testing.TB
	master *hdkeychain.ExtendedKey
	net    *chaincfg.Params
}

func newSeed(t testing.TB, fill byte, net *chaincfg.Params) seed {
	t.Helper()
	master, err := hdkeychain.NewMaster(bytes.Repeat([]byte{fill}, 32), net)
	require.NoError(t, err)
	return seed{t, master, net}
}

func (s seed) derive(path ...uint32) *hdkeychain.ExtendedKey {
	key := s.master
	for _, i := range path {
		var err error
		key, err = key.Derive(i)
		require.NoError(s.t, err)
	}
	return key
}

const hard = hdkeychain.HardenedKeyStart

func (s seed) coin() uint32 {
	if s.net.Name == chaincfg.MainNetParams.Name {
		return 0
	}
	return 1
}

func (s seed) family(key ln.KeyLocator) *btcec.PrivateKey {
	secret, err := s.derive(1017+hard, s.coin()+hard, uint32(key.Family)+hard, 0, uint32(key.Index)).ECPrivKey()
	require.NoError(s.t, err)
	return secret
}

// accounts are what lnd exports.
func (s seed) accounts() []bundle.Account {
	var out []bundle.Account
	add := func(purpose, coin, n uint32) {
		public, err := s.derive(purpose+hard, coin+hard, n+hard).Neuter()
		require.NoError(s.t, err)
		out = append(out, bundle.Account{Path: fmt.Sprintf("m/%d'/%d'/%d'", purpose, coin, n), Key: public.String()})
	}
	for _, purpose := range []uint32{49, 84, 86} {
		add(purpose, 0, 0)
	}
	for n := range uint32(256) {
		add(1017, s.coin(), n)
	}
	return out
}

// fakeSigner is an lnd signer with a seed, a certificate and a macaroon: it signs, and
// allows what its macaroon does.
type fakeSigner struct {
	seed    seed
	cert    *x509.Certificate
	state   string
	allowed []string
	away    error
	// psbt and musig spoil those answers.
	psbt  func([]byte) []byte
	musig error
	// tried are the methods that were called.
	tried []string
}

func newCertificate(t testing.TB, until time.Time, hosts ...string) (*x509.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now().Add(-time.Hour), NotAfter: until}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(raw)
	require.NoError(t, err)
	return cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

func (f *fakeSigner) Certificate(context.Context) (*x509.Certificate, error) { return f.cert, f.away }
func (f *fakeSigner) State(context.Context) (string, error)                  { return f.state, f.away }

func (f *fakeSigner) Try(_ context.Context, method string) (bool, error) {
	f.tried = append(f.tried, method)
	return slices.Contains(f.allowed, method), f.away
}

func (f *fakeSigner) PublicKey(_ context.Context, key ln.KeyLocator) (ln.PubKey, error) {
	return ln.PubKeyFromBytes(f.seed.family(key).PubKey().SerializeCompressed())
}

func (f *fakeSigner) SignMessage(_ context.Context, key ln.KeyLocator, msg []byte) ([]byte, error) {
	digest := sha256.Sum256(msg)
	return btcecdsa.Sign(f.seed.family(key), digest[:]).Serialize(), nil
}

// SignPsbt signs as btcwallet does: where the path leads to the key that is named.
func (f *fakeSigner) SignPsbt(_ context.Context, raw []byte) ([]byte, error) {
	packet, err := psbt.NewFromRawBytes(bytes.NewReader(raw), false)
	if err != nil {
		return nil, err
	}
	outs := txscript.NewMultiPrevOutFetcher(nil)
	for i, in := range packet.Inputs {
		outs.AddPrevOut(packet.UnsignedTx.TxIn[i].PreviousOutPoint, in.WitnessUtxo)
	}
	hashes := txscript.NewTxSigHashes(packet.UnsignedTx, outs)
	for i := range packet.Inputs {
		in := &packet.Inputs[i]
		secret, err := f.seed.derive(in.Bip32Derivation[0].Bip32Path...).ECPrivKey()
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(secret.PubKey().SerializeCompressed(), in.Bip32Derivation[0].PubKey) {
			continue
		}
		out := in.WitnessUtxo
		if txscript.IsPayToTaproot(out.PkScript) {
			in.TaprootKeySpendSig, err = txscript.RawTxInTaprootSignature(packet.UnsignedTx, hashes, i, out.Value, out.PkScript, nil, txscript.SigHashDefault, secret)
		} else {
			var sig []byte
			sig, err = txscript.RawTxInWitnessSignature(packet.UnsignedTx, hashes, i, out.Value, out.PkScript, txscript.SigHashAll, secret)
			in.PartialSigs = []*psbt.PartialSig{{PubKey: in.Bip32Derivation[0].PubKey, Signature: sig}}
		}
		if err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	err = packet.Serialize(&b)
	if f.psbt != nil {
		return f.psbt(b.Bytes()), err
	}
	return b.Bytes(), err
}

func (f *fakeSigner) MuSig2(_ context.Context, key ln.KeyLocator, own, _ ln.PubKey) error {
	if !bytes.Equal(f.seed.family(key).PubKey().SerializeCompressed(), own[:]) {
		return errors.New("the key of the session is not among its signers")
	}
	return f.musig
}

const host = "signer.example"

// day is a good day: a signer that is fit, and its bundle.
func day(t testing.TB) (*fakeSigner, *onboard.Input) {
	t.Helper()
	s := newSeed(t, 7, &chaincfg.RegressionNetParams)
	cert, text := newCertificate(t, now().Add(400*24*time.Hour), host)
	return &fakeSigner{seed: s, cert: cert, state: onboard.Active, allowed: onboard.Rights()}, &onboard.Input{
		Bundle: bundle.Bundle{
			Tenant: "acme", Network: "regtest", Made: now(), Birthday: now().Add(-time.Hour), Address: host + ":10019",
			Certificate: text, Macaroon: []byte{2}, Accounts: s.accounts(),
		},
		Ops:     []onboard.Op{{Entity: "uri", Actions: onboard.Rights()}},
		Network: "regtest", Now: now(), Random: rand.Reader,
	}
}
