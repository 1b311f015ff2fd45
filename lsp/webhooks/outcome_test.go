package webhooks

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// What a webhook's server answers is somebody else's words: whatever they are, the
// attempt is written down, or it would be made again every second.
func TestAnyOutcomeIsWrittenDown(t *testing.T) {
	for name, words := range map[string]string{
		"cut in a character": strings.Repeat("x", maxOutcome-1) + "ü", "a zero byte": "malformed\x00answer", "no text": "\xff\xfe",
	} {
		t.Run(name, func(t *testing.T) {
			eachDB(t, DefaultConfig(), func(t *testing.T, x *fixture) {
				x.w.answer["a.example"] = func(call) (int, error) { return 0, errors.New(words) }
				x.mustSet(alice(), "one", "a.example")
				require.Len(t, x.work(), 1, "it is not called again before its pause is over")
				rows, err := x.Notifications(t.Context(), alice(), "", 10)
				require.NoError(t, err)
				require.EqualValues(t, 1, rows[0].Attempts)
				require.True(t, utf8.ValidString(rows[0].Outcome))
				require.NotContains(t, rows[0].Outcome, "\x00")
			})
		})
	}
}
