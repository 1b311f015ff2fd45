// Command lint checks what no test checks: format and lint of the Go code, and
// known vulnerabilities of what is built from it. The protos, the queries and
// everything generated are internal/tools/generate's.
//
// It promises to use the tools pinned beside it and no others, to change no
// file without --fix, and to say plainly when something was not checked.
//
//	go run ./internal/tools/lint           fail when something is wrong
//	go run ./internal/tools/lint --fix     put right what can be put right
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/tools/pinned"
)

func main() {
	fix := flag.Bool("fix", false, "format, and fix what the linters can fix")
	flag.Parse()
	if err := run(*fix); err != nil {
		fmt.Fprintln(os.Stderr, "lint:", err)
		os.Exit(1)
	}
}

func run(fix bool) error {
	if err := pinned.ToRoot(); err != nil {
		return err
	}
	// Both are run even if the first finds something: a person fixes all at once.
	return errors.Join(
		timed("golangci-lint", func() (string, error) { return "clean", golangci(fix) }),
		timed("govulncheck", vulnerabilities),
	)
}

// timed runs a check that says how it ended, and says how long it took.
func timed(what string, check func() (string, error)) error {
	began := time.Now()
	result, err := check()
	if err != nil {
		result = "FAILED"
	}
	fmt.Printf("%s: %s (%s)\n", what, result, time.Since(began).Round(time.Second))
	return err
}

func golangci(fix bool) error {
	tools, err := pinned.Build(pinned.Golangci)
	if err != nil {
		return err
	}
	args := []string{"run", "--allow-parallel-runners"}
	if fix {
		args = append(args, "--fix")
	}
	cmd := exec.Command(filepath.Join(tools, "golangci-lint"), append(args, "./...")...)
	// A cache of this checkout's own: what is found is cached with its path, and
	// with those of another checkout the exclusions by path do not match.
	cache, err := filepath.Abs(".build/lint-cache")
	if err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), "GOLANGCI_LINT_CACHE="+cache)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("golangci-lint: %w (make lint-fix puts right what can be put right by itself)", err)
	}
	return nil
}

// vulnerabilities fails when code of ours reaches a known vulnerability. The
// database is not part of a build that can be repeated, so that a machine that
// cannot reach it is told so and passes.
func vulnerabilities() (string, error) {
	tools, err := pinned.Build(pinned.Govulncheck)
	if err != nil {
		return "", err
	}
	// A package without dependencies: whether the database answers is known
	// before all of the code is loaded.
	if text, err := govulncheck(tools, "./internal/tools/pinned"); err != nil && unreachable(text) {
		return "NOT CHECKED for known vulnerabilities, the database cannot be reached from this machine: " + text, nil
	}
	if text, err := govulncheck(tools, "./..."); err != nil {
		return "", fmt.Errorf("govulncheck: %w\n%s", err, text)
	}
	return "clean", nil
}

func govulncheck(tools string, args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(tools, "govulncheck"), args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// unreachable tells a database that is away from a finding. A finding is never
// one line about a fetch.
func unreachable(text string) bool {
	return strings.HasPrefix(text, "govulncheck: fetching vulnerabilities: ") && !strings.Contains(text, "\n")
}
