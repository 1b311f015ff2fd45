package bundle_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/btcsuite/btcd/btcutil/hdkeychain"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
)

var update = flag.Bool("update", false, "write new test vectors")

func certificate(t testing.TB) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(1_700_000_000, 0), NotAfter: time.Unix(2_000_000_000, 0), DNSNames: []string{"signer.example"}}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	secret, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})
}

// master is the wallet of the tests.
func master(t testing.TB) *hdkeychain.ExtendedKey {
	t.Helper()
	key, err := hdkeychain.NewMaster(bytes.Repeat([]byte{7}, 32), &chaincfg.RegressionNetParams)
	require.NoError(t, err)
	return key
}

func account(t testing.TB, purpose, coin, n uint32) (*hdkeychain.ExtendedKey, string) {
	t.Helper()
	key := master(t)
	for _, i := range []uint32{purpose, coin, n} {
		var err error
		key, err = key.Derive(hdkeychain.HardenedKeyStart + i)
		require.NoError(t, err)
	}
	return key, fmt.Sprintf("m/%d'/%d'/%d'", purpose, coin, n)
}

func sample(t testing.TB) bundle.Bundle {
	t.Helper()
	cert, _ := certificate(t)
	b := bundle.Bundle{
		Tenant: "acme", Network: "regtest", Made: time.Unix(1_772_000_000, 0).UTC(), Birthday: time.Unix(1_771_000_000, 0).UTC(),
		Address: "signer.example:10019", Certificate: cert, Macaroon: []byte{2, 1, 3, 'l', 'n', 'd'}, Fingerprint: [4]byte{1, 2, 3, 4},
	}
	for _, purpose := range []uint32{49, 84, 86} {
		key, path := account(t, purpose, 0, 0)
		public, err := key.Neuter()
		require.NoError(t, err)
		b.Accounts = append(b.Accounts, bundle.Account{Path: path, Key: public.String()})
	}
	return b
}

func identity(t testing.TB) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	return key
}

var forAcme = bundle.Expect{Tenant: "acme", Network: "regtest"}

func TestRoundTrip(t *testing.T) {
	key, b := identity(t), sample(t)
	file, err := bundle.Seal(b, key.Recipient())
	require.NoError(t, err)
	got, err := bundle.Open(file, key, forAcme)
	require.NoError(t, err)
	require.Equal(t, b, got)
	for _, secret := range [][]byte{[]byte("acme"), []byte("signer.example"), b.Macaroon, []byte(b.Accounts[0].Key)} {
		require.NotContains(t, string(file), string(secret), "readable without the key")
	}
	one, err := b.Print()
	require.NoError(t, err)
	two, err := got.Print()
	require.NoError(t, err)
	require.Equal(t, one, two)
	require.Regexp(t, `^([0-9a-f]{4} ){7}[0-9a-f]{4}$`, one)
	b.Address = "signer.example:10020"
	three, err := b.Print()
	require.NoError(t, err)
	require.NotEqual(t, one, three)
	b.Birthday = time.Time{}
	file, err = bundle.Seal(b, key.Recipient())
	require.NoError(t, err)
	got, err = bundle.Open(file, key, forAcme)
	require.NoError(t, err)
	require.True(t, got.Birthday.IsZero())
}

// reframe is what somebody does who knows the format and not the key.
func reframe(sealed []byte) []byte {
	out := append([]byte("sluice-bundle-1\n"), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(out[16:], uint32(len(sealed)))
	out = append(out, sealed...)
	sum := sha256.Sum256(out)
	return append(out, sum[:]...)
}

// TestEachRefusalHasItsSentence, and each says what to do next.
func TestEachRefusalHasItsSentence(t *testing.T) {
	key, b := identity(t), sample(t)
	file, err := bundle.Seal(b, key.Recipient())
	require.NoError(t, err)
	sealed := func() []byte { return bytes.Clone(file[20 : len(file)-32]) }
	flipped := func(raw []byte, i int) []byte {
		out := bytes.Clone(raw)
		out[i] ^= 1
		return out
	}
	newer := func() []byte {
		plain, err := b.Marshal()
		require.NoError(t, err)
		return seal(t, key, bytes.Replace(plain, []byte(`"version":1`), []byte(`"version":2`), 1))
	}
	sentences := map[string]string{}
	for name, c := range map[string]struct {
		file []byte
		key  age.Identity
		want bundle.Expect
		said string
	}{
		"no bundle":            {[]byte("PK\x03\x04 something else entirely"), key, forAcme, "no onboarding bundle"},
		"cut short":            {file[:len(file)-1], key, forAcme, fmt.Sprintf("cut short: %d of %d bytes", len(file)-1, len(file))},
		"added to":             {append(bytes.Clone(file), '\n'), key, forAcme, "Something was added"},
		"altered":              {flipped(file, len(file)/2), key, forAcme, "was altered after it was made"},
		"another key":          {file, identity(t), forAcme, "encrypted to another operator's key"},
		"another tenant":       {file, key, bundle.Expect{Tenant: "bolt", Network: "regtest"}, `made for the tenant "acme", not for "bolt"`},
		"another network":      {file, key, bundle.Expect{Tenant: "acme", Network: "mainnet"}, "for a signer on regtest, and this gateway is on mainnet"},
		"another version":      {newer(), key, forAcme, "version 2 of the format"},
		"private key within":   {seal(t, key, withPrivateKey(t, b)), key, forAcme, "PRIVATE KEY in this bundle"},
		"not made by signer":   {seal(t, key, []byte(`{"version":1,"extra":true}`)), key, forAcme, "was not made by this program"},
		"larger than anything": {append(bytes.Clone(file), make([]byte, 3<<20)...), key, forAcme, "larger than"},
	} {
		_, err := bundle.Open(c.file, c.key, c.want)
		require.Error(t, err, name)
		said := errkind.Sentence(err)
		require.Contains(t, said, c.said, name)
		require.Empty(t, sentences[said], "the sentence of %s", name)
		sentences[said] = name
	}
	// Altered by who computes the length and the sum anew: age finds it.
	for i := range sealed() {
		if i%37 != 0 {
			continue
		}
		_, err := bundle.Open(reframe(flipped(sealed(), i)), key, forAcme)
		require.ErrorIs(t, err, errkind.Invalid, "byte %d", i)
	}
	for n := range sealed() {
		if n%37 != 0 {
			continue
		}
		_, err := bundle.Open(reframe(sealed()[:n]), key, forAcme)
		require.ErrorIs(t, err, errkind.Invalid, "after %d bytes", n)
	}
	// Every length and every byte of the file.
	for n := range file {
		_, err := bundle.Open(file[:n], key, forAcme)
		require.ErrorIs(t, err, errkind.Invalid, "after %d bytes", n)
		if n%11 == 0 {
			_, err = bundle.Open(flipped(file, n), key, forAcme)
			require.ErrorIs(t, err, errkind.Invalid, "byte %d", n)
		}
	}
}

// seal makes a file of any plaintext.
func seal(t testing.TB, key *age.X25519Identity, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := age.Encrypt(&out, key.Recipient())
	require.NoError(t, err)
	_, err = w.Write(plain)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return reframe(out.Bytes())
}

func withPrivateKey(t testing.TB, b bundle.Bundle) []byte {
	t.Helper()
	plain, err := b.Marshal()
	require.NoError(t, err)
	key, _ := account(t, 84, 0, 0)
	return bytes.Replace(plain, []byte(b.Accounts[1].Key), []byte(key.String()), 1)
}

// TestNothingPrivate: neither made nor read, wherever it stands.
func TestNothingPrivate(t *testing.T) {
	secret, path := account(t, 84, 0, 0)
	require.True(t, secret.IsPrivate())
	_, pemKey := certificate(t)
	for name, spoil := range map[string]func(*bundle.Bundle){
		"an account":      func(b *bundle.Bundle) { b.Accounts[1] = bundle.Account{Path: path, Key: secret.String()} },
		"the certificate": func(b *bundle.Bundle) { b.Certificate = append(b.Certificate, pemKey...) },
		"only the key":    func(b *bundle.Bundle) { b.Certificate = pemKey },
		"the address":     func(b *bundle.Bundle) { b.Address = secret.String() + ":1" },
	} {
		b := sample(t)
		spoil(&b)
		_, err := b.Marshal()
		require.ErrorContains(t, err, "PRIVATE KEY", name)
		_, err = bundle.Seal(b, identity(t).Recipient())
		require.ErrorContains(t, err, "PRIVATE KEY", name)
	}
	// With version bytes that nobody's words have: the key itself says what it is.
	odd, err := secret.CloneWithVersion([]byte{1, 2, 3, 4})
	require.NoError(t, err)
	b := sample(t)
	b.Accounts[1] = bundle.Account{Path: path, Key: odd.String()}
	_, err = b.Marshal()
	require.ErrorContains(t, err, "PRIVATE KEY")
	// Written with other letters.
	escaped, err := sample(t).Marshal()
	require.NoError(t, err)
	_, err = bundle.Parse(bytes.Replace(escaped, []byte(`"signer.example:10019"`), []byte(`"\u0074`+secret.String()[1:]+`:1"`), 1))
	require.ErrorContains(t, err, "PRIVATE KEY")
	// In a field that does not exist.
	plain, err := sample(t).Marshal()
	require.NoError(t, err)
	_, err = bundle.Parse(bytes.Replace(plain, []byte(`{"version"`), []byte(`{"seed":"`+secret.String()+`","version"`), 1))
	require.ErrorContains(t, err, "PRIVATE KEY")
}

func TestMalformed(t *testing.T) {
	for name, spoil := range map[string]func(*bundle.Bundle){
		"no tenant":        func(b *bundle.Bundle) { b.Tenant = "" },
		"a path as a name": func(b *bundle.Bundle) { b.Tenant = "../etc" },
		"no network":       func(b *bundle.Bundle) { b.Network = "bitcoin" },
		"no time":          func(b *bundle.Bundle) { b.Made = time.Unix(0, 0) },
		"before time":      func(b *bundle.Bundle) { b.Birthday = time.Unix(-1, 0) },
		"no port":          func(b *bundle.Bundle) { b.Address = "signer.example" },
		"port 0":           func(b *bundle.Bundle) { b.Address = "signer.example:0" },
		"a line more":      func(b *bundle.Bundle) { b.Address = "signer.example\nremotesigner.enable=false:1" },
		"no certificate":   func(b *bundle.Bundle) { b.Certificate = nil },
		"two certificates": func(b *bundle.Bundle) { b.Certificate = append(bytes.Clone(b.Certificate), b.Certificate...) },
		"no macaroon":      func(b *bundle.Bundle) { b.Macaroon = nil },
		"a huge macaroon":  func(b *bundle.Bundle) { b.Macaroon = make([]byte, 5000) },
		"no accounts":      func(b *bundle.Bundle) { b.Accounts = nil },
		"an account twice": func(b *bundle.Bundle) { b.Accounts[1] = b.Accounts[0] },
		"not hardened":     func(b *bundle.Bundle) { b.Accounts[0].Path = "m/49'/0'/0" },
		"leading zero":     func(b *bundle.Bundle) { b.Accounts[0].Path = "m/049'/0'/0'" },
		"beyond 31 bits":   func(b *bundle.Bundle) { b.Accounts[0].Path = "m/49'/0'/2147483648'" },
		"no key":           func(b *bundle.Bundle) { b.Accounts[0].Key = "xpub" },
	} {
		b := sample(t)
		spoil(&b)
		_, err := b.Marshal()
		require.ErrorIs(t, err, errkind.Invalid, name)
	}
	plain, err := sample(t).Marshal()
	require.NoError(t, err)
	for name, raw := range map[string][]byte{
		"two":     append(bytes.Clone(plain), plain...),
		"null":    []byte("null"),
		"upper":   bytes.Replace(plain, []byte(`"macaroon_hex":"0201036c6e64"`), []byte(`"macaroon_hex":"0201036C6E64"`), 1),
		"numbers": bytes.Replace(plain, []byte(`"made_unix":1772000000`), []byte(`"made_unix":1e400`), 1),
	} {
		_, err := bundle.Parse(raw)
		require.ErrorIs(t, err, errkind.Invalid, name)
	}
}

// vector is a committed bundle that every later version must read.
type vector struct {
	Key    string `json:"operator_key"`
	File   string `json:"bundle_hex"`
	Plain  string `json:"plaintext"`
	Print  string `json:"fingerprint"`
	Tenant string `json:"tenant"`
	Net    string `json:"network"`
}

const vectorFile = "testdata/vectors.json"

func TestVectors(t *testing.T) {
	if *update {
		key, b := identity(t), sample(t)
		file, err := bundle.Seal(b, key.Recipient())
		require.NoError(t, err)
		plain, err := b.Marshal()
		require.NoError(t, err)
		print, err := b.Print()
		require.NoError(t, err)
		raw, err := json.MarshalIndent([]vector{{key.String(), hex.EncodeToString(file), string(plain), print, b.Tenant, b.Network}}, "", "  ")
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(vectorFile), 0o755))
		require.NoError(t, os.WriteFile(vectorFile, append(raw, '\n'), 0o644))
	}
	raw, err := os.ReadFile(vectorFile)
	require.NoError(t, err)
	var vectors []vector
	require.NoError(t, json.Unmarshal(raw, &vectors))
	require.NotEmpty(t, vectors)
	for _, v := range vectors {
		key, err := age.ParseX25519Identity(v.Key)
		require.NoError(t, err)
		file, err := hex.DecodeString(v.File)
		require.NoError(t, err)
		b, err := bundle.Open(file, key, bundle.Expect{Tenant: v.Tenant, Network: v.Net})
		require.NoError(t, err)
		plain, err := b.Marshal()
		require.NoError(t, err)
		require.Equal(t, v.Plain, string(plain))
		print, err := b.Print()
		require.NoError(t, err)
		require.Equal(t, v.Print, print)
	}
}

// FuzzParse: whatever is read is written again as it was understood, and has nothing
// private in it.
func FuzzParse(f *testing.F) {
	plain, err := sample(f).Marshal()
	require.NoError(f, err)
	f.Add(plain)
	f.Add(withPrivateKey(f, sample(f)))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := bundle.Parse(raw)
		if err != nil {
			require.Equal(t, errkind.Invalid, errkind.Of(err))
			return
		}
		again, err := b.Marshal()
		require.NoError(t, err)
		twice, err := bundle.Parse(again)
		require.NoError(t, err)
		require.Equal(t, b, twice)
		require.NotContains(t, string(again), "PRIVATE KEY")
		for _, a := range b.Accounts {
			key, err := hdkeychain.NewKeyFromString(a.Key)
			require.NoError(t, err)
			require.False(t, key.IsPrivate())
		}
	})
}

// FuzzOpen: no file makes it do anything but refuse, or give a bundle for whom it was
// asked for.
func FuzzOpen(f *testing.F) {
	raw, err := os.ReadFile(vectorFile)
	require.NoError(f, err)
	var vectors []vector
	require.NoError(f, json.Unmarshal(raw, &vectors))
	key, err := age.ParseX25519Identity(vectors[0].Key)
	require.NoError(f, err)
	whole, err := hex.DecodeString(vectors[0].File)
	require.NoError(f, err)
	f.Add(whole)
	f.Add(whole[:40])
	f.Add([]byte("sluice-bundle-1\n\xff\xff\xff\xff" + strings.Repeat("x", 64)))
	f.Add(reframe(whole[20:200]))
	f.Fuzz(func(t *testing.T, file []byte) {
		b, err := bundle.Open(file, key, forAcme)
		if err != nil {
			require.Contains(t, []errkind.Kind{errkind.Invalid, errkind.Conflict}, errkind.Of(err))
			require.NotEmpty(t, errkind.Sentence(err))
			return
		}
		require.Equal(t, "acme", b.Tenant)
		require.Equal(t, "regtest", b.Network)
	})
}

// TestRandomDamage: whatever happens to a file on its way, it is whole or refused.
func TestRandomDamage(t *testing.T) {
	seed := mathrand.Uint64()
	t.Logf("seed %d", seed)
	r := mathrand.New(mathrand.NewPCG(seed, 0))
	key, b := identity(t), sample(t)
	file, err := bundle.Seal(b, key.Recipient())
	require.NoError(t, err)
	for range 300 {
		damaged := bytes.Clone(file)
		for range 1 + r.IntN(4) {
			switch i := r.IntN(len(damaged)); r.IntN(3) {
			case 0:
				damaged[i] ^= byte(1 + r.IntN(255))
			case 1:
				damaged = append(damaged[:i], damaged[min(len(damaged), i+1+r.IntN(20)):]...)
			case 2:
				damaged = append(damaged[:i:i], append(bytes.Repeat([]byte{byte(r.IntN(256))}, 1+r.IntN(20)), damaged[i:]...)...)
			}
			if len(damaged) == 0 {
				break
			}
		}
		if bytes.Equal(damaged, file) {
			continue
		}
		_, err := bundle.Open(damaged, key, forAcme)
		require.ErrorIs(t, err, errkind.Invalid)
	}
}
