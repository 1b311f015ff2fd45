//go:build itest

package itest

import (
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// TestSupervisor: a hosted node dies with its signer, is left down while that is away,
// comes back with it, and is drained when its tenant wishes.
func TestSupervisor(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	h := startHosting(ctx, t)
	x := h.signUp(ctx, "acme")
	peers, err := devnet.FindPeers()
	require.NoError(t, err)
	h.onboard(ctx, x, "--lnd", filepath.Join(peers, "lnd"))
	// Whom the supervisor starts outlives it.
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, _ = x.node.LN.StopDaemon(ctx, &lnrpc.StopRequest{})
	})
	h.paysAndIsPaid(ctx, x)
	bin, err := devnet.FindSluice()
	require.NoError(t, err)
	supervisor := h.NewProc(devnet.Command{Name: "supervisor", Path: filepath.Join(bin, "sluicectl"), Args: []string{
		"--server", h.s.GRPC, "--data-dir", h.s.Dir, "tenant", "supervise", "--every", "300ms", "--probe", "1s",
	}})
	require.NoError(t, supervisor.Start(ctx))
	h.shows(ctx, "Node +running", "Signer +answers", "SignMessage +p50", "SignPsbt +p50")

	require.NoError(t, x.signer.Kill())
	// Its next signature is its end.
	_, err = x.node.LN.SignMessage(ctx, &lnrpc.SignMessageRequest{Msg: []byte("still?")})
	require.Error(t, err)
	<-x.node.Proc().Exited()
	h.shows(ctx, "Node +waiting", "AWAY", "its signer does not answer")
	require.NoError(t, x.signer.Start(ctx))
	require.NoError(t, devnet.WaitFor(ctx, "the signer to be unlocked", func(ctx context.Context) (bool, error) {
		_, err := lnrpc.NewWalletUnlockerClient(x.signer.Conn).UnlockWallet(ctx, &lnrpc.UnlockWalletRequest{WalletPassword: []byte("devnet-" + x.signer.Name)})
		return err == nil || strings.Contains(err.Error(), "already"), nil
	}))
	h.shows(ctx, "Node +running", "Started again +[1-9]")
	h.pay(ctx, h.Payer, x.node)

	// Drained by the tenant, with the macaroon that is its own.
	my := func(args ...string) {
		out, code := h.ctl(ctx, append([]string{"--macaroon", filepath.Join(h.dir, "acme.macaroon"), "my", "drain"}, args...)...)
		require.Zero(t, code, out)
	}
	my()
	h.shows(ctx, "Node +drained")
	_, err = x.node.LN.GetInfo(ctx, &lnrpc.GetInfoRequest{})
	require.Error(t, err)
	my("--undo")
	h.shows(ctx, "Node +running")
	h.pay(ctx, x.node, h.Payer)
	h.pay(ctx, h.Payer, x.node)
	// The supervisor's own end ends no node.
	require.NoError(t, supervisor.Kill())
	h.pay(ctx, x.node, h.Payer)
	require.NoError(t, supervisor.Start(ctx))
	h.shows(ctx, "Node +running", "Started again +0")
	_, err = x.node.LN.StopDaemon(ctx, &lnrpc.StopRequest{})
	require.NoError(t, err)
	my()
	h.shows(ctx, "Node +drained")
}

// shows waits until tenant show says all of it.
func (h *hosting) shows(ctx context.Context, patterns ...string) {
	h.t.Helper()
	last := ""
	err := devnet.WaitFor(ctx, strings.Join(patterns, " and "), func(ctx context.Context) (bool, error) {
		out, code := h.ctl(ctx, "tenant", "show", "acme")
		require.Zero(h.t, code, out)
		last = out
		for _, p := range patterns {
			if !regexp.MustCompile(p).MatchString(out) {
				return false, nil
			}
		}
		return true, nil
	})
	require.NoError(h.t, err, last)
}
