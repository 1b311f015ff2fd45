package auth

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
)

func sampleChallenge() challenge {
	server, node := ln.PubKey{2, 1}, ln.PubKey{3, 9}
	return challenge{
		server: Server{NodeKey: server, ID: "d1"}, node: node, services: []string{"lsp", "swaps"},
		nonce: [16]byte{1, 2, 3}, expires: time.Unix(1_800_000_000, 0).UTC(),
	}
}

func TestChallengeTextIsAContract(t *testing.T) {
	require.Equal(t, `sluice login, version 1
server: 020100000000000000000000000000000000000000000000000000000000000000
server-id: d1
node: 030900000000000000000000000000000000000000000000000000000000000000
services: lsp,swaps
nonce: 01020300000000000000000000000000
expires: 1800000000`, sampleChallenge().String())
}

func TestChallengeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := sampleChallenge()
		c.server.ID = rapid.StringMatching(`[a-z0-9-]{1,40}`).Draw(t, "id")
		c.services = rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,8}`), 0, 5).Draw(t, "services")
		if c.services == nil {
			c.services = []string{}
		}
		copy(c.nonce[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "nonce"))
		c.expires = time.Unix(rapid.Int64Range(1, 1<<40).Draw(t, "expires"), 0).UTC()
		got, err := parseChallenge(c.String())
		require.NoError(t, err)
		require.Equal(t, c, got)
	})
}

func TestClientRefusesToSign(t *testing.T) {
	want := sampleChallenge()
	now := want.expires.Add(-time.Minute)
	require.NoError(t, want.checkForSigning(want.server, want.node, nil, now))
	require.NoError(t, want.checkForSigning(Server{NodeKey: want.server.NodeKey}, want.node, []string{"swaps", "lsp", "x"}, now))
	for _, wrong := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		require.NoError(t, want.checkForSigning(want.server, want.node, nil, now.Add(wrong)), "a clock that is wrong by %s", wrong)
	}
	for name, err := range map[string]error{
		"relayed from another gateway": want.checkForSigning(Server{NodeKey: ln.PubKey{2, 2}}, want.node, nil, now),
		"another deployment":           want.checkForSigning(Server{NodeKey: want.server.NodeKey, ID: "d2"}, want.node, nil, now),
		"another node":                 want.checkForSigning(want.server, ln.PubKey{2, 3}, nil, now),
		"expired":                      want.checkForSigning(want.server, want.node, nil, want.expires.Add(clockSkew)),
		"far future":                   want.checkForSigning(want.server, want.node, nil, want.expires.Add(-clockSkew-time.Hour)),
		"more services":                want.checkForSigning(want.server, want.node, []string{"lsp"}, now),
	} {
		require.Error(t, err, name)
	}
}

func TestLimitersAreBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := newLimiters(Rate{PerSecond: 1, Burst: 2}, 100)
	require.True(t, l.allow("a", now))
	require.True(t, l.allow("a", now))
	require.False(t, l.allow("a", now))
	require.True(t, l.allow("b", now), "others are not affected")
	require.True(t, l.allow("a", now.Add(time.Second)))
	for i := range 10_000 {
		l.allow(strings.Repeat("x", i%7)+string(rune(i)), now)
	}
	require.LessOrEqual(t, len(l.byKey), 100)
	require.Equal(t, len(l.byKey), l.order.Len())
}

func TestUsedNoncesAreBoundedAndForgotten(t *testing.T) {
	u := usedNonces{until: map[[16]byte]time.Time{}}
	now := time.Unix(1_800_000_000, 0)
	nonce := func(i int) (n [16]byte) {
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
		copy(n[:], sum[:])
		return n
	}
	for i := range maxUsedNonces {
		require.NoError(t, u.use(nonce(i), now.Add(time.Minute), now))
	}
	require.Error(t, u.use(nonce(maxUsedNonces), now.Add(time.Minute), now), "full: refuse, never forget early")
	later := now.Add(time.Minute)
	require.NoError(t, u.use(nonce(maxUsedNonces), later.Add(time.Minute), later))
	require.Len(t, u.until, 1)
}

func FuzzParseChallenge(f *testing.F) {
	f.Add(sampleChallenge().String())
	f.Add("")
	f.Add(challengeTitle + "\n\n\n\n\n\n")
	f.Add(strings.Replace(sampleChallenge().String(), "0102030", "010203000000000000000000000000000000000", 1))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseChallenge(text)
		if err == nil {
			require.Equal(t, text, c.String(), "only the canonical form is accepted")
		}
	})
}

func FuzzParseCaveats(f *testing.F) {
	f.Add("kind wallet\nnode 02\nservices a\nexpires 1")
	f.Add("kind operator\nmethods /a/b")
	f.Fuzz(func(t *testing.T, text string) {
		conditions := strings.Split(text, "\n")
		first, err := parseCaveats(conditions)
		if err != nil {
			return
		}
		// One more services caveat can only narrow.
		second, err := parseCaveats(append(conditions, "services a,b"))
		require.NoError(t, err)
		for _, s := range []string{"a", "b", "c"} {
			require.False(t, second.identity.Allows(s) && !first.identity.Allows(s))
		}
	})
}
