package l402

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/macaroon.v2"
)

func paid(t *testing.T, raw []byte, conditions ...string) string {
	t.Helper()
	var mac macaroon.Macaroon
	require.NoError(t, mac.UnmarshalBinary(raw))
	for _, c := range conditions {
		require.NoError(t, mac.AddFirstPartyCaveat([]byte(c)))
	}
	out, err := mac.MarshalBinary()
	require.NoError(t, err)
	return hex.EncodeToString(out)
}

func TestTokens(t *testing.T) {
	m, other := New([32]byte{1}), New([32]byte{2})
	id := ID{9}
	raw, err := m.Mint(id)
	require.NoError(t, err)
	preimage := "preimage=" + hex.EncodeToString(m.Preimage(id).Bytes())
	good := paid(t, raw, preimage)
	got, err := m.Verify(good)
	require.NoError(t, err)
	require.Equal(t, id, got)
	// The library compares signatures of what was altered in constant time; here is that
	// each byte counts.
	binary, err := hex.DecodeString(good)
	require.NoError(t, err)
	for i := range binary {
		altered := append([]byte(nil), binary...)
		altered[i] ^= 1
		_, err := m.Verify(hex.EncodeToString(altered))
		require.ErrorIs(t, err, ErrToken, "byte %d", i)
	}
	foreign, err := other.Mint(id)
	require.NoError(t, err)
	for name, text := range map[string]string{
		"nobody paid":         paid(t, raw),
		"another preimage":    paid(t, raw, "preimage="+hex.EncodeToString(other.Preimage(id).Bytes())),
		"two preimages":       paid(t, raw, preimage, "preimage=00"),
		"half a preimage":     paid(t, raw, preimage[:40]),
		"an unknown rule":     paid(t, raw, preimage, "valid_until=0"),
		"of another server":   paid(t, foreign, "preimage="+hex.EncodeToString(other.Preimage(id).Bytes())),
		"more after the end":  good + "00",
		"nothing":             "",
		"no hexadecimal":      "zz",
		"longer than a token": good + fmt.Sprintf("%02000d", 0),
	} {
		_, err := m.Verify(text)
		require.ErrorIs(t, err, ErrToken, name)
	}
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", m, m, m), "1")
	// What stock clients read.
	require.Regexp(t, regexp.MustCompile(`^L402 macaroon="[A-Za-z0-9+/=]+", invoice="lnbc1"$`), Challenge(raw, "lnbc1"))
}
