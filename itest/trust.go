//go:build itest

package itest

import (
	"os"
	"testing"
)

// together lets a case run beside one other (go test -parallel): each has a network of
// its own, and is waiting most of the time.
func together(t *testing.T) {
	t.Helper()
	t.Parallel()
}

// untilTrusted keeps a case out of plain `make test` until it has passed ten
// times in a row on a machine of its own: a case that fails by chance would
// hide those that fail for a reason. `make itest` and `make test-full` run it.
func untilTrusted(t *testing.T) {
	t.Helper()
	if os.Getenv("SLUICE_ITEST") == "" && os.Getenv("SLUICE_TEST_FULL") == "" {
		t.Skip("not run ten times in a row yet: it runs with make itest and make test-full")
	}
	together(t)
}
