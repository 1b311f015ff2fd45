//go:build itest

package itest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// TestDemo is `make demo` as a newcomer runs it: it ends well, and leaves no process
// and no file behind.
func TestDemo(t *testing.T) {
	together(t)
	out := demo(t)
	for _, part := range []string{"opening fee", "opened by this payment", "played on real nodes in"} {
		require.Contains(t, out, part)
	}
}

// TestDemoTenant is `make demo TENANT=1`.
func TestDemoTenant(t *testing.T) {
	untilTrusted(t)
	out := demo(t, "--tenant")
	for _, part := range []string{"10 checks passed", "paid in both directions", "played on real nodes in"} {
		require.Contains(t, out, part)
	}
}

func demo(t *testing.T, flags ...string) string {
	t.Helper()
	bin, err := devnet.FindSluice()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	dir := t.TempDir()
	demo := exec.CommandContext(ctx, filepath.Join(bin, "sluice-devnet"), append([]string{"demo", "--dir", dir}, flags...)...)
	out, err := demo.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Logf("%s", out)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, processesIn(t, dir))
	return string(out)
}

// processesIn lists the processes that name a directory in their arguments.
func processesIn(t *testing.T, dir string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	if len(all) == 0 {
		t.Log("processes are not looked at: there is no /proc here")
	}
	for _, file := range all {
		args, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(args), dir) {
			found = append(found, strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return found
}
