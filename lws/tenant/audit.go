package tenant

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"
)

// Entry is one line of the log of changes. Each names the hash of the one before
// it, and all of it is under its own.
type Entry struct {
	Seq int64
	At  time.Time
	// Actor is who did it: operator, or tenant/<id>/<user>.
	Actor string
	// Tenant is whom it is about; empty for plans.
	Tenant string
	Action string
	// Detail is JSON with sorted keys, stored and hashed as it stands.
	Detail string
	Prev   [32]byte
	Hash   [32]byte
}

// hashTag keeps this hash from meaning anything elsewhere.
const hashTag = "sluice/tenant/audit/1"

func (e Entry) digest() [32]byte {
	h := sha256.New()
	field := func(b []byte) {
		// The length before each field: no two entries have the same bytes.
		_ = binary.Write(h, binary.BigEndian, uint64(len(b)))
		h.Write(b)
	}
	field([]byte(hashTag))
	_ = binary.Write(h, binary.BigEndian, e.Seq)
	_ = binary.Write(h, binary.BigEndian, e.At.UnixMilli())
	for _, s := range []string{e.Actor, e.Tenant, e.Action, e.Detail} {
		field([]byte(s))
	}
	h.Write(e.Prev[:])
	return [32]byte(h.Sum(nil))
}

// Head is the end of the log: the last entry's number and hash; zero when empty.
type Head struct {
	Seq  int64
	Hash [32]byte
}

// Append makes the entry that follows a head.
func (h Head) Append(at time.Time, actor, tenant string, n Note) (Entry, error) {
	detail := n.Detail
	if detail == nil {
		detail = map[string]string{}
	}
	text, err := json.Marshal(detail)
	if err != nil {
		return Entry{}, fmt.Errorf("audit entry: %w", err)
	}
	e := Entry{Seq: h.Seq + 1, At: at.Truncate(time.Millisecond), Actor: actor, Tenant: tenant, Action: n.Action, Detail: string(text), Prev: h.Hash}
	e.Hash = e.digest()
	return e, nil
}

// Chain verifies a log, entry by entry in the order of their numbers, against
// anchors: heads that were noted elsewhere while the log was written. Without an
// anchor whoever can write the database can write the whole log anew, or cut off
// its end.
type Chain struct {
	head     Head
	anchors  map[int64][32]byte
	problems []string
}

// NewChain begins at the first entry.
func NewChain(anchors []Head) *Chain {
	c := &Chain{anchors: make(map[int64][32]byte, len(anchors))}
	for _, a := range anchors {
		if known, twice := c.anchors[a.Seq]; twice && known != a.Hash {
			c.problem("entry %d was noted outside the database with two hashes: the log was written again from there on", a.Seq)
		}
		c.anchors[a.Seq] = a.Hash
	}
	return c
}

// maxProblems bounds what is told: after the first the rest seldom matters.
const maxProblems = 20

func (c *Chain) problem(format string, args ...any) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, fmt.Sprintf(format, args...))
	}
}

// Next takes the following entry. It goes on behind a broken one with what that
// one says, so that each break is told once.
func (c *Chain) Next(e Entry) {
	if e.Seq != c.head.Seq+1 {
		c.problem("entries %d to %d are missing", c.head.Seq+1, e.Seq-1)
	} else if !bytes.Equal(e.Prev[:], c.head.Hash[:]) {
		c.problem("entry %d does not follow entry %d: one of them was replaced", e.Seq, c.head.Seq)
	}
	if e.digest() != e.Hash {
		c.problem("entry %d was altered", e.Seq)
	}
	if noted, ok := c.anchors[e.Seq]; ok && noted != e.Hash {
		c.problem("entry %d is not the one whose hash was noted outside the database", e.Seq)
	}
	delete(c.anchors, e.Seq)
	c.head = Head{Seq: e.Seq, Hash: e.Hash}
}

// Problems are what is wrong, once every entry was taken; none is a whole log.
func (c *Chain) Problems() []string {
	var lost int64
	for seq := range c.anchors {
		if seq > c.head.Seq {
			lost = max(lost, seq)
		}
	}
	if lost > 0 {
		return append(c.problems[:len(c.problems):len(c.problems)], fmt.Sprintf("the log ends at entry %d, and entry %d was noted outside the database: its end was cut off, or the database is an older copy", c.head.Seq, lost))
	}
	return c.problems
}

// Head is the last entry that was taken.
func (c *Chain) Head() Head { return c.head }
