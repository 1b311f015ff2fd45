package devnet

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sysProcAttr puts the child into a process group of its own, so that a Ctrl-C
// in the terminal reaches only the harness, which then stops children in
// order; and asks the kernel to kill the child when the thread that started it
// ends (see Proc.run: that thread is pinned for the child's whole life).
func sysProcAttr(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: cred}
}

// processesMentioning lists the live processes, other than this one, whose
// command line contains text: a network's directory is in all of its commands.
func processesMentioning(text string) ([]int, error) {
	return scanProcs(func(pid int, dir string) bool {
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		return err == nil && pid != os.Getpid() && strings.Contains(string(cmdline), text)
	})
}

// childrenOf lists the direct children of a process.
func childrenOf(parent int) ([]int, error) {
	return scanProcs(func(_ int, dir string) bool {
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			return false
		}
		fields := statFields(stat)
		return len(fields) > 1 && fields[1] == strconv.Itoa(parent)
	})
}

func scanProcs(match func(pid int, dir string) bool) ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && match(pid, dir) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// alive tells whether a process exists and is not merely waiting to be reaped:
// orphans of a killed server may stay zombies where nobody reaps them.
func alive(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	fields := statFields(stat)
	return len(fields) > 0 && fields[0] != "Z" && fields[0] != "X"
}

// statFields splits what follows the command name in /proc/<pid>/stat, which
// may hold anything, spaces included: state, parent, and so on.
func statFields(stat []byte) []string {
	text := string(stat)
	return strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
}

// cpuTime is the processor time that a process has used, in user and in kernel
// mode: fields 14 and 15 of its stat, in hundredths of a second on every Linux
// that Go runs on.
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	fields := statFields(stat)
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d: its stat has %d fields", pid, len(fields))
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
