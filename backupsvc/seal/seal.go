package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Header says what a sealed payload is. It is encrypted with it.
type Header struct {
	// Name is which of the wallet's things this is.
	Name string `json:"name"`
	// Number counts a thing's versions. It orders them: clocks do not.
	Number uint64 `json:"number"`
	MadeMs int64  `json:"made_ms"`
	Node   string `json:"node"`
	// Network keeps a seed's test networks apart.
	Network string `json:"network"`
	// Device is random for each installation.
	Device string `json:"device"`
	// Channels are the funding outpoints in a channel backup.
	Channels []string `json:"channels,omitempty"`
	Size     int64    `json:"size"`
	SHA256   string   `json:"sha256"`
}

const (
	magic      = "SLUICEBK"
	formatOne  = 1
	prefixSize = len(magic) + 2
	// padTo hides exact sizes, which tell how many channels there are.
	padTo = 4096
	// MaxSize bounds a payload.
	MaxSize   = 64 << 20
	maxHeader = 8 << 20
)

// ErrSealed says that something does not open with this secret: it was damaged,
// changed, made for somebody else, or sealed with another secret.
var ErrSealed = errkind.New(errkind.Invalid, "it does not open with this wallet's secret: it is damaged, or another's")

// Sealed says whether something looks sealed, and with which kind of secret.
func Sealed(file []byte) (Kind, bool) {
	if len(file) < prefixSize || string(file[:len(magic)]) != magic {
		return 0, false
	}
	return Kind(file[prefixSize-1]), true
}

// Seal encrypts a payload. It sets the header's Network, Size and SHA256.
func (s Secret) Seal(random io.Reader, h Header, payload []byte) ([]byte, error) {
	if len(payload) > MaxSize {
		return nil, errkind.Newf(errkind.Invalid, "%s has %d bytes: a backup may have %d", h.Name, len(payload), MaxSize)
	}
	sum := sha256.Sum256(payload)
	h.Network, h.Size, h.SHA256 = s.Network, int64(len(payload)), hex.EncodeToString(sum[:])
	head, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if len(head) > maxHeader {
		return nil, errkind.Newf(errkind.Invalid, "the header of %s has %d bytes", h.Name, len(head))
	}
	plain := binary.BigEndian.AppendUint32(nil, uint32(len(head))) //nolint:gosec // bounded above
	plain = append(append(plain, head...), payload...)
	plain = append(plain, make([]byte, (padTo-len(plain)%padTo)%padTo)...)
	key, err := s.key("seal")
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		return nil, err
	}
	out := append([]byte(magic), formatOne, byte(s.Kind))
	nonce := make([]byte, aead.NonceSize())
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, fmt.Errorf("nonce: %w", err)
	}
	out = append(out, nonce...)
	return aead.Seal(out, nonce, plain, out[:prefixSize]), nil
}

// Open decrypts what must be the thing of this name.
func (s Secret) Open(name string, file []byte) (Header, []byte, error) {
	fail := func(why string) (Header, []byte, error) { return Header{}, nil, fmt.Errorf("%w (%s)", ErrSealed, why) }
	kind, ok := Sealed(file)
	switch {
	case !ok:
		return fail("it is no sealed backup")
	case file[len(magic)] != formatOne:
		return fail(fmt.Sprintf("format %d: a newer program made it", file[len(magic)]))
	case kind != s.Kind:
		return fail("it needs the secret of a " + kind.String())
	}
	key, err := s.key("seal")
	if err != nil {
		return Header{}, nil, err
	}
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		return Header{}, nil, err
	}
	body := file[prefixSize:]
	if len(body) < aead.NonceSize()+aead.Overhead() {
		return fail("cut off")
	}
	plain, err := aead.Open(nil, body[:aead.NonceSize()], body[aead.NonceSize():], file[:prefixSize])
	if err != nil {
		return fail("authentication failed")
	}
	h, payload, err := parse(plain)
	switch {
	case err != nil:
		return fail(err.Error())
	case h.Name != name:
		return fail(fmt.Sprintf("it is %q, served in the place of %q", h.Name, name))
	case h.Network != s.Network:
		return fail("it is of another network")
	}
	return h, payload, nil
}

// parse reads what was authenticated: whoever made it had the secret.
func parse(plain []byte) (Header, []byte, error) {
	var h Header
	if len(plain) < 4 {
		return h, nil, errors.New("no header")
	}
	n := binary.BigEndian.Uint32(plain)
	plain = plain[4:]
	if n > maxHeader || int(n) > len(plain) {
		return h, nil, errors.New("the header is cut off")
	}
	if err := json.NewDecoder(bytes.NewReader(plain[:n])).Decode(&h); err != nil {
		return h, nil, fmt.Errorf("header: %w", err)
	}
	rest := plain[n:]
	if h.Size < 0 || h.Size > int64(len(rest)) {
		return h, nil, errors.New("the payload is cut off")
	}
	payload := rest[:h.Size]
	if sum := sha256.Sum256(payload); hex.EncodeToString(sum[:]) != h.SHA256 {
		return h, nil, errors.New("the payload is not what its header says")
	}
	return h, payload, nil
}
