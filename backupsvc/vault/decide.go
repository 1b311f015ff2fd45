package vault

import (
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Account is an identity's present state, without its objects.
type Account struct {
	Identity Identity
	// Seq and Head are the log's last entry and its running hash.
	Seq  uint64
	Head Hash
	Usage
	// Own are limits that the operator set for this identity; zero sets none.
	Own Quota
	// Blocked identities read, and do not write.
	Blocked bool
}

// NewAccount is an identity's state before its first write.
func NewAccount(server ServerKey, id Identity) Account {
	return Account{Identity: id, Head: Genesis(server, id)}
}

// Held is what the store has under a key now.
type Held struct {
	Version int64
	Size    int64
	// Seq is the entry that wrote it, Created the one that inserted it.
	Seq     uint64
	Created uint64
}

// Change is one entry to store, with the running hash after it.
type Change struct {
	Entry Entry
	Head  Hash
	Value []byte
	// Created is the entry that inserted the object: lists are in its order.
	Created uint64
	// Replaced is the entry whose value this one makes history; zero if none.
	Replaced uint64
}

// Plan is what a write does.
type Plan struct {
	// Prev is the running hash before the first change.
	Prev    Hash
	Account Account
	Changes []Change
}

// Entries are the log entries of the changes.
func (p Plan) Entries() []Entry {
	out := make([]Entry, 0, len(p.Changes))
	for _, c := range p.Changes {
		out = append(out, c.Entry)
	}
	return out
}

// ErrConflict is in the chain of every refusal because of a version.
var ErrConflict = errkind.New(errkind.Conflict, "A version in the write is not the present one: read again, then write with the version that is there.")

// Decide makes the plan of a write from the present state, or refuses. held has
// the keys of w.Keys that exist. Conflicts come before quotas, so that a client
// whose view is old learns that first.
func Decide(acc Account, held map[string]Held, w Write, quota Quota, now time.Time) (Plan, error) {
	if err := w.Check(); err != nil {
		return Plan{}, err
	}
	if acc.Blocked {
		return Plan{}, errkind.New(errkind.Denied, "The operator stopped writes of this identity; what is stored can be read: ask the operator.")
	}
	quota = quota.With(acc.Own)
	before := acc.On(now)
	p := Plan{Prev: acc.Head, Account: acc}
	p.Account.Usage = before
	for _, item := range w.puts() {
		have, exists := held[item.Key]
		version, err := putVersion(item, have, exists)
		if err != nil {
			return Plan{}, err
		}
		size := int64(len(item.Value))
		if size > quota.ObjectBytes {
			return Plan{}, errkind.Wrap(errkind.Exhausted, ErrQuota, fmt.Sprintf("A value may have %d bytes, this one has %d: split it, or ask the operator for more.", quota.ObjectBytes, size))
		}
		c := p.add(Entry{Op: OpPut, Store: w.Store, Key: item.Key, Version: version, Content: ContentHash(item.Value), Size: size}, now)
		c.Value, c.Created = item.Value, c.Entry.Seq
		if exists {
			c.Created, c.Replaced = have.Created, have.Seq
			p.retire(have)
		}
		p.Account.Objects++
		p.Account.Bytes += size
		p.Account.DayBytes += size
	}
	for _, item := range w.Deletes {
		have, exists := held[item.Key]
		if !exists || item.Version != Unconditional && item.Version != have.Version {
			if w.Idempotent {
				continue
			}
			return Plan{}, ErrConflict
		}
		c := p.add(Entry{Op: OpDelete, Store: w.Store, Key: item.Key, Version: have.Version}, now)
		c.Replaced = have.Seq
		p.retire(have)
	}
	if err := quota.admits(before, p.Account.Usage); err != nil {
		return Plan{}, err
	}
	return p, nil
}

// putVersion is the version after a put.
func putVersion(item Item, have Held, exists bool) (int64, error) {
	switch {
	case item.Version == Unconditional:
		return FirstVersion, nil
	case item.Version == Absent && !exists:
		return FirstVersion, nil
	case item.Version != Absent && exists && item.Version == have.Version:
		return have.Version + 1, nil
	}
	return 0, ErrConflict
}

func (p *Plan) add(e Entry, now time.Time) *Change {
	p.Account.Seq++
	p.Account.DayWrites++
	e.Seq, e.AtMs = p.Account.Seq, now.UnixMilli()
	p.Account.Head = Extend(p.Account.Head, e)
	p.Changes = append(p.Changes, Change{Entry: e, Head: p.Account.Head})
	return &p.Changes[len(p.Changes)-1]
}

// retire moves a value from the present to history.
func (p *Plan) retire(have Held) {
	p.Account.Objects--
	p.Account.Bytes -= have.Size
	p.Account.HistoryBytes += have.Size
}
