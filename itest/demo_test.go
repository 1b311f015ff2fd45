//go:build itest

package itest

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	// One line of the story after the other, as its reader sees them.
	rest := out
	for _, line := range []string{
		`1\. Start btcd and three unpatched lnds: a gateway, a payer and a wallet`,
		`3\. The wallet, without a channel, is paid 100,000 sat: the payer pays the opening fee`,
		`paid in \S+; 100,000 sat arrived; the payer paid the opening fee of 2,000,000 msat on top; channel: opened by this payment, the wallet has 1; blocks mined: none, the tip is still \d+  \(\S+\)`,
		`4\. A second payment over the same channel`,
		`paid in \S+; 7,000 sat arrived; no fee; channel: the same, the wallet has 1; blocks mined: none, the tip is still \d+  \(\S+\)`,
		`5\. A payment larger than the inbound liquidity opens another channel, the receiver pays`,
		`paid in \S+; 396,000 sat arrived; the opening fee of 4,000,000 msat was taken out of it; channel: opened by this payment, the wallet has 2; blocks mined: none, the tip is still \d+  \(\S+\)`,
		`2 channels that were in use unconfirmed are now 6 blocks deep  \(\S+\)`,
		`50,000 sat arrived in \S+, routing fee 0 msat  \(\S+\)`,
		`the gateway earned [\d,]+ sat, the chain cost the payer [\d,]+ sat; \d+ blocks  \(\S+\)`,
		`the gateway earned [\d,]+ sat, the chain cost the payer [\d,]+ sat; \d+ blocks  \(\S+\)`,
		`10\. The operator compares the books with lnd: sluicectl reconcile`,
		`ACCOUNT +BOOKS +LND +DIFFERENCE +NOTE`,
		`The books equal lnd to the sat\.  \(\S+\)`,
		`first payment +100,000 +100,000 +2,000,000 +2,000,000 +\S+ +opened by this payment`,
		`same channel +7,000 +7,000 +0 +0 +\S+ +the same`,
		`second channel +400,000 +396,000 +0 +4,000,000 +\S+ +opened by this payment`,
		`The main job, played on real nodes in \S+\.`,
	} {
		at := regexp.MustCompile(`(?m)^ *` + line + ` *$`).FindStringIndex(rest)
		require.NotNil(t, at, "the demo was to print here: %s\nand printed:\n%s", line, rest)
		rest = rest[at[1]:]
	}
}

// TestUp is `sluice-devnet up` as a newcomer uses it: what it prints can be typed, and
// Ctrl-C leaves no process and no file behind.
func TestUp(t *testing.T) {
	together(t)
	bin, err := devnet.FindSluice()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	dir := t.TempDir()
	up := exec.CommandContext(ctx, filepath.Join(bin, "sluice-devnet"), "up", "--dir", dir)
	printed, err := up.StdoutPipe()
	require.NoError(t, err)
	up.Stderr = os.Stderr
	require.NoError(t, up.Start())
	lines := bufio.NewScanner(printed)
	text, commands := "", map[string]string{}
	for !strings.Contains(text, "what the operator sees") && lines.Scan() {
		text += lines.Text() + "\n"
		if name, command, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "  alias "), "='"); ok {
			commands[name] = strings.TrimSuffix(command, "'")
		}
	}
	require.Contains(t, text, "what the operator sees", "`up` ends before it says how to talk to the network")
	t.Logf("%s", text)

	typed := func(line string) string {
		t.Helper()
		name, args, _ := strings.Cut(line, " ")
		require.Contains(t, commands, name, "the short name that `up` prints")
		out, err := exec.CommandContext(ctx, "sh", "-c", commands[name]+" "+args).CombinedOutput()
		require.NoError(t, err, "%s: %s", line, out)
		return string(out)
	}
	require.Regexp(t, `"alias": +"gateway"`, typed("gateway getinfo"))
	require.Contains(t, typed("sluicectl payments"), "No payments match.")
	require.Contains(t, typed("sluice-wallet status"), "No channel yet")
	require.Len(t, strings.Fields(typed("sluice-devnet mine 2 --dir "+dir)), 2, "hashes of blocks")

	require.NoError(t, up.Process.Signal(os.Interrupt))
	for lines.Scan() {
		text += lines.Text() + "\n"
	}
	require.NoError(t, up.Wait(), "it ends in good order")
	require.Contains(t, text, "ending the network")
	requireNothingLeft(t, dir)
}

// TestDemoTenant is `make demo TENANT=1`.
func TestDemoTenant(t *testing.T) {
	untilTrusted(t)
	out := demo(t, "--tenant")
	for _, part := range []string{"10 checks passed", "paid in both directions", "The books equal lnd to the sat.", "played on real nodes in"} {
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
	requireNothingLeft(t, dir)
	return string(out)
}

func requireNothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, processesIn(t, dir))
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
