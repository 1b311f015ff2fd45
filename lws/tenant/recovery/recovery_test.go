package recovery_test

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnwallet"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant/recovery"
)

func key(t require.TestingT, n byte) (*btcec.PublicKey, ln.PubKey) {
	sum := sha256.Sum256([]byte{n})
	_, public := btcec.PrivKeyFromBytes(sum[:])
	out, err := ln.PubKeyFromBytes(public.SerializeCompressed())
	require.NoError(t, err)
	return public, out
}

// witness is what lnd makes of a state's number.
func witness(t require.TestingT, number uint64, tx string) *recovery.Witness {
	opener, _ := key(t, 1)
	other, _ := key(t, 2)
	commitment := wire.NewMsgTx(2)
	commitment.AddTxIn(wire.NewTxIn(&wire.OutPoint{}, nil, nil))
	require.NoError(t, lnwallet.SetStateNumHint(commitment, number, lnwallet.DeriveStateHintObfuscator(opener, other)))
	return &recovery.Witness{Tx: tx, LockTime: commitment.LockTime, Sequence: commitment.TxIn[0].Sequence}
}

func channel(t require.TestingT, remote uint64) recovery.Channel {
	_, opener := key(t, 1)
	_, other := key(t, 2)
	return recovery.Channel{Point: "aa:0", Opener: opener, Other: other, Remote: remote, RemoteTx: "tip", Local: remote, LocalTx: "own"}
}

// TestNumbers: a state's number is read as lnd reads it.
func TestNumbers(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.Uint64Range(0, 1<<48-1).Draw(r, "number")
		c := channel(r, 0)
		require.Equal(r, n, witness(r, n, "").Number(c.Opener, c.Other))
	})
}

func TestJudge(t *testing.T) {
	proven, not := recovery.Replication{Proven: true}, recovery.Replication{Said: "it was asynchronous"}
	for _, row := range []struct {
		name    string
		witness *recovery.Witness
		r       recovery.Replication
		want    recovery.Verdict
		said    string
	}{
		{"the last state is there", witness(t, 7, "tip"), proven, recovery.Fresh, "is in the copy"},
		{"nothing proves the peer's own states", witness(t, 7, "tip"), not, recovery.Unproven, "it was asynchronous"},
		{"signed and not sent", witness(t, 8, "next"), proven, recovery.Fresh, "never sent"},
		{"signed, and perhaps sent", witness(t, 8, "next"), not, recovery.Stale, "has signed state 8, and the copy ends with 7"},
		{"two states are missing", witness(t, 9, "later"), proven, recovery.Stale, "has signed state 9"},
		{"another history", witness(t, 7, "else"), proven, recovery.Stale, "another history"},
		{"the guard's file is older", witness(t, 3, "old"), proven, recovery.Fresh, "newer than what the guard noted"},
		{"the guard's file is older, and no proof", witness(t, 3, "old"), not, recovery.Unproven, "asynchronous"},
		{"its closing was signed", witness(t, 7, "own"), proven, recovery.Fresh, "its closing"},
		{"its closing was signed, and no proof", witness(t, 7, "own"), not, recovery.Unproven, "asynchronous"},
		{"no guard", nil, proven, recovery.Unproven, "no guard"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := recovery.Judge(channel(t, 7), row.witness, row.r)
			require.Equal(t, row.want, got.Verdict, got.Said)
			require.Contains(t, got.Said, row.said)
		})
	}
}

// TestNeverFreshWithoutProof: whatever the numbers are, a state that may have been sent
// and is missing is stale, and nothing is fresh without both halves of the proof.
func TestNeverFreshWithoutProof(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		have, signed := rapid.Uint64Range(0, 20).Draw(r, "have"), rapid.Uint64Range(0, 20).Draw(r, "signed")
		proven := rapid.Bool().Draw(r, "proven")
		same := rapid.Bool().Draw(r, "same")
		tx := "tip"
		if !same {
			tx = "another"
		}
		got := recovery.Judge(channel(r, have), witness(r, signed, tx), recovery.Replication{Proven: proven})
		if signed > have+1 || (signed == have+1 && !proven) || (signed == have && !same) {
			require.Equal(r, recovery.Stale, got.Verdict)
			return
		}
		require.Equal(r, proven, got.Verdict == recovery.Fresh)
	})
}

func TestSynchronous(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMilli()
	seen := recovery.Sighting{System: "7", AtMs: at, Synchronous: true, Position: 100, SinceMs: at - 1000}
	whole := recovery.Copy{System: "7", Replica: true, Position: 120, LastMs: at + 1000}
	require.True(t, recovery.Synchronous(&seen, whole).Proven)
	require.False(t, recovery.Synchronous(nil, whole).Proven)
	for name, spoil := range map[string]func(*recovery.Sighting, *recovery.Copy){
		"of another database":        func(_ *recovery.Sighting, c *recovery.Copy) { c.System = "8" },
		"was promoted already":       func(_ *recovery.Sighting, c *recovery.Copy) { c.Replica = false },
		"still sends":                func(_ *recovery.Sighting, c *recovery.Copy) { c.Following = true },
		"not synchronous: a setting": func(s *recovery.Sighting, _ *recovery.Copy) { s.Synchronous, s.Said = false, "a setting" },
		"is older than the one":      func(_ *recovery.Sighting, c *recovery.Copy) { c.Position = 99 },
		"not watched for 2m1s":       func(_ *recovery.Sighting, c *recovery.Copy) { c.LastMs = at + 121_000 },
	} {
		s, c := seen, whole
		spoil(&s, &c)
		got := recovery.Synchronous(&s, c)
		require.False(t, got.Proven, name)
		require.Contains(t, got.Said, name)
	}
}

// TestSince: one look at which it was not synchronous begins the time anew.
func TestSince(t *testing.T) {
	var last *recovery.Sighting
	look := func(at int64, sync bool) int64 {
		n := last.Next(recovery.Sighting{System: "7", AtMs: at, Synchronous: sync})
		last = &n
		return n.SinceMs
	}
	require.Equal(t, int64(5), look(5, true))
	require.Equal(t, int64(5), look(9, true))
	require.Zero(t, look(10, false))
	require.Equal(t, int64(12), look(12, true))
}
