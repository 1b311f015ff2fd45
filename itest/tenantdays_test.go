//go:build itest

package itest

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// begin starts sluicectl and gives how to kill it.
func (h *hosting) begin(ctx context.Context, args ...string) (kill func()) {
	h.t.Helper()
	bin, err := devnet.FindSluice()
	require.NoError(h.t, err)
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "sluicectl"), append([]string{"--server", h.s.GRPC, "--data-dir", h.s.Dir}, args...)...)
	require.NoError(h.t, cmd.Start())
	return func() {
		// On a fast machine it may have ended: then what follows does it once more.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// TestTenantDays: an onboarding that is begun twice at once, and killed at its steps; then
// a signer that is slow, and one that dies in the middle of a payment.
func TestTenantDays(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	h := startHosting(ctx, t)
	x := h.signUp(ctx, "acme")
	dir := filepath.Join(h.Dir(), "acme-node")
	rpc, err := h.Port()
	require.NoError(t, err)
	peers, err := h.Port()
	require.NoError(t, err)
	add := []string{
		"tenant", "add", "acme", x.bundle, "--dir", dir, "--network", "regtest", "--node-rpc", rpc, "--node-peers", peers, "--backend", h.backend,
		"--gateway", h.Gateway.PubKey + "@" + h.Gateway.P2PAddr, "--out", filepath.Join(h.dir, "acme.macaroon"), "--wait", "3m",
	}
	// Killed while it waits for the node; a second one meanwhile is refused.
	kill := h.begin(ctx, add...)
	h.awaitFile(ctx, filepath.Join(dir, "wallet.password"))
	out, code := h.ctl(ctx, add...)
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "another sluicectl works on "+dir)
	kill()
	// Killed once the wallet is made, while the node starts.
	x.node, err = h.Adopt(ctx, devnet.Adopted{Name: "acme-node", Dir: dir, RPC: rpc, P2P: peers, Chain: true, Args: []string{"--nobootstrap", "--trickledelay=50", "--minbackoff=200ms", "--maxbackoff=1s"}})
	require.NoError(t, err)
	kill = h.begin(ctx, add...)
	h.awaitFile(ctx, filepath.Join(dir, "data", "chain", "bitcoin", "regtest", "admin.macaroon"))
	kill()
	out, code = h.ctl(ctx, add...)
	require.Zero(t, code, out)
	require.Contains(t, out, "acme is active")
	require.NoError(t, h.Served(ctx, x.node))
	require.Equal(t, x.signer.PubKey, x.node.PubKey)
	h.paysAndIsPaid(ctx, x)

	// Slow, within the node's timeout of five seconds: the payment takes as long.
	slow := func(d time.Duration) *lnrpc.Payment {
		invoice, err := h.Gateway.Invoice(ctx, 1_000_000)
		require.NoError(t, err)
		require.NoError(t, x.signer.Freeze())
		group, groupCtx := errgroup.WithContext(ctx)
		var paid *lnrpc.Payment
		group.Go(func() (err error) {
			paid, err = x.node.Pay(groupCtx, invoice.PaymentRequest)
			return err
		})
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-x.node.Proc().Exited():
		}
		require.NoError(t, x.signer.Thaw())
		if group.Wait() != nil {
			return nil
		}
		return paid
	}
	paid := slow(2 * time.Second)
	require.NotNil(t, paid)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, paid.Status)
	// Beyond it: the node ends, and what was under way is whole afterwards.
	require.NoError(t, x.node.WaitNoHTLCs(ctx))
	settled, err := x.node.LN.ChannelBalance(ctx, &lnrpc.ChannelBalanceRequest{})
	require.NoError(t, err)
	before := int64(settled.LocalBalance.Sat) //nolint:gosec // small
	slow(time.Minute)
	<-x.node.Proc().Exited()
	require.NoError(t, x.node.Start(ctx))
	require.NoError(t, h.Served(ctx, x.node))
	// lnd may list the payment as under way for good (seen): its HTLC never came to be, and
	// its money is there.
	balance := func() int64 {
		got, err := x.node.LN.ChannelBalance(ctx, &lnrpc.ChannelBalanceRequest{})
		require.NoError(t, err)
		return int64(got.LocalBalance.Sat) //nolint:gosec // small
	}
	require.NoError(t, x.node.WaitNoHTLCs(ctx))
	require.Contains(t, []int64{before, before - 1_000}, balance())
	h.pay(ctx, x.node, h.Payer)
	h.pay(ctx, h.Payer, x.node)
}
