package devnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrNotRunning is returned when a signal is meant for a process that is not there.
var ErrNotRunning = errors.New("process is not running")

// errExitZero is the end of a process that succeeded: bad news for a server.
var errExitZero = errors.New("exit status 0")

// killLimit bounds the wait for what was killed already.
const killLimit = 20 * time.Second

// Command says how to run a supervised process.
type Command struct {
	Name string   // in messages, and the default log's file name
	Path string   // the binary
	Args []string // without the program's name
	Env  []string // added to this process's environment
	Dir  string   // working directory

	// LogFile receives standard output and error, appended over restarts.
	LogFile string

	// Ready returns nil once the process can be used. Its context ends early,
	// with the reason, when the process exits. Nil means ready once started.
	Ready func(ctx context.Context) error

	// StopSignal asks for an orderly end (default SIGTERM).
	StopSignal syscall.Signal

	// Credential runs the process as another user (needs root).
	Credential *syscall.Credential
}

// Proc is a supervised process that can be started, stopped, killed, frozen
// and restarted any number of times. Its methods may be called concurrently.
type Proc struct {
	cmd Command

	mu  sync.Mutex // guards what follows, and orders starts
	run *procRun   // the current or the last run; nil before the first
}

// procRun is one life of the process.
type procRun struct {
	pid  int
	done chan struct{} // closed once reaped, after err is set
	err  error         // how it exited

	frozen atomic.Bool
}

// NewProc prepares a process; nothing runs until Start.
func NewProc(cmd Command) *Proc {
	if cmd.StopSignal == 0 {
		cmd.StopSignal = syscall.SIGTERM
	}
	return &Proc{cmd: cmd}
}

// Name returns the command's name.
func (p *Proc) Name() string { return p.cmd.Name }

// LogFile returns the path of the file that gets the process's output.
func (p *Proc) LogFile() string { return p.cmd.LogFile }

// Args returns the arguments of the next start.
func (p *Proc) Args() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.cmd.Args)
}

// SetArgs changes the arguments of the next start.
func (p *Proc) SetArgs(args ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd.Args = slices.Clone(args)
}

// PID returns the process id, or 0 when it is not running.
func (p *Proc) PID() int {
	if run := p.current(); run != nil {
		return run.pid
	}
	return 0
}

// CPUTime is the processor time that the current run has used, to a hundredth
// of a second; errors.ErrUnsupported elsewhere than on Linux.
func (p *Proc) CPUTime() (time.Duration, error) {
	run := p.current()
	if run == nil {
		return 0, fmt.Errorf("%s is not running", p.cmd.Name)
	}
	return cpuTime(run.pid)
}

// Running tells whether the process is alive (frozen counts as alive).
func (p *Proc) Running() bool { return p.current() != nil }

// Exited returns a channel that is closed when the current run ends. It is
// closed already when nothing runs.
func (p *Proc) Exited() <-chan struct{} {
	if run := p.current(); run != nil {
		return run.done
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

func (p *Proc) current() *procRun {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil {
		return nil
	}
	select {
	case <-p.run.done:
		return nil
	default:
		return p.run
	}
}

// Start runs the process and waits until it is ready. When it exits first, or
// ctx ends first, the error carries the end of its log and nothing is left
// running.
func (p *Proc) Start(ctx context.Context) error {
	run, err := p.spawn()
	if err != nil {
		return err
	}
	if p.cmd.Ready == nil {
		return nil
	}

	readyCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopWatch := make(chan struct{})
	defer close(stopWatch)
	go func() {
		select {
		case <-run.done:
			cancel(fmt.Errorf("%s exited: %w", p.cmd.Name, run.err))
		case <-stopWatch:
		}
	}()

	if err := p.cmd.Ready(readyCtx); err != nil {
		// Whoever was waiting reports a bare cancellation; the cause is the news.
		if cause := context.Cause(readyCtx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		err = fmt.Errorf("%s did not become ready: %w\n%s", p.cmd.Name, err, p.LogTail(25))
		return errors.Join(err, p.Kill())
	}
	return nil
}

// spawn starts the process on a thread that is kept for its whole life,
// because Linux sends the parent-death signal when that thread ends.
func (p *Proc) spawn() (*procRun, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run != nil {
		select {
		case <-p.run.done:
		default:
			return nil, fmt.Errorf("%s is running already (pid %d)", p.cmd.Name, p.run.pid)
		}
	}

	if err := os.MkdirAll(filepath.Dir(p.cmd.LogFile), 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(p.cmd.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	cmd := exec.Command(p.cmd.Path, p.cmd.Args...)
	cmd.Env = append(append(os.Environ(), "GOTRACEBACK=all"), p.cmd.Env...)
	cmd.Dir = p.cmd.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = sysProcAttr(p.cmd.Credential)

	run := &procRun{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		// What the process started itself goes with it.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if err == nil {
			err = errExitZero
		}
		run.err = err
		close(run.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.cmd.Name, err)
	}
	run.pid = cmd.Process.Pid
	p.run = run
	return run, nil
}

// Signal sends sig to the process itself.
func (p *Proc) Signal(sig syscall.Signal) error {
	run := p.current()
	if run == nil {
		return fmt.Errorf("signal %s: %w", p.cmd.Name, ErrNotRunning)
	}
	if err := syscall.Kill(run.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s: %w", p.cmd.Name, err)
	}
	return nil
}

// Stop asks the process to end and waits for it. When ctx ends first the
// process is killed and an error returned. Stopping what does not run is no error.
func (p *Proc) Stop(ctx context.Context) error {
	run := p.current()
	if run == nil {
		return nil
	}
	begin := time.Now()
	// A frozen process would only see the signal when thawed.
	_ = syscall.Kill(-run.pid, syscall.SIGCONT)
	if err := p.Signal(p.cmd.StopSignal); err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	select {
	case <-run.done:
		return nil
	case <-ctx.Done():
		err := fmt.Errorf("%s still ran %s after signal %q, killed: %w\n%s", p.cmd.Name,
			time.Since(begin).Round(time.Millisecond), p.cmd.StopSignal, context.Cause(ctx), p.LogTail(10))
		return errors.Join(err, p.Kill())
	}
}

// Kill sends SIGKILL to the process group and waits until the process is
// reaped. Killing what does not run is no error.
func (p *Proc) Kill() error {
	run := p.current()
	if run == nil {
		return nil
	}
	if err := syscall.Kill(-run.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", p.cmd.Name, err)
	}
	<-run.done
	return nil
}

// traceLimit is ample for a Go program to write down its goroutines.
const traceLimit = 10 * time.Second

// Trace ends a Go program and has it write where each of its goroutines stands
// into its log. lnd takes SIGQUIT for an orderly end; of SIGTRAP it knows nothing,
// so that the runtime answers. Tracing what does not run is no error.
func (p *Proc) Trace() error {
	run := p.current()
	if run == nil {
		return nil
	}
	_ = syscall.Kill(-run.pid, syscall.SIGCONT)
	if err := p.Signal(syscall.SIGTRAP); err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	limit := time.NewTimer(traceLimit)
	defer limit.Stop()
	select {
	case <-run.done:
		return nil
	case <-limit.C:
		return errors.Join(fmt.Errorf("%s did not end within %s of a SIGTRAP, killed", p.cmd.Name, traceLimit), p.Kill())
	}
}

// Freeze suspends the process (SIGSTOP): connections stay open, nothing answers.
func (p *Proc) Freeze() error { return p.setFrozen(true, syscall.SIGSTOP) }

// Thaw lets a frozen process continue.
func (p *Proc) Thaw() error { return p.setFrozen(false, syscall.SIGCONT) }

// Frozen tells whether the process is suspended by Freeze.
func (p *Proc) Frozen() bool {
	run := p.current()
	return run != nil && run.frozen.Load()
}

// Usable tells whether the process is alive and not frozen.
func (p *Proc) Usable() bool {
	run := p.current()
	return run != nil && !run.frozen.Load()
}

func (p *Proc) setFrozen(frozen bool, sig syscall.Signal) error {
	if err := p.Signal(sig); err != nil {
		return err
	}
	if run := p.current(); run != nil {
		run.frozen.Store(frozen)
	}
	return nil
}

// Restart stops the process in an orderly way and starts it again. Arguments,
// when given, replace the earlier ones.
func (p *Proc) Restart(ctx context.Context, args ...string) error {
	if err := p.Stop(ctx); err != nil {
		return err
	}
	if len(args) > 0 {
		p.SetArgs(args...)
	}
	return p.Start(ctx)
}

// LogTail returns the last lines of the log, indented, for error messages.
func (p *Proc) LogTail(lines int) string {
	const window = 32 << 10
	file, err := os.Open(p.cmd.LogFile)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > window {
		if _, err := file.Seek(-window, io.SeekEnd); err != nil {
			return fmt.Sprintf("(log unreadable: %v)", err)
		}
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return fmt.Sprintf("(log unreadable: %v)", err)
	}
	all := bytes.Split(bytes.TrimRight(data, "\n"), []byte("\n"))
	all = all[max(0, len(all)-lines):]
	var out bytes.Buffer
	fmt.Fprintf(&out, "end of %s:", p.cmd.LogFile)
	for _, line := range all {
		fmt.Fprintf(&out, "\n  | %s", line)
	}
	return out.String()
}
