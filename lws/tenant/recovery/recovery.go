// Package recovery decides whether a tenant's copy of its node's database may be used to
// close channels, when operator and gateway are gone.
//
// A channel's old state is worth less than nothing: who publishes it loses the channel's
// money to the peer. So the copy needs a proof that no later state was ever given away.
// Two things make it together. The copy followed the node's database synchronously: lnd
// heard that something was stored only once it was stored at the tenant as well, and tells
// its peer only what it has stored. And the guard before the signer has noted the last
// state of each channel that it let the signer sign: none of them is missing in the copy.
//
// It promises that a channel is called fresh only with both; and that a copy in which a
// signed state is missing is never called anything but stale.
//
// Neither alone suffices. The setting of a database is the operator's word. And a state
// that the peer began is acknowledged, which makes the one before worth a penalty, without
// the signer.
package recovery

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Channel is one channel as the copy has it.
type Channel struct {
	// Point is the funding output, txid:index.
	Point string
	Peer  ln.PubKey
	// Opener and Other are the payment basepoints of who opened it and of the other side:
	// they hide the numbers of states.
	Opener, Other ln.PubKey
	// Local is the number of the own commitment, which a force-close publishes, LocalTx the
	// transaction.
	Local   uint64
	LocalTx string
	// Remote is the number of the peer's last commitment that was signed, RemoteTx its
	// transaction, in hex.
	Remote   uint64
	RemoteTx string
	// LocalSat is the own balance, HTLCs are those in it.
	LocalSat int64
	HTLCs    int
	// Closing says that lnd was closing it already.
	Closing bool
}

// Witness is the last state of a channel that the guard let the signer sign.
type Witness struct {
	Tx                 string
	LockTime, Sequence uint32
}

// Number is that of the state, which the channel's keys reveal (BOLT 3).
func (w Witness) Number(opener, other ln.PubKey) uint64 {
	sum := sha256.Sum256(append(append([]byte{}, opener[:]...), other[:]...))
	var mask [8]byte
	copy(mask[2:], sum[26:])
	const low = 0xffffff
	return (uint64(w.Sequence&low)<<24 | uint64(w.LockTime&low)) ^ binary.BigEndian.Uint64(mask[:])
}

// Verdict is what may be done with a channel. The words stand in JSON.
type Verdict string

// The verdicts.
const (
	// Fresh: nothing later was given away. It may be closed with the copy.
	Fresh Verdict = "fresh"
	// Unproven: nothing shows that it is old, and something is missing in the proof.
	Unproven Verdict = "unproven"
	// Stale: a later state was signed. Closing with it loses the channel's money.
	Stale Verdict = "stale"
)

// Judged is a channel with its verdict.
type Judged struct {
	Channel
	Verdict Verdict
	Said    string
}

// Judge decides about each channel. witness is nil for a channel of which the guard has
// noted nothing.
func Judge(c Channel, witness *Witness, r Replication) Judged {
	out := Judged{Channel: c}
	say := func(v Verdict, format string, args ...any) Judged {
		out.Verdict, out.Said = v, fmt.Sprintf(format, args...)
		return out
	}
	if witness == nil {
		return say(Unproven, "no guard has noted a state of this channel")
	}
	if witness.Tx == c.LocalTx {
		// A force-close has the own commitment signed; nothing is signed after it.
		if !r.Proven {
			return say(Unproven, "%s", r.Said)
		}
		return say(Fresh, "the signer has signed its closing with the state of the copy")
	}
	signed := witness.Number(c.Opener, c.Other)
	switch {
	case signed > c.Remote+1, signed == c.Remote+1 && !r.Proven:
		return say(Stale, "the signer has signed state %d, and the copy ends with %d", signed, c.Remote)
	case signed == c.Remote && witness.Tx != c.RemoteTx:
		return say(Stale, "the signer has signed another state %d than the copy has: it is of another history", signed)
	case !r.Proven:
		return say(Unproven, "%s", r.Said)
	case signed == c.Remote+1:
		// lnd stores what it has signed before it sends it, and what it stored is here.
		return say(Fresh, "state %d was signed and never sent: %d counts", signed, c.Remote)
	case signed < c.Remote:
		return say(Fresh, "the copy is newer than what the guard noted")
	}
	return say(Fresh, "the last state that was signed is in the copy")
}

// Sighting is how the replication stood when the tenant last looked. The words stand in
// its file.
type Sighting struct {
	// System is the identity of the database cluster.
	System string `json:"system_identifier"`
	// Slot is the replica's own name at the operator.
	Slot string `json:"slot"`
	// AtMs is the time at the operator's database, SeenMs the one here.
	AtMs   int64 `json:"primary_time_ms"`
	SeenMs int64 `json:"seen_ms"`
	// Synchronous: every commit of the node waited for this replica.
	Synchronous bool   `json:"synchronous"`
	Said        string `json:"said,omitempty"`
	// Position is how far the replica was known to have come, in bytes of the log.
	Position uint64 `json:"position"`
	// SinceMs is since when it was synchronous at every look.
	SinceMs int64 `json:"synchronous_since_ms,omitempty"`
}

// Copy is the replica, as it stands.
type Copy struct {
	System string
	// Replica says that it only follows: it was not promoted, and nobody wrote to it.
	Replica bool
	// Following says that the operator's database still sends.
	Following bool
	// Position is how far it has come, LastMs when its last transaction was committed.
	Position uint64
	LastMs   int64
}

// Replication is what the two come to.
type Replication struct {
	Proven bool
	Said   string
}

// MaxUnwatched is how long before the copy's end the replication must have been looked at.
const MaxUnwatched = 2 * time.Minute

// Synchronous decides whether everything that the node gave away is in the copy.
func Synchronous(s *Sighting, c Copy) Replication {
	no := func(format string, args ...any) Replication { return Replication{Said: fmt.Sprintf(format, args...)} }
	switch {
	case s == nil:
		return no("nobody watched the replication: sluicectl signer replica watch")
	case s.System != c.System:
		return no("this copy is of another database than the one that was watched")
	case !c.Replica:
		return no("this copy was promoted already: it can be written to, and what was proven before counts")
	case c.Following:
		return no("the operator's database still sends: the copy can be old at any moment. Stop it, or revoke the signer's macaroon and cut the connection")
	case !s.Synchronous:
		return no("when it was last looked at, the replication was not synchronous: %s", s.Said)
	case c.Position < s.Position:
		return no("this copy is older than the one that was watched: it ends at %d, and that one had come to %d", c.Position, s.Position)
	case c.LastMs > s.AtMs+MaxUnwatched.Milliseconds():
		return no("the replication was not watched for %s before the copy's end", (time.Duration(c.LastMs-s.AtMs) * time.Millisecond).Round(time.Second))
	}
	return Replication{Proven: true, Said: "synchronous since " + time.UnixMilli(s.SinceMs).UTC().Format(time.RFC3339) + ", to the copy's end"}
}

// Next is the sighting that follows.
func (s *Sighting) Next(n Sighting) Sighting {
	n.SinceMs = n.AtMs
	if !n.Synchronous {
		n.SinceMs = 0
	} else if s != nil && s.Synchronous && s.System == n.System && s.SinceMs != 0 {
		n.SinceMs = s.SinceMs
	}
	return n
}
