package ln

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// PubKey is a node's identity: a compressed secp256k1 point (BOLT 1).
type PubKey [33]byte

// Hash is a payment hash: the SHA-256 of a preimage (BOLT 2).
type Hash [32]byte

// Preimage is a secret while its payment is unsettled. It formats, logs and
// marshals to text as the prefix of its hash; only Bytes gives it away.
type Preimage [32]byte

// ParsePubKey reads 66 hex digits, in either case.
func ParsePubKey(s string) (PubKey, error) {
	var k PubKey
	if err := decodeHex(k[:], s); err != nil {
		return k, fmt.Errorf("node public key %q: %w", clip(s), err)
	}
	if k[0] != 2 && k[0] != 3 {
		return PubKey{}, fmt.Errorf("node public key %q: a compressed key starts with 02 or 03", clip(s))
	}
	return k, nil
}

// PubKeyFromBytes copies a 33-byte compressed key.
func PubKeyFromBytes(b []byte) (PubKey, error) { return ParsePubKey(hex.EncodeToString(b)) }

func (k PubKey) String() string { return hex.EncodeToString(k[:]) }

// Short is the key's first eight digits, for tables.
func (k PubKey) Short() string { return hex.EncodeToString(k[:4]) }

// IsZero reports the absence of a key.
func (k PubKey) IsZero() bool { return k == PubKey{} }

// MarshalText gives lower-case hex; the zero key gives the empty text.
func (k PubKey) MarshalText() ([]byte, error) {
	if k.IsZero() {
		return nil, nil
	}
	return []byte(k.String()), nil
}

// UnmarshalText reads what MarshalText wrote; the empty text is the zero key.
func (k *PubKey) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*k = PubKey{}
		return nil
	}
	parsed, err := ParsePubKey(string(b))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}

// ParseHash reads 64 hex digits.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if err := decodeHex(h[:], s); err != nil {
		return h, fmt.Errorf("payment hash %q: %w", clip(s), err)
	}
	return h, nil
}

// HashFromBytes copies 32 bytes.
func HashFromBytes(b []byte) (Hash, error) {
	var h Hash
	if len(b) != len(h) {
		return h, fmt.Errorf("payment hash has %d bytes, not 32", len(b))
	}
	copy(h[:], b)
	return h, nil
}

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Short is the hash's first eight digits, for tables and log lines.
func (h Hash) Short() string { return hex.EncodeToString(h[:4]) }

// MarshalText gives lower-case hex.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (h *Hash) UnmarshalText(b []byte) error {
	parsed, err := ParseHash(string(b))
	if err != nil {
		return err
	}
	*h = parsed
	return nil
}

// PreimageFromBytes copies 32 bytes.
func PreimageFromBytes(b []byte) (Preimage, error) {
	var p Preimage
	if len(b) != len(p) {
		return p, fmt.Errorf("preimage has %d bytes, not 32", len(b))
	}
	copy(p[:], b)
	return p, nil
}

// Hash is the payment hash that this preimage opens.
func (p Preimage) Hash() Hash { return sha256.Sum256(p[:]) }

// Bytes gives the secret itself; the name marks every place that handles it.
func (p Preimage) Bytes() []byte { return append([]byte(nil), p[:]...) }

// IsZero reports that no preimage is known.
func (p Preimage) IsZero() bool { return p == Preimage{} }

func (p Preimage) String() string { return "preimage-of-" + p.Hash().Short() }

// GoString keeps %#v from printing the secret.
func (p Preimage) GoString() string { return p.String() }

// MarshalText keeps loggers and error texts from printing the secret.
func (p Preimage) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// SCID is a short channel id or an alias in its place: block height (24 bits),
// transaction index (24), output index (16) (BOLT 7). Aliases exceed the range
// of a signed 64-bit column, so stores keep its eight big-endian bytes.
type SCID uint64

// lnd hands out aliases from block 16,000,000 upward and accepts foreign ones
// below 16,250,000; no real block has such a height for centuries.
const (
	AliasBlockStart = 16_000_000
	AliasBlockEnd   = 16_250_000
)

// NewSCID packs the three parts.
func NewSCID(block, tx uint32, output uint16) SCID {
	return SCID(uint64(block&0xffffff)<<40 | uint64(tx&0xffffff)<<16 | uint64(output))
}

// Block is the height part.
func (s SCID) Block() uint32 { return uint32(s >> 40) }

// Tx is the transaction index part.
func (s SCID) Tx() uint32 { return uint32(s>>16) & 0xffffff }

// Output is the output index part.
func (s SCID) Output() uint16 { return uint16(s & 0xffff) }

// IsAlias reports that the id lies in lnd's alias range.
func (s SCID) IsAlias() bool { return s.Block() >= AliasBlockStart && s.Block() < AliasBlockEnd }

func (s SCID) String() string { return fmt.Sprintf("%dx%dx%d", s.Block(), s.Tx(), s.Output()) }

// ParseSCID reads "BxTxO" (bLIP-50, "Common schemas").
func ParseSCID(text string) (SCID, error) {
	parts := strings.Split(text, "x")
	if len(parts) != 3 {
		return 0, fmt.Errorf("short channel id %q: want BLOCKxTXxOUTPUT", clip(text))
	}
	var n [3]uint64
	for i, width := range []int{24, 24, 16} {
		v, err := strconv.ParseUint(parts[i], 10, width)
		if err != nil {
			return 0, fmt.Errorf("short channel id %q: want BLOCKxTXxOUTPUT", clip(text))
		}
		n[i] = v
	}
	return SCID(n[0]<<40 | n[1]<<16 | n[2]), nil
}

// Bytes is the storage form: eight bytes, big-endian.
func (s SCID) Bytes() []byte { return binary.BigEndian.AppendUint64(nil, uint64(s)) }

// SCIDFromBytes reads the storage form.
func SCIDFromBytes(b []byte) (SCID, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("short channel id has %d bytes, not 8", len(b))
	}
	return SCID(binary.BigEndian.Uint64(b)), nil
}

// MarshalText gives "BxTxO".
func (s SCID) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads "BxTxO".
func (s *SCID) UnmarshalText(b []byte) error {
	parsed, err := ParseSCID(string(b))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// CircuitKey names an incoming HTLC at the gateway: the channel it came in on
// (as lnd names it in circuits: its SCID or first alias) and its index there.
type CircuitKey struct {
	ChanID SCID
	HtlcID uint64
}

func (k CircuitKey) String() string { return fmt.Sprintf("%s:%d", k.ChanID, k.HtlcID) }

// MarshalText gives "BxTxO:index", so that keys can stand in JSON maps.
func (k CircuitKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (k *CircuitKey) UnmarshalText(b []byte) error {
	scid, index, ok := strings.Cut(string(b), ":")
	if !ok {
		return fmt.Errorf("circuit key %q: want BLOCKxTXxOUTPUT:INDEX", clip(string(b)))
	}
	id, err := ParseSCID(scid)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(index, 10, 64)
	if err != nil {
		return fmt.Errorf("circuit key %q: want BLOCKxTXxOUTPUT:INDEX", clip(string(b)))
	}
	k.ChanID, k.HtlcID = id, n
	return nil
}

// TxID is a transaction id in the byte order of the wire (the reverse of what
// people read).
type TxID [32]byte

func (t TxID) String() string {
	var r TxID
	for i := range t {
		r[i] = t[len(t)-1-i]
	}
	return hex.EncodeToString(r[:])
}

// MarshalText implements encoding.TextMarshaler.
func (t TxID) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *TxID) UnmarshalText(b []byte) (err error) {
	*t, err = ParseTxID(string(b))
	return err
}

// ParseTxID reads the id as people write it.
func ParseTxID(s string) (TxID, error) {
	var r, t TxID
	if err := decodeHex(r[:], s); err != nil {
		return t, fmt.Errorf("transaction id %q: %w", clip(s), err)
	}
	for i := range r {
		t[i] = r[len(r)-1-i]
	}
	return t, nil
}

// Outpoint is one output of a transaction.
type Outpoint struct {
	TxID  TxID
	Index uint32
}

func (o Outpoint) String() string { return fmt.Sprintf("%s:%d", o.TxID, o.Index) }

// IsZero reports that no outpoint is known yet.
func (o Outpoint) IsZero() bool { return o == Outpoint{} }

// ParseOutpoint reads "txid:index".
func ParseOutpoint(s string) (Outpoint, error) {
	id, index, ok := strings.Cut(s, ":")
	if !ok {
		return Outpoint{}, fmt.Errorf("outpoint %q: want TXID:INDEX", clip(s))
	}
	txid, err := ParseTxID(id)
	if err != nil {
		return Outpoint{}, err
	}
	n, err := strconv.ParseUint(index, 10, 32)
	if err != nil {
		return Outpoint{}, fmt.Errorf("outpoint %q: want TXID:INDEX", clip(s))
	}
	return Outpoint{TxID: txid, Index: uint32(n)}, nil
}

// MarshalText gives "txid:index"; the zero outpoint gives the empty text.
func (o Outpoint) MarshalText() ([]byte, error) {
	if o.IsZero() {
		return nil, nil
	}
	return []byte(o.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (o *Outpoint) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*o = Outpoint{}
		return nil
	}
	parsed, err := ParseOutpoint(string(b))
	if err != nil {
		return err
	}
	*o = parsed
	return nil
}

func decodeHex(dst []byte, s string) error {
	if len(s) != 2*len(dst) {
		return fmt.Errorf("want %d hex digits, have %d", 2*len(dst), len(s))
	}
	_, err := hex.Decode(dst, []byte(s))
	return err
}

// clip bounds what an error repeats of somebody's input.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
