package devnet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// ErrNoLDK says that the LDK client has not been built.
var ErrNoLDK = errors.New("the LDK client is not built: run `make ldk` (it needs cargo, the Rust package manager)")

// FindLDK finds the LDK client that `make ldk` builds from itest/ldk.
func FindLDK() (string, error) {
	peers, err := FindPeers()
	if err != nil {
		return "", err
	}
	dirs := []string{filepath.Dir(peers)}
	if bin, err := FindSluice(); err == nil {
		dirs = append(dirs, filepath.Dir(bin))
	}
	for _, dir := range dirs {
		if file := filepath.Join(dir, "ldk", "debug", "sluice-ldk"); isFile(file) {
			return file, nil
		}
	}
	return "", ErrNoLDK
}

// LDK is an LDK Node with the network's gateway as its LSP, run by the program
// in itest/ldk.
type LDK struct {
	NodeID string
	// LogFile has what LDK logs, at its finest level.
	LogFile string

	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{}

	mu     sync.Mutex
	asked  uint64
	wait   map[uint64]chan ldkLine
	events []LDKEvent
}

// LDKEvent is what the node tells by itself; the fields depend on Event.
type LDKEvent struct {
	Event      string `json:"event"`
	Hash       string `json:"hash"`
	AmountMsat uint64 `json:"amount_msat"`
	FeeMsat    uint64 `json:"fee_msat"`
	Reason     string `json:"reason"`
	NodeID     string `json:"node_id"`
	What       string `json:"what"`
}

type ldkLine struct {
	LDKEvent
	ID    uint64          `json:"id"`
	OK    json.RawMessage `json:"ok"`
	Error *string         `json:"error"`
}

// StartLDK runs an LDK Node whose LSP is the gateway, at the address given. Its
// data stays in the network's directory under the name, so that one started
// again under it is the same wallet. It ends with the network.
func (n *Net) StartLDK(ctx context.Context, name string, gateway *Node, address string) (*LDK, error) {
	program, err := FindLDK()
	if err != nil {
		return nil, err
	}
	chain, err := n.StartCoreRPC()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(n.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the LDK node: %w", err)
	}
	stderr, err := os.OpenFile(n.LogFile(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	host, port := chain.Addr()
	l := &LDK{LogFile: filepath.Join(dir, "ldk.log"), wait: make(map[uint64]chan ldkLine), done: make(chan struct{})}
	l.cmd = exec.Command(program, dir, host, port, gateway.PubKey, address)
	l.cmd.Stderr = stderr
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the LDK node: %w", err)
	}
	go l.read(out)
	n.OnClose(l.Kill)
	started, err := l.Wait(ctx, "the node to start", func(e LDKEvent) bool { return e.Event == "started" })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w (see %s)", err, n.LogFile(name)), l.Kill())
	}
	l.NodeID = started.NodeID
	return l, nil
}

func (l *LDK) read(out io.Reader) {
	defer close(l.done)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line ldkLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			continue // a panic's text, say: its log has it
		}
		l.mu.Lock()
		if line.Event != "" {
			l.events = append(l.events, line.LDKEvent)
		} else if answer := l.wait[line.ID]; answer != nil {
			answer <- line
			delete(l.wait, line.ID)
		}
		l.mu.Unlock()
	}
	_ = l.cmd.Wait()
}

// Do asks the node and reads its answer into out, unless that is nil.
func (l *LDK) Do(ctx context.Context, out any, request map[string]any) error {
	answered := make(chan ldkLine, 1)
	l.mu.Lock()
	l.asked++
	request = maps.Clone(request)
	request["id"] = l.asked
	l.wait[l.asked] = answered
	line, err := json.Marshal(request)
	if err == nil {
		_, err = l.in.Write(append(line, '\n'))
	}
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("ask the LDK node: %w", err)
	}
	select {
	case answer := <-answered:
		if answer.Error != nil {
			return fmt.Errorf("the LDK node, asked to %v: %s", request["do"], *answer.Error)
		}
		if out == nil {
			return nil
		}
		return json.Unmarshal(answer.OK, out)
	case <-l.done:
		return errors.New("the LDK node has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Wait returns the first event that the condition holds for, past ones included.
func (l *LDK) Wait(ctx context.Context, what string, cond func(LDKEvent) bool) (LDKEvent, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		l.mu.Lock()
		for _, e := range l.events {
			if cond(e) {
				l.mu.Unlock()
				return e, nil
			}
		}
		l.mu.Unlock()
		select {
		case <-tick.C:
		case <-l.done:
			return LDKEvent{}, fmt.Errorf("waiting for %s: the LDK node has ended", what)
		case <-ctx.Done():
			return LDKEvent{}, fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		}
	}
}

// Stop ends the node in its own way.
func (l *LDK) Stop(ctx context.Context) error {
	_ = l.in.Close()
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("the LDK node does not end: %w", ctx.Err()), l.Kill())
	}
}

// Kill ends the node at once.
func (l *LDK) Kill() error {
	select {
	case <-l.done: // its process id may be another's by now
		return nil
	default:
	}
	_ = syscall.Kill(-l.cmd.Process.Pid, syscall.SIGKILL)
	select {
	case <-l.done:
		return nil
	case <-time.After(killLimit):
		return errors.New("the LDK node was killed and does not end")
	}
}
