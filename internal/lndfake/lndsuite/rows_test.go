package lndsuite

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryRowHasItsCases: no row without a case that exists, no case that no row knows.
func TestEveryRowHasItsCases(t *testing.T) {
	cases := make(map[string]bool)
	for _, section := range sections() {
		for name := range section {
			require.NotContains(t, cases, name)
			cases[name] = false
		}
	}
	for _, r := range Rows() {
		require.NotEmpty(t, r.Cases, "%s: %s", r.Section, r.Says)
		for _, name := range r.Cases {
			require.Contains(t, cases, name, "%s: %s", r.Section, r.Says)
			cases[name] = true
		}
	}
	for name, known := range cases {
		require.True(t, known, "%s is in no row", name)
	}
}
