//go:build !linux

package devnet

import (
	"errors"
	"syscall"
	"time"
)

// sysProcAttr puts the child into a process group of its own. Other systems
// than Linux have no parent-death signal: there only Close ends the children.
func sysProcAttr(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: cred}
}

func processesMentioning(string) ([]int, error) { return nil, nil }

func childrenOf(int) ([]int, error) { return nil, nil }

func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

func cpuTime(int) (time.Duration, error) { return 0, errors.ErrUnsupported }
