// Command buildpeers builds the programs that Sluice works with (btcd, lnd,
// lncli, loop, loopd, and one that is written on lndclient) from the nested module internal/tools/peers, whose go.mod
// and go.sum fix every version.
//
// It uses only the standard library, so that it starts on a clean clone before
// anything was downloaded, and it needs no Go environment settings. A peer whose
// module files, flags and toolchain did not change is left alone without asking
// the compiler. The others show what is compiled and for how long; without a
// terminal that is a plain line now and then.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	moduleDir = "internal/tools/peers"

	// lnd's RPC services and database engines. The other peers know none of
	// these tags, so all share one set and one cache of compiled packages.
	tags = "autopilotrpc chainrpc invoicesrpc peersrpc routerrpc signrpc walletrpc watchtowerrpc wtclientrpc " +
		"kvdb_sqlite kvdb_postgres"
)

type peer struct {
	name, pkg string
	cold      string // on two cores with empty caches, so that nobody thinks it hangs
}

func peers() []peer {
	return []peer{
		{"btcd", "github.com/btcsuite/btcd", "about half a minute"},
		{"lnd", "github.com/lightningnetwork/lnd/cmd/lnd", "3 to 6 minutes"},
		{"lncli", "github.com/lightningnetwork/lnd/cmd/lncli", "about half a minute after lnd"},
		{"loopd", "github.com/lightninglabs/loop/cmd/loopd", "1 to 3 minutes after lnd"},
		{"loop", "github.com/lightninglabs/loop/cmd/loop", "about half a minute after loopd"},
		{"lndclientprogram", "./lndclientprogram", "about half a minute after loopd"},
	}
}

func main() {
	out := flag.String("o", ".build/peers", "directory for the binaries")
	only := flag.String("only", "", "comma-separated peers to build (default: all)")
	flag.Parse()
	if err := run(*out, *only); err != nil {
		fmt.Fprintln(os.Stderr, "buildpeers:", err)
		os.Exit(1)
	}
}

func run(out, only string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(moduleDir, "go.mod")); err != nil {
		return fmt.Errorf("run this from the top of the repository: %w", err)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	want := peers()
	if only != "" {
		names := strings.Split(only, ",")
		want = slices.DeleteFunc(want, func(p peer) bool { return !slices.Contains(names, p.name) })
		if len(want) != len(names) {
			return fmt.Errorf("-only %s: there are btcd, lnd, lncli, loopd, loop and lndclientprogram", only)
		}
	}
	key, err := buildKey()
	if err != nil {
		return err
	}
	own, err := ownKey(key)
	if err != nil {
		return err
	}
	keyOf := func(p peer) string {
		if strings.HasPrefix(p.pkg, "./") {
			return own
		}
		return key
	}

	var current []string
	stale := slices.DeleteFunc(slices.Clone(want), func(p peer) bool {
		ok := upToDate(out, p.name, keyOf(p))
		if ok {
			current = append(current, p.name)
		}
		return ok
	})
	if len(current) > 0 {
		fmt.Printf("peers up to date: %s\n", strings.Join(current, ", "))
	}
	if len(stale) == 0 {
		return nil
	}

	begin := time.Now()
	for i, p := range stale {
		label := fmt.Sprintf("[%d/%d] %s", i+1, len(stale), p.name)
		fmt.Printf("%s: building %s (%s with empty caches)\n", label, p.pkg, p.cold)
		if err := build(out, p, label); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := os.WriteFile(stampFile(out, p.name), []byte(keyOf(p)), 0o644); err != nil {
			return err
		}
	}
	fmt.Printf("peers built in %s: %s\n", time.Since(begin).Round(time.Second), out)
	return nil
}

// ownKey is for the program whose source is in the module itself.
func ownKey(key string) (string, error) {
	source, err := os.ReadFile(filepath.Join(moduleDir, "lndclientprogram", "main.go"))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append([]byte(key), source...))
	return hex.EncodeToString(sum[:]), nil
}

// buildKey identifies everything that the others' binaries depend on.
func buildKey() (string, error) {
	hash := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(moduleDir, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n", name, len(data))
		hash.Write(data)
	}
	cmd := goCommand("env", "GOVERSION", "GOOS", "GOARCH", "CGO_ENABLED")
	toolchain, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	fmt.Fprintf(hash, "%s\n%s\n", tags, toolchain)
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func stampFile(out, name string) string { return filepath.Join(out, "."+name+".key") }

func upToDate(out, name, key string) bool {
	stamp, err := os.ReadFile(stampFile(out, name))
	if err != nil || string(stamp) != key {
		return false
	}
	info, err := os.Stat(filepath.Join(out, name))
	return err == nil && info.Mode().IsRegular()
}

// goCommand runs go in the peers' module, whatever workspace or flags the
// caller's environment sets.
func goCommand(args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Dir = moduleDir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	return cmd
}

func build(out string, p peer, label string) error {
	// -v names each package as it is compiled: the only sign of progress go has.
	cmd := goCommand("build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly",
		"-tags="+tags, "-o", filepath.Join(out, p.name), p.pkg)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	// Ctrl-C ends the compilers too, not only this program.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupted)

	show := newProgress(os.Stdout, label, begin)
	var messages bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() {
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			line := lines.Text()
			fmt.Fprintln(&messages, line)
			show.step(line)
		}
	})
	done := make(chan struct{})
	go func() {
		select {
		case <-interrupted:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		case <-done:
		}
	}()
	reading.Wait()
	err = cmd.Wait()
	close(done)
	show.stop()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, tail(messages.String(), 30))
	}
	fmt.Printf("%s: done in %s\n", label, time.Since(begin).Round(time.Second))
	return nil
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// progress shows the time passed: on a terminal one line that is rewritten
// every second, elsewhere a line every fifteen.
type progress struct {
	out      io.Writer
	label    string
	begin    time.Time
	terminal bool
	packages atomic.Int64
	loaded   atomic.Int64
	quit     chan struct{}
	ended    sync.WaitGroup
}

func newProgress(out *os.File, label string, begin time.Time) *progress {
	info, err := out.Stat()
	p := &progress{
		out: out, label: label, begin: begin, quit: make(chan struct{}),
		terminal: err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb",
	}
	every := 15 * time.Second
	if p.terminal {
		every = time.Second
	}
	p.ended.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.print()
			case <-p.quit:
				return
			}
		}
	})
	return p
}

func (p *progress) step(line string) {
	if strings.HasPrefix(line, "go: downloading ") {
		p.loaded.Add(1)
	} else {
		p.packages.Add(1)
	}
}

func (p *progress) print() {
	line := fmt.Sprintf("%s: %s", p.label, time.Since(p.begin).Round(time.Second))
	if n := p.loaded.Load(); n > 0 {
		line += fmt.Sprintf(", %d modules downloaded", n)
	}
	line += fmt.Sprintf(", %d packages compiled", p.packages.Load())
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", line)
	} else {
		fmt.Fprintln(p.out, line)
	}
}

func (p *progress) stop() {
	close(p.quit)
	p.ended.Wait()
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
