package devnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Operate runs one of the operator's commands (sluicectl) at this sluiced, as a
// person would, and returns what it prints, also when it failed.
func (s *Sluiced) Operate(ctx context.Context, args ...string) ([]byte, error) {
	bin, err := FindSluice()
	if err != nil {
		return nil, err
	}
	at := []string{"--server", s.GRPC, "--tls-cert", s.TLSCert, "--macaroon", s.Macaroon}
	return runCommand(exec.CommandContext(ctx, filepath.Join(bin, "sluicectl"), append(at, args...)...), args[0])
}

// runCommand returns what a command prints; its error says what it was told.
func runCommand(cmd *exec.Cmd, what string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s %s: %w: %s", filepath.Base(cmd.Path), what, err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// booksLimit is three times what lnd may take to write its forwarding history.
const booksLimit = 45 * time.Second

// WaitBooks waits until the books equal lnd's to the sat, in all and in each
// channel, and returns the comparison as `sluicectl reconcile` prints it.
func (s *Sluiced) WaitBooks(ctx context.Context) (string, error) {
	limited, cancel := context.WithTimeout(ctx, booksLimit)
	defer cancel()
	type detail struct {
		Account string `json:"account"`
	}
	last := ""
	err := WaitFor(limited, "the books to equal lnd's to the sat", func(ctx context.Context) (bool, error) {
		out, err := s.Operate(ctx, "reconcile", "--json")
		var report struct {
			Balanced bool     `json:"balanced"`
			Details  []detail `json:"details"`
		}
		// It exits with 1 when they differ.
		if jsonErr := json.Unmarshal(out, &report); jsonErr != nil {
			return false, errors.Join(err, jsonErr)
		}
		last = string(out)
		off := slices.ContainsFunc(report.Details, func(d detail) bool { return strings.HasPrefix(d.Account, "channels/") })
		return report.Balanced && !off, nil
	})
	if err != nil {
		return "", fmt.Errorf("%w; the last comparison:\n%s", err, last)
	}
	out, err := s.Operate(ctx, "reconcile")
	return string(out), err
}
