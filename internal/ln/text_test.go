package ln

import (
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestClip(t *testing.T) {
	require.Equal(t, "wallet", Clip("wallet", 6))
	require.Equal(t, "wall", Clip("wallet", 4))
	require.Equal(t, "ab", Clip("ab€", 4))
	require.Equal(t, "ab", Clip("a\xff\x00b", 200))
	rapid.Check(t, func(t *rapid.T) {
		s, most := rapid.String().Draw(t, "text"), rapid.IntRange(0, 40).Draw(t, "most")
		got := Clip(s, most)
		require.True(t, utf8.ValidString(got))
		require.LessOrEqual(t, len(got), most)
	})
}
