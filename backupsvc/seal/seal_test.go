package seal_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/internal/ln"
)

func node(t testing.TB) ln.PubKey {
	t.Helper()
	k, err := ln.ParsePubKey("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
	require.NoError(t, err)
	return k
}

func ofSeed(t testing.TB, b byte) seal.Secret {
	t.Helper()
	s, err := seal.OfSeed("regtest", [32]byte(bytes.Repeat([]byte{b}, 32)))
	require.NoError(t, err)
	return s
}

func header() seal.Header {
	return seal.Header{Name: "channels", Number: 3, MadeMs: 1772366400000, Node: "02ab", Device: "d1", Channels: []string{"aa:0"}}
}

// The vectors of docs/backups.md.
func TestVectors(t *testing.T) {
	require.Equal(t, vectorPoint, seal.SeedPoint().String())
	s := ofSeed(t, 7)
	require.Equal(t, vectorKeyFile, s.Encode())
	id, err := s.ID("channels")
	require.NoError(t, err)
	require.Equal(t, vectorID, id)
	place, err := s.Place()
	require.NoError(t, err)
	require.Equal(t, vectorPlace, place)
	key, err := s.AuthKey()
	require.NoError(t, err)
	require.Equal(t, vectorAuth, hex.EncodeToString(key.PubKey().SerializeCompressed()))
	p, err := seal.OfPassphrase("regtest", node(t), []byte("correct horse battery staple"))
	require.NoError(t, err)
	require.Equal(t, vectorPassphrase, p.Encode())

	file, err := s.Seal(bytes.NewReader(make([]byte, 24)), header(), []byte("payload"))
	require.NoError(t, err)
	sum := sha(file)
	require.Equal(t, vectorSealed, sum)
	require.Equal(t, vectorBegin, hex.EncodeToString(file[:74]))
}

func TestOpens(t *testing.T) {
	s := ofSeed(t, 1)
	for _, size := range []int{0, 1, 4000, 5000, 100_000} {
		payload := make([]byte, size)
		_, _ = rand.Read(payload)
		file, err := s.Seal(rand.Reader, header(), payload)
		require.NoError(t, err)
		h, got, err := s.Open("channels", file)
		require.NoError(t, err)
		require.Equal(t, payload, append(make([]byte, 0), got...))
		require.EqualValues(t, 3, h.Number)
		require.Equal(t, "regtest", h.Network)
		require.Zero(t, (len(file)-34-16)%4096, "sizes are padded")
	}
}

func TestWhatDoesNotOpen(t *testing.T) {
	s := ofSeed(t, 1)
	file, err := s.Seal(rand.Reader, header(), []byte("payload"))
	require.NoError(t, err)
	_, _, err = s.Open("other", file)
	require.ErrorIs(t, err, seal.ErrSealed, "another thing in its place")
	_, _, err = ofSeed(t, 2).Open("channels", file)
	require.ErrorIs(t, err, seal.ErrSealed, "another's")
	main, err := seal.OfSeed("mainnet", [32]byte(bytes.Repeat([]byte{1}, 32)))
	require.NoError(t, err)
	_, _, err = main.Open("channels", file)
	require.ErrorIs(t, err, seal.ErrSealed, "another network")
	p, err := seal.OfPassphrase("regtest", node(t), []byte(strings.Repeat("p", 16)))
	require.NoError(t, err)
	_, _, err = p.Open("channels", file)
	require.ErrorContains(t, err, "secret of a seed", "it says what is needed")
	for i := range file[:120] {
		bad := bytes.Clone(file)
		bad[i] ^= 1
		_, _, err := s.Open("channels", bad)
		require.ErrorIs(t, err, seal.ErrSealed, "byte %d", i)
	}
	for n := range len(file) {
		_, _, err := s.Open("channels", file[:n])
		require.ErrorIs(t, err, seal.ErrSealed, "cut to %d", n)
	}
	_, err = s.Seal(rand.Reader, header(), make([]byte, seal.MaxSize+1))
	require.Error(t, err)
	_, err = seal.Secret{}.Seal(rand.Reader, header(), nil)
	require.Error(t, err, "no secret, no seal")
}

func TestSecrets(t *testing.T) {
	_, err := seal.OfPassphrase("regtest", node(t), []byte("too short"))
	require.ErrorContains(t, err, "at least 16")
	s := ofSeed(t, 1)
	back, err := seal.DecodeSecret(s.Encode())
	require.NoError(t, err)
	require.True(t, s.Same(back))
	require.False(t, s.Same(ofSeed(t, 2)))
	require.NotContains(t, s.String(), s.Encode()[40:60])
	for _, bad := range []string{"", "x", s.Encode()[:60], s.Encode() + "more", strings.Replace(s.Encode(), "seed", "seat", 1), strings.Repeat("0", 200)} {
		_, err := seal.DecodeSecret(bad)
		require.Error(t, err, bad)
	}
	// The generator in the place of the point would give the public key away.
	require.NotEqual(t, node(t), seal.SeedPoint())
}

func FuzzOpen(f *testing.F) {
	s := ofSeed(f, 1)
	file, err := s.Seal(bytes.NewReader(make([]byte, 24)), header(), []byte("payload"))
	require.NoError(f, err)
	f.Add(file)
	f.Add([]byte("SLUICEBK"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, _, err := s.Open("channels", raw)
		if err == nil && (h.Name != "channels" || !bytes.Equal(raw, file)) {
			t.Fatal("something else opened")
		}
	})
}

func FuzzDecodeSecret(f *testing.F) {
	f.Add(ofSeed(f, 1).Encode())
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := seal.DecodeSecret(text); err == nil && s.Encode() != text {
			t.Fatal("two texts of one key")
		}
	})
}
