package vault

import (
	"crypto/sha256"
	"encoding/binary"
)

// Op is what an entry did.
type Op string

// The operations, and the byte that stands for each in hashes.
const (
	OpPut    Op = "put"
	OpDelete Op = "delete"
)

func (o Op) code() byte {
	if o == OpDelete {
		return 2
	}
	return 1
}

// Entry is one change in an identity's log.
type Entry struct {
	// Seq counts an identity's entries from 1, without gaps.
	Seq   uint64
	Op    Op
	Store string
	Key   string
	// Version is the one after a put, or the one that was deleted. Versions
	// repeat: after a delete, and after an unconditional put, they begin at 1 again.
	// Seq does not.
	Version int64
	// Content is the SHA-256 of the value; zero for a delete.
	Content Hash
	Size    int64
	AtMs    int64
}

// Tags of BIP 340's tagged hashes, one per meaning.
const (
	tagLog     = "sluice/vault/log/1"
	tagEntry   = "sluice/vault/entry/1"
	tagReceipt = "sluice/vault/receipt/1"
	tagHead    = "sluice/vault/head/1"
)

func tagged(tag string, msg []byte) Hash {
	t := sha256.Sum256([]byte(tag))
	buf := make([]byte, 0, 2*len(t)+len(msg))
	buf = append(append(append(buf, t[:]...), t[:]...), msg...)
	return sha256.Sum256(buf)
}

// appendText writes a text's length in two bytes, then the text. The limits
// on identities, stores and keys (600 characters of at most 4 bytes) fit.
func appendText(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s))) //nolint:gosec // bounded by Check
	return append(b, s...)
}

// Genesis is the running hash of a log without entries. It names server and
// identity, so that no part of one log fits into another.
func Genesis(server ServerKey, id Identity) Hash {
	return tagged(tagLog, appendText(append([]byte(nil), server[:]...), string(id)))
}

// Extend is the running hash after one more entry.
func Extend(prev Hash, e Entry) Hash {
	b := make([]byte, 0, 32+8+1+2+len(e.Store)+2+len(e.Key)+8+32+8+8)
	b = append(b, prev[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Seq)
	b = append(b, e.Op.code())
	b = appendText(b, e.Store)
	b = appendText(b, e.Key)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Version)) //nolint:gosec // two's complement, as the format says
	b = append(b, e.Content[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Size)) //nolint:gosec // never negative
	b = binary.BigEndian.AppendUint64(b, uint64(e.AtMs)) //nolint:gosec // two's complement, as the format says
	return tagged(tagEntry, b)
}

// ContentHash is what an entry says of a value.
func ContentHash(value []byte) Hash { return sha256.Sum256(value) }
