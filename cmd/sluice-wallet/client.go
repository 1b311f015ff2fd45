package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sluice-lsp/sluice/backupsvc/agent/backupagentv1"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
	"github.com/sluice-lsp/sluice/lsp/collab/agent/fundagentv1"
	"github.com/sluice-lsp/sluice/lws/agent/holdagentv1"
	"github.com/sluice-lsp/sluice/swaps/agent/swapagentv1"
)

func (g *Globals) socket() string {
	if g.Control != "" {
		return g.Control
	}
	return filepath.Join(g.DataDir, agent.SocketFile)
}

// daemon is what the daemon serves.
type daemon struct {
	wallet  agentv1.WalletClient
	backups backupagentv1.WalletBackupsClient
	funding fundagentv1.WalletFundingClient
	holds   holdagentv1.WalletHoldsClient
	swaps   swapagentv1.WalletSwapsClient
}

// wallet calls the daemon.
func (g *Globals) wallet(ctx context.Context, call func(context.Context, agentv1.WalletClient) error) error {
	return g.control(ctx, func(ctx context.Context, d *daemon) error { return call(ctx, d.wallet) })
}

// control calls the daemon and gives its errors their kind and words back.
func (g *Globals) control(ctx context.Context, call func(context.Context, *daemon) error) error {
	if _, err := os.Stat(g.socket()); errors.Is(err, os.ErrNotExist) {
		return errkind.Newf(errkind.Unavailable, "the daemon is not running (no socket %s): start it with `sluice-wallet run`, or name its --data-dir", g.socket())
	}
	// The socket's mode is what protects it: only the daemon's user opens it.
	conn, err := grpc.NewClient("unix:"+g.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	err = rpcserver.FromStatus(call(ctx, &daemon{
		wallet: agentv1.NewWalletClient(conn), backups: backupagentv1.NewWalletBackupsClient(conn), funding: fundagentv1.NewWalletFundingClient(conn),
		holds: holdagentv1.NewWalletHoldsClient(conn), swaps: swapagentv1.NewWalletSwapsClient(conn),
	}))
	if errkind.Of(err) == errkind.Unavailable && strings.Contains(err.Error(), "connection error") {
		return errkind.Wrap(errkind.Unavailable, err, "the daemon does not answer on "+g.socket()+": start it with `sluice-wallet run`")
	}
	return err
}

// amountArg is an amount on the command line: satoshis, or with its unit.
type amountArg ln.Msat

// UnmarshalText reads "100000", "100_000", "100000sat" or "1500msat".
func (a *amountArg) UnmarshalText(text []byte) error {
	s := strings.ReplaceAll(string(text), "_", "")
	digits, factor := s, uint64(1000)
	switch {
	case strings.HasSuffix(s, "msat"):
		digits, factor = strings.TrimSuffix(s, "msat"), 1
	case strings.HasSuffix(s, "sat"):
		digits = strings.TrimSuffix(s, "sat")
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > uint64(ln.MaxMsat)/factor {
		return fmt.Errorf("%q: want an amount like 100000 (satoshis) or 1500msat", clip(string(text)))
	}
	*a = amountArg(n * factor)
	return nil
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
