package bundle

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/btcsuite/btcd/btcutil/hdkeychain"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Version is the format's; a bundle of another one is refused.
const Version = 1

// Bundle is what a tenant hands over.
type Bundle struct {
	// Tenant is the name under which the operator registers it.
	Tenant string
	// Network is bitcoin's: mainnet, testnet, signet or regtest.
	Network string
	// Made is when the bundle was.
	Made time.Time
	// Birthday is when the wallet was made: no coin of it is older. The zero time is
	// unknown, which costs the node a search of the whole chain.
	Birthday time.Time
	// Address is the signer's RPC, host:port, as the gateway reaches it.
	Address string
	// Certificate is the signer's tls.cert, PEM.
	Certificate []byte
	// Macaroon is the narrow one, in lnd's binary form.
	Macaroon []byte
	// Fingerprint is the BIP32 fingerprint of the wallet's master key, or zero.
	Fingerprint [4]byte
	// Accounts are the public keys of the wallet's accounts.
	Accounts []Account
}

// Account is one account of the wallet.
type Account struct {
	// Path is its derivation, m/purpose'/coin'/account'.
	Path string
	// Key is the extended public key there.
	Key string
}

// wire is the plaintext: JSON with these fields and no other.
type wire struct {
	Version     int           `json:"version"`
	Tenant      string        `json:"tenant"`
	Network     string        `json:"network"`
	Made        int64         `json:"made_unix"`
	Birthday    int64         `json:"birthday_unix"`
	Address     string        `json:"signer_address"`
	Certificate string        `json:"tls_cert_pem"`
	Macaroon    string        `json:"macaroon_hex"`
	Fingerprint string        `json:"master_key_fingerprint_hex"`
	Accounts    []wireAccount `json:"accounts"`
}

type wireAccount struct {
	Path string `json:"path"`
	Key  string `json:"xpub"`
}

// Bounds of what is read.
const (
	maxPlain       = 1 << 20
	maxCertificate = 16 << 10
	maxMacaroon    = 4 << 10
	maxAccounts    = 2000
)

// networks are those that lnd knows.
func networks() []string { return []string{"mainnet", "testnet", "signet", "regtest"} }

// Marshal is the plaintext of a bundle: the same bytes for the same bundle.
func (b Bundle) Marshal() ([]byte, error) {
	w := wire{
		Version: Version, Tenant: b.Tenant, Network: b.Network, Made: b.Made.Unix(), Address: b.Address, Certificate: string(b.Certificate),
		Macaroon: hex.EncodeToString(b.Macaroon), Fingerprint: hex.EncodeToString(b.Fingerprint[:]), Accounts: []wireAccount{},
	}
	if !b.Birthday.IsZero() {
		w.Birthday = b.Birthday.Unix()
	}
	for _, a := range b.Accounts {
		w.Accounts = append(w.Accounts, wireAccount(a))
	}
	raw, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	// What is handed over must be what is taken at the other end, and nothing private.
	if _, err := Parse(raw); err != nil {
		return nil, err
	}
	return raw, nil
}

// Parse reads a plaintext.
func Parse(raw []byte) (Bundle, error) {
	if len(raw) > maxPlain {
		return Bundle{}, malformed("it is too large", nil)
	}
	if err := nothingPrivate(raw); err != nil {
		return Bundle{}, err
	}
	var probe struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(raw, &probe); err != nil {
		return Bundle{}, malformed("it is no JSON", err)
	}
	if probe.Version != Version {
		return Bundle{}, errkind.Newf(errkind.Invalid, "The bundle has version %d of the format, this program knows %d: use programs of the same release at both ends.", probe.Version, Version)
	}
	var w wire
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		return Bundle{}, malformed("a field of it", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Bundle{}, malformed("something follows its end", nil)
	}
	// Again, as it was understood: JSON has other ways to write a letter.
	plain, err := json.Marshal(w)
	if err != nil {
		return Bundle{}, malformed("a field of it", err)
	}
	if err := nothingPrivate(plain); err != nil {
		return Bundle{}, err
	}
	return w.bundle()
}

func malformed(what string, cause error) error {
	text := "The bundle was not made by this program (" + what + "): have the tenant make it again with sluicectl signer init."
	if cause == nil {
		return errkind.New(errkind.Invalid, text)
	}
	return errkind.Wrap(errkind.Invalid, cause, text)
}

// validName is that of tenants.
func validName(name string) bool {
	ok := name != "" && len(name) <= 32 && name[0] != '-' && !strings.HasSuffix(name, "-")
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	return ok
}

func (w wire) bundle() (Bundle, error) {
	b := Bundle{Tenant: w.Tenant, Network: w.Network, Made: time.Unix(w.Made, 0).UTC(), Address: w.Address, Certificate: []byte(w.Certificate)}
	if w.Birthday != 0 {
		b.Birthday = time.Unix(w.Birthday, 0).UTC()
	}
	known := false
	for _, n := range networks() {
		known = known || n == w.Network
	}
	switch {
	case !validName(w.Tenant):
		return Bundle{}, malformed("the tenant's name", nil)
	case !known:
		return Bundle{}, malformed("the network", nil)
	case w.Made <= 0 || w.Made > maxUnix || w.Birthday < 0 || w.Birthday > maxUnix:
		return Bundle{}, malformed("a time", nil)
	case len(w.Certificate) > maxCertificate:
		return Bundle{}, malformed("the certificate is too large", nil)
	case len(w.Accounts) == 0 || len(w.Accounts) > maxAccounts:
		return Bundle{}, malformed("the number of accounts", nil)
	}
	if err := CheckAddress(w.Address); err != nil {
		return Bundle{}, err
	}
	if _, err := ParseCertificate([]byte(w.Certificate)); err != nil {
		return Bundle{}, err
	}
	var err error
	if b.Macaroon, err = hex.DecodeString(w.Macaroon); err != nil || len(b.Macaroon) == 0 || len(b.Macaroon) > maxMacaroon || hex.EncodeToString(b.Macaroon) != w.Macaroon {
		return Bundle{}, malformed("the macaroon", err)
	}
	if raw, err := hex.DecodeString(w.Fingerprint); err != nil || len(raw) != len(b.Fingerprint) || hex.EncodeToString(raw) != w.Fingerprint {
		return Bundle{}, malformed("the master key's fingerprint", err)
	} else {
		copy(b.Fingerprint[:], raw)
	}
	seen := map[string]bool{}
	for _, a := range w.Accounts {
		if seen[a.Path] {
			return Bundle{}, malformed("the path of an account", nil)
		}
		seen[a.Path] = true
		if err := checkKey(Account(a)); err != nil {
			return Bundle{}, err
		}
		b.Accounts = append(b.Accounts, Account(a))
	}
	return b, nil
}

// maxUnix is the end of the year 9999.
const maxUnix = 253_402_300_799

// CheckAddress refuses what is no address of a signer, host:port.
func CheckAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || n == 0 || host == "" || len(host) > 253 || strings.ContainsAny(host, " \t\r\n\"'\\%") {
		return malformed("the signer's address", nil)
	}
	return nil
}

// Numbers are the three steps of an account's path.
func (a Account) Numbers() (purpose, coin, account uint32, err error) {
	steps := strings.Split(a.Path, "/")
	if len(steps) != 4 || steps[0] != "m" {
		return 0, 0, 0, malformed("the path of an account", nil)
	}
	var out [3]uint32
	for i, step := range steps[1:] {
		n, err := strconv.ParseUint(strings.TrimSuffix(step, "'"), 10, 31)
		// One path has one form: hardened, without leading zeros or signs.
		if err != nil || step != strconv.FormatUint(n, 10)+"'" {
			return 0, 0, 0, malformed("the path of an account", err)
		}
		out[i] = uint32(n)
	}
	return out[0], out[1], out[2], nil
}

func checkKey(a Account) error {
	if _, _, _, err := a.Numbers(); err != nil {
		return err
	}
	key, err := hdkeychain.NewKeyFromString(a.Key)
	if err != nil {
		return malformed("the public key of an account", nil)
	}
	if key.IsPrivate() {
		return private()
	}
	return nil
}

// ParseCertificate reads a PEM text with one certificate and nothing else.
func ParseCertificate(text []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, malformed("the certificate", nil)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, malformed("the certificate", err)
	}
	return cert, nil
}

// privateWords are how private keys begin as text: PEM's, and the extended private
// keys of BIP32 and SLIP132 of every network. lnd's seeds begin with "abandon" or
// anything else; they have no mark, and no field that would take one.
const privateWords = `PRIVATE KEY|\b[xyztuvYZUV]prv[1-9A-HJ-NP-Za-km-z]{20}`

// nothingPrivate is asked before anything is parsed, so that a key in a field that
// nobody expects is found as well.
func nothingPrivate(raw []byte) error {
	if regexp.MustCompile(privateWords).Match(raw) {
		return private()
	}
	return nil
}

func private() error {
	return errkind.New(errkind.Invalid, "There is a PRIVATE KEY in this bundle. Destroy the file and every copy of it, move the wallet's coins to a new seed if anybody else may have seen it, and make a bundle with sluicectl signer init: it has none.")
}

// Print is what tenant and operator compare: the first half of the SHA-256 of the
// plaintext, in groups.
func (b Bundle) Print() (string, error) {
	raw, err := b.Marshal()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	text := hex.EncodeToString(sum[:16])
	var groups []string
	for i := 0; i < len(text); i += 4 {
		groups = append(groups, text[i:i+4])
	}
	return strings.Join(groups, " "), nil
}
