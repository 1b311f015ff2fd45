package devnet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	switch os.Getenv("DEVNET_TEST_ROLE") {
	case "parent":
		os.Exit(beParent())
	case "polite":
		bePolite()
	}
	goleak.VerifyTestMain(m)
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func shell(t *testing.T, script string, ready func(context.Context) error) *Proc {
	t.Helper()
	p := NewProc(Command{
		Name: "shell", Path: "/bin/sh", Args: []string{"-c", script},
		LogFile: filepath.Join(t.TempDir(), "log"), Ready: ready,
	})
	t.Cleanup(func() { require.NoError(t, p.Kill()) })
	return p
}

func waitLog(p *Proc, text string) func(context.Context) error {
	return func(ctx context.Context) error {
		return WaitFor(ctx, "the log to say "+text, func(context.Context) (bool, error) {
			return strings.Contains(p.LogTail(100), "| "+text), nil
		})
	}
}

// bePolite takes the signals that lnd takes, and stands in another goroutine.
func bePolite() {
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		fmt.Println("up")
		waitsForEver()
	}()
	select {}
}

func waitsForEver() { select {} }

// A program that is traced says where all its goroutines stand, also when it is frozen.
func TestProcTrace(t *testing.T) {
	p := NewProc(Command{
		Name: "polite", Path: os.Args[0], Env: []string{"DEVNET_TEST_ROLE=polite"},
		LogFile: filepath.Join(t.TempDir(), "log"),
	})
	t.Cleanup(func() { require.NoError(t, p.Kill()) })
	require.NoError(t, p.Start(testContext(t)))
	require.NoError(t, waitLog(p, "up")(testContext(t)))
	require.NoError(t, p.Freeze())
	require.NoError(t, p.Trace())
	require.Contains(t, p.LogTail(1000), "devnet.waitsForEver(")
	require.Contains(t, p.LogTail(1000), "devnet.bePolite(")
	require.NoError(t, p.Trace(), "of what does not run")
}

// A process that dies while it starts is reported at once, with the end of its
// log, and not after the deadline.
func TestProcDiesBeforeReady(t *testing.T) {
	ctx := testContext(t)
	p := shell(t, "echo no such database; exit 3", func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	begin := time.Now()
	err := p.Start(ctx)
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, "no such database")
	require.Less(t, time.Since(begin), 10*time.Second)
	require.False(t, p.Running())
}

// Stop lets a process end by itself; one that ignores the signal is killed and
// reported; a frozen one still gets the signal.
func TestProcStop(t *testing.T) {
	ctx := testContext(t)
	polite := shell(t, `trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done`, nil)
	require.NoError(t, polite.Start(ctx))
	require.NoError(t, waitLog(polite, "up")(ctx))
	require.ErrorContains(t, polite.Start(ctx), "running already")
	require.NoError(t, polite.Freeze())
	require.True(t, polite.Frozen())
	require.NoError(t, polite.Stop(ctx))
	require.Contains(t, polite.LogTail(5), "bye")
	require.NoError(t, polite.Stop(ctx), "stopping twice")
	require.ErrorIs(t, polite.Freeze(), ErrNotRunning)

	stubborn := shell(t, `trap '' TERM; echo up; while :; do sleep 0.02; done`, nil)
	require.NoError(t, stubborn.Start(ctx))
	require.NoError(t, waitLog(stubborn, "up")(ctx))
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, stubborn.Stop(short), context.DeadlineExceeded)
	require.False(t, stubborn.Running())

	// The same Proc starts again, with other arguments, into the same log.
	require.NoError(t, polite.Restart(ctx, "-c", "echo second life; exec sleep 60"))
	require.NoError(t, waitLog(polite, "second life")(ctx))
	require.Contains(t, polite.LogTail(100), "bye")
}

// Kill takes what the process started with it.
func TestProcKillTakesChildren(t *testing.T) {
	ctx := testContext(t)
	p := shell(t, "sleep 300 & echo child $!; wait", nil)
	require.NoError(t, p.Start(ctx))
	require.NoError(t, waitLog(p, "child")(ctx))
	_, text, _ := strings.Cut(p.LogTail(1), "| child ")
	child, err := strconv.Atoi(strings.TrimSpace(text))
	require.NoError(t, err)
	require.True(t, alive(child))
	require.NoError(t, p.Kill())
	require.NoError(t, WaitFor(ctx, "the child to be gone", func(context.Context) (bool, error) { return !alive(child), nil }))
}

// beParent starts a process as the harness does, names it, and waits.
func beParent() int {
	p := NewProc(Command{
		Name: "orphan", Path: "/bin/sleep", Args: []string{"300"},
		LogFile: filepath.Join(os.Getenv("DEVNET_TEST_DIR"), "log"),
	})
	if err := p.Start(context.Background()); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(p.PID())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// A harness that is killed cannot clean up: the kernel does it.
func TestProcDiesWithItsParent(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("only Linux has a parent-death signal")
	}
	ctx := testContext(t)
	parent := exec.CommandContext(ctx, os.Args[0])
	parent.Env = append(os.Environ(), "DEVNET_TEST_ROLE=parent", "DEVNET_TEST_DIR="+t.TempDir())
	stdin, err := parent.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stdout, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	orphan, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err, line)
	require.True(t, alive(orphan))

	require.NoError(t, parent.Process.Kill())
	require.Error(t, parent.Wait())
	require.NoError(t, WaitFor(ctx, "the orphan to be gone", func(context.Context) (bool, error) { return !alive(orphan), nil }))
}

// WaitFor says what it waited for and the newest error, not an outdated one.
func TestWaitForReportsTheNewestError(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*pollInterval)
	defer cancel()
	calls := 0
	err := WaitFor(ctx, "the moon", func(context.Context) (bool, error) {
		calls++
		if calls == 1 {
			return false, errors.New("outdated")
		}
		return false, nil
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "the moon")
	require.NotContains(t, err.Error(), "outdated")
}

// Ports of one block never go to another, also while nothing listens on them.
func TestPortsAreExclusive(t *testing.T) {
	seen := map[int]bool{}
	for range 8 {
		block, err := reservePorts()
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, block.release()) })
		for range 20 {
			port, err := block.take()
			require.NoError(t, err)
			require.False(t, seen[port], "port %d twice", port)
			require.Less(t, port, portCeiling)
			seen[port] = true
		}
	}
}

func TestMergeArgs(t *testing.T) {
	got := mergeArgs([]string{"--a=1", "--b", "--c=3"}, []string{"--c=4", "--d=5", "--d=6"})
	require.Equal(t, []string{"--a=1", "--b", "--c=4", "--d=5", "--d=6"}, got)
}

func TestFeeServer(t *testing.T) {
	fees, err := startFeeServer()
	require.NoError(t, err)
	defer func() { require.NoError(t, fees.close()) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func() (int, string) {
		resp, err := client.Get(fees.URL())
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	fees.SetSatPerVByte(7)
	_, body := get()
	require.Contains(t, body, `"6":7000`)
	fees.SetDown(true)
	status, _ := get()
	require.Equal(t, http.StatusServiceUnavailable, status)
}

// echoServer answers every byte with itself.
func echoServer(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return listener.Addr().String()
}

func TestLinkFaults(t *testing.T) {
	ctx := testContext(t)
	link, err := NewLink(echoServer(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, link.Close()) }()

	dial := func() net.Conn {
		conn, err := net.Dial("tcp", link.Addr())
		require.NoError(t, err)
		return conn
	}
	echo := func(conn net.Conn, limit time.Duration) (time.Duration, error) {
		begin := time.Now()
		if _, err := conn.Write([]byte("x")); err != nil {
			return 0, err
		}
		if err := conn.SetReadDeadline(begin.Add(limit)); err != nil {
			return 0, err
		}
		_, err := io.ReadFull(conn, make([]byte, 1))
		return time.Since(begin), err
	}

	conn := dial()
	defer conn.Close()
	_, err = echo(conn, 5*time.Second)
	require.NoError(t, err)

	link.SetDelay(60 * time.Millisecond)
	took, err := echo(conn, 5*time.Second)
	require.NoError(t, err)
	require.GreaterOrEqual(t, took, 120*time.Millisecond, "the delay counts in both directions")
	link.Restore()

	// A stall keeps the connection, and loses nothing.
	link.Stall()
	_, err = echo(conn, 80*time.Millisecond)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, 1, link.Connections())
	link.Restore()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, err = io.ReadFull(conn, make([]byte, 1))
	require.NoError(t, err)

	// A flap ends connections and lets new ones in; a cut does not.
	link.Flap()
	_, err = echo(conn, 5*time.Second)
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	again := dial()
	defer again.Close()
	_, err = echo(again, 5*time.Second)
	require.NoError(t, err)

	link.Cut()
	refused := dial()
	defer refused.Close()
	_, err = echo(refused, 5*time.Second)
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, WaitFor(ctx, "no connection", func(context.Context) (bool, error) { return link.Connections() == 0, nil }))
}
