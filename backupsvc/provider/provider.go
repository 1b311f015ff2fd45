// Package provider stores sealed objects at places of several kinds: a gateway
// of ours, a VSS server, a directory, and S3-like object storage.
//
// It promises that a put is durable at its place when it returns nil, as far as
// the place's own word goes; that it replaces only the version that the caller
// knows; that after any other error the caller must read before it writes again;
// and that nothing a place answers can take more memory than an object may.
package provider

import (
	"context"

	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// maxObject bounds what is read: a payload with its header and padding.
const maxObject = seal.MaxSize + 16<<20

// Object is what a place has under an id. Version is the place's own word for
// it, which a put must name.
type Object struct {
	Value   []byte
	Version string
}

// Absent is the version of what is not there.
const Absent = ""

// Stored says that a put is durable.
type Stored struct {
	Version string
	// Receipt is the place's signed word, nil where it gives none.
	Receipt *vault.Receipt
}

// Place is one provider. Its methods may be used concurrently, and each bounds
// its own time by ctx only.
type Place interface {
	// Get reads an object; errkind.NotFound says that nothing is there, and
	// nothing else says so.
	Get(ctx context.Context, id string) (Object, error)
	// Put writes if known is the version that is there, Absent for none, and is
	// errkind.Conflict if not.
	Put(ctx context.Context, id, known string, value []byte) (Stored, error)
	Close() error
}

// Proof is what a place that gives receipts says of its log now.
type Proof struct {
	// Shown is signed over a nonce that was drawn for this call.
	Shown vault.SignedHead
	// Entries lead from the head that the caller knows to the shown one, as far
	// as the place has them.
	Entries []vault.Entry
	// Binding is the node's signature of the key that signs, verified; empty if
	// the node gave none.
	Binding string
}

// Contradicts says that what was got under an id is not what the log ends with;
// value is nil if nothing was there. A log that is not shown whole is judged by the
// entries after a point of it that is known.
func (p Proof) Contradicts(known *vault.Head, id string, value []byte) bool {
	seq, at := uint64(0), vault.Genesis(p.Shown.Server, p.Shown.Identity)
	if known != nil {
		seq, at = known.Seq, known.Hash
	}
	content, there, told, err := vault.Present(seq, at, p.Entries, p.Shown.Head, Store, id)
	if err != nil || !told {
		return false // it is trimmed, or it is the log that is judged
	}
	return there != (value != nil) || there && content != vault.ContentHash(value)
}

// Attested is a place that signs what it holds.
type Attested interface {
	Place
	// Prove asks where the log stands. after is the entry that the caller knows.
	Prove(ctx context.Context, after uint64) (Proof, error)
	// Binding is the proof that the key of its receipts is its node's.
	Binding(ctx context.Context) (vault.ServerKey, string, error)
}

func errNothing(id string) error {
	return errkind.Newf(errkind.NotFound, "there is nothing under %s", id)
}

func errChanged() error {
	return errkind.New(errkind.Conflict, "what is stored is not the version that was known: read it first")
}
