package ln

import "strings"

// Clip bounds somebody else's words, which go into databases and messages:
// neither takes a character cut in half, and PostgreSQL no zero byte.
func Clip(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
}
