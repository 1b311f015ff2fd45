package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		// The command itself, with its clock stopped.
		"sluicectl": func() {
			os.Exit(run(&world{ctx: context.Background(), stdout: os.Stdout, stderr: os.Stderr, now: fakeNow, home: os.Getenv("HOME")}, os.Args[1:]))
		},
	})
}

var update = flag.Bool("update", false, "rewrite the expected outputs in testdata")

// TestScripts runs the command as a process of its own against a fake gateway.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"), UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			dir, other := filepath.Join(e.WorkDir, "gateway"), filepath.Join(e.WorkDir, "other")
			addr, stop := startFake(t, dir)
			e.Defer(stop)
			// Another gateway's files, to mistake for ours.
			_, stopOther := startFake(t, other)
			stopOther()
			lndAddr, stopLnd := startFakeLnd(t, filepath.Join(e.WorkDir, "lnd"))
			e.Defer(stopLnd)
			free, err := net.Listen("tcp", "localhost:0")
			if err != nil {
				return err
			}
			nobody := free.Addr().String()
			if err := free.Close(); err != nil {
				return err
			}
			node, signature := fakeStatement(t, "acme")
			e.Vars = append(e.Vars, "NODE="+node, "SIGNATURE="+signature)
			e.Vars = append(e.Vars, "HOME="+e.WorkDir, "SLUICECTL_SERVER="+addr, "SLUICECTL_DATA_DIR="+dir, "NOBODY="+nobody, "SLUICECTL_LND="+lndAddr)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// hide writes the last outputs to stdout.txt and stderr.txt without
			// what differs between runs.
			"hide": func(ts *testscript.TestScript, _ bool, _ []string) {
				for _, name := range []string{"stdout", "stderr"} {
					text := ts.ReadFile(name)
					for _, pair := range [][2]string{
						{ts.Getenv("WORK"), "WORK"}, {ts.Getenv("SLUICECTL_SERVER"), "SERVER"}, {ts.Getenv("NOBODY"), "NOBODY"},
					} {
						text = strings.ReplaceAll(text, pair[0], pair[1])
					}
					ts.Check(os.WriteFile(ts.MkAbs(name+".txt"), []byte(text), 0o600))
				}
			},
		},
	})
}

// TestBashCompletion runs the script in bash, where there is one.
func TestBashCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash here")
	}
	out := new(strings.Builder)
	require.Zero(t, run(&world{ctx: t.Context(), stdout: out, stderr: os.Stderr, now: fakeNow}, []string{"completion", "bash"}))
	script := filepath.Join(t.TempDir(), "completion.bash")
	require.NoError(t, os.WriteFile(script, []byte(out.String()), 0o600))
	complete := func(words ...string) []string {
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = "'" + w + "'"
		}
		line := fmt.Sprintf(`source %s; COMP_WORDS=(%s); COMP_CWORD=%d; _sluicectl; echo "${COMPREPLY[@]}"`, script, strings.Join(quoted, " "), len(words)-1)
		got, err := exec.CommandContext(t.Context(), bash, "--norc", "-c", line).CombinedOutput()
		require.NoError(t, err, string(got))
		return strings.Fields(string(got))
	}
	require.Equal(t, []string{"payments", "payment"}, complete("sluicectl", "pay"))
	require.Equal(t, []string{"stop", "start"}, complete("sluicectl", "business", "st"))
	require.Equal(t, []string{"bash", "zsh", "fish"}, complete("sluicectl", "completion", "")[:3])
	require.Contains(t, complete("sluicectl", "payments", "--"), "--client")
	require.NotContains(t, complete("sluicectl", "status", "--"), "--client")
	require.Equal(t, []string{"stop", "start"}, complete("sluicectl", "--server", "status", "business", "st"), "a flag's value is no command")
	require.Empty(t, complete("sluicectl", "payments", "--client", "st"), "a flag's value is not completed with commands")
}

// A wrong command line is exit code 2, with the help of the command that was
// meant; the home directory is the caller's.
func TestWrongCommandLines(t *testing.T) {
	for _, c := range []struct {
		args []string
		said string
	}{
		{nil, `Try "sluicectl --help".`},
		{[]string{"payments", "--client", "02ab"}, `want 66 hex digits, have 4`},
		{[]string{"payments", "--hash", "zz"}, `Try "sluicectl payments --help".`},
		{[]string{"business"}, `Try "sluicectl business --help".`},
		{[]string{"withdraw", "X"}, `--reason`},
		{[]string{"client", "zz"}, `node-key: node public key "zz": want 66 hex digits`},
		{[]string{"openings", "--client", "zz"}, `--client: node public key "zz"`},
		{[]string{"limits", "set", "foo"}, `want NAME=VALUE`},
		{[]string{"limits", "set", "a=1", "a=2"}, `a stands twice`},
		{[]string{"towers", "set", "02ab", "--suspend", "why", "--admit"}, `either --suspend or --admit`},
	} {
		var out, errs bytes.Buffer
		require.Equal(t, cli.ExitUsage, run(&world{ctx: t.Context(), stdout: &out, stderr: &errs, now: fakeNow}, c.args), c.args)
		require.Contains(t, errs.String(), c.said)
		require.Empty(t, out.String())
	}
	var out, errs bytes.Buffer
	home := t.TempDir()
	require.Equal(t, 1, run(&world{ctx: t.Context(), stdout: &out, stderr: &errs, now: fakeNow, home: home}, []string{"status"}))
	require.Contains(t, errs.String(), filepath.Join(home, ".sluice", "tls.cert"))
}
