//go:build itest

package itest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// killedAt begins a command and kills it (SIGKILL) as soon as a step of it can be seen.
func (h *hosting) killedAt(ctx context.Context, what string, seen func(context.Context) bool, args []string) {
	h.t.Helper()
	kill := h.begin(ctx, args...)
	err := devnet.WaitFor(ctx, what, func(ctx context.Context) (bool, error) { return seen(ctx), nil })
	kill()
	require.NoError(h.t, err)
}

func isThere(path string) func(context.Context) bool {
	return func(context.Context) bool {
		_, err := os.Stat(path)
		return err == nil
	}
}

// says tells whether tenant show says something.
func (h *hosting) says(tenant, word string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		out, _ := h.ctl(ctx, "tenant", "show", tenant)
		return strings.Contains(out, word)
	}
}

// TestTenantDays: both sides' commands are killed at each of their steps, and two
// onboardings are begun at once; then a signer that is slow, below, near, at and beyond the
// node's timeout, one that dies in the middle of a payment, and one that is replaced.
func TestTenantDays(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Minute)
	defer cancel()
	h := startHosting(ctx, t)
	x := h.signUpKilled(ctx, "acme")
	h.onboardKilled(ctx, x)
	h.paysAndIsPaid(ctx, x)
	d := &slowDay{hosting: h, x: x}
	d.below(ctx)
	d.beyond(ctx)
	d.diesInAPayment(ctx)
	h.replaced(ctx, x)
}

// signUpKilled is the tenant's side, killed at each step that leaves something behind.
func (h *hosting) signUpKilled(ctx context.Context, name string) *hosted {
	t := h.t
	x := &hosted{name: name, bundle: filepath.Join(h.dir, name+".bundle")}
	dir := filepath.Join(h.Dir(), name+"-signer")
	var err error
	x.address, err = h.Port()
	require.NoError(t, err)
	init := x.initFlags(h)
	h.killedAt(ctx, "the signer's lnd.conf", isThere(filepath.Join(dir, "lnd.conf")), init)
	x.signer, err = h.Adopt(ctx, devnet.Adopted{Name: name + "-signer", Dir: dir, RPC: x.address, MakeWallet: true})
	require.NoError(t, err)
	h.killedAt(ctx, "the birthday", isThere(filepath.Join(dir, "sluice-signer.json")), init)
	require.NoError(t, h.Served(ctx, x.signer))
	h.killedAt(ctx, "the macaroon", isThere(filepath.Join(dir, "sluice-signer.macaroon")), init)
	h.killedAt(ctx, "the bundle", isThere(x.bundle), init)
	out, code := h.ctl(ctx, init...)
	require.Zero(t, code, out)
	ids, err := x.signer.LN.ListMacaroonIDs(ctx, &lnrpc.ListMacaroonIDsRequest{})
	require.NoError(t, err)
	require.LessOrEqual(t, len(ids.RootKeyIds), 3, "one of lnd's own, ours, and at most one whose macaroon was lost in a kill")
	return x
}

// onboardKilled is the operator's side, killed at each of its steps, and begun twice.
func (h *hosting) onboardKilled(ctx context.Context, x *hosted) {
	t := h.t
	dir := filepath.Join(h.Dir(), x.name+"-node")
	rpc, err := h.Port()
	require.NoError(t, err)
	peers, err := h.Port()
	require.NoError(t, err)
	macaroon := filepath.Join(h.dir, x.name+".macaroon")
	add := []string{
		"tenant", "add", x.name, x.bundle, "--dir", dir, "--network", "regtest", "--node-rpc", rpc, "--node-peers", peers, "--backend", h.backend,
		"--gateway", h.Gateway.PubKey + "@" + h.Gateway.P2PAddr, "--out", macaroon, "--wait", "3m",
	}
	x.addFlags = add
	h.killedAt(ctx, "the claim", isThere(filepath.Join(h.s.Dir, "hosted", x.name+".d", "node.json")), add)
	h.killedAt(ctx, "the registration", h.says(x.name, "onboarding"), add)
	h.killedAt(ctx, "the node's lnd.conf", isThere(filepath.Join(dir, "lnd.conf")), add)
	// Two at once, in the same directory and in another one.
	password := filepath.Join(dir, "wallet.password")
	if err := os.Remove(password); !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	kill := h.begin(ctx, add...)
	// It writes it anew behind its locks, and waits for the node then.
	h.awaitFile(ctx, password)
	out, code := h.ctl(ctx, add...)
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "another sluicectl works on ")
	elsewhere := strings.Split(strings.ReplaceAll(strings.Join(add, "\n"), dir, dir+"-2"), "\n")
	out, code = h.ctl(ctx, elsewhere...)
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "another sluicectl works on ")
	kill()
	out, code = h.ctl(ctx, elsewhere...)
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "a second one of the same seed")
	// On another machine, which has the gateway's files and none of this one's.
	there := append(append([]string{}, elsewhere...), "--host", "another", "--data-dir", t.TempDir(), "--tls-cert", filepath.Join(h.s.Dir, "tls.cert"),
		"--macaroon", filepath.Join(h.s.Dir, "operator.macaroon"), "--key", filepath.Join(h.s.Dir, "onboarding.key"))
	out, code = h.ctl(ctx, there...)
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "is made or runs at another place: ")
	require.Contains(t, out, ":"+dir+", since ")
	require.False(t, isThere(filepath.Join(dir+"-2", "lnd.conf"))(ctx))

	first, err := os.ReadFile(password)
	require.NoError(t, err)
	x.node, err = h.Adopt(ctx, devnet.Adopted{Name: x.name + "-node", Dir: dir, RPC: rpc, P2P: peers, Chain: true, Args: []string{"--nobootstrap", "--trickledelay=50", "--minbackoff=200ms", "--maxbackoff=1s"}})
	require.NoError(t, err)
	h.killedAt(ctx, "the wallet", isThere(filepath.Join(dir, "data", "chain", "bitcoin", "regtest", "admin.macaroon")), add)
	h.killedAt(ctx, "the node in the registry", h.says(x.name, x.signer.PubKey[:16]), add)
	h.killedAt(ctx, "the tenant to be active", h.says(x.name, "active"), add)
	h.killedAt(ctx, "the first macaroon", isThere(macaroon), add)
	out, code = h.ctl(ctx, add...)
	require.Zero(t, code, out)
	require.Contains(t, out, x.name+" is active")
	require.NoError(t, h.Served(ctx, x.node))
	require.Equal(t, x.signer.PubKey, x.node.PubKey)
	again, err := os.ReadFile(password)
	require.NoError(t, err)
	require.Equal(t, first, again)
}

// slowDay is a node and its signer on bad days. What the node's timeout (five seconds)
// makes of them is lnd's; that nothing is lost by it is what is asked.
type slowDay struct {
	*hosting
	x *hosted
}

func (d *slowDay) balance(ctx context.Context) int64 {
	got, err := d.x.node.LN.ChannelBalance(ctx, &lnrpc.ChannelBalanceRequest{})
	require.NoError(d.t, err)
	return int64(got.LocalBalance.Sat) //nolint:gosec // small
}

// pays begins a payment while the signer does not answer, does something once that has
// lasted for d or the node has ended, and gives how the payment ended.
func (d *slowDay) pays(ctx context.Context, after time.Duration, then func()) *lnrpc.Payment {
	t := d.t
	invoice, err := d.Gateway.Invoice(ctx, 1_000_000)
	require.NoError(t, err)
	require.NoError(t, d.x.signer.Freeze())
	group, groupCtx := errgroup.WithContext(ctx)
	var paid *lnrpc.Payment
	group.Go(func() (err error) {
		paid, err = d.x.node.Pay(groupCtx, invoice.PaymentRequest)
		return err
	})
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.x.node.Proc().Exited():
	}
	then()
	if group.Wait() != nil {
		return nil
	}
	return paid
}

func (d *slowDay) thaw() { require.NoError(d.t, d.x.signer.Thaw()) }

// below: within the timeout, also near it, the payment takes as long.
func (d *slowDay) below(ctx context.Context) {
	for _, slow := range []time.Duration{2 * time.Second, 4 * time.Second} {
		require.NoError(d.t, d.x.node.WaitNoHTLCs(ctx))
		before := d.balance(ctx)
		paid := d.pays(ctx, slow, d.thaw)
		require.NotNil(d.t, paid, "%s", slow)
		require.Equal(d.t, lnrpc.Payment_SUCCEEDED, paid.Status)
		require.NoError(d.t, d.x.node.WaitNoHTLCs(ctx))
		require.Equal(d.t, before-1_000, d.balance(ctx))
	}
}

// whole: the node serves again, has no HTLC, and the payment was made or not.
func (d *slowDay) whole(ctx context.Context, before int64) {
	t := d.t
	require.NoError(t, d.x.node.Start(ctx))
	require.NoError(t, d.Served(ctx, d.x.node))
	require.NoError(t, d.x.node.WaitNoHTLCs(ctx))
	require.NoError(t, devnet.WaitFor(ctx, "the channel to be active", func(ctx context.Context) (bool, error) {
		list, err := d.x.node.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{ActiveOnly: true})
		return err == nil && len(list.Channels) == 1, err
	}))
	require.NoError(t, d.x.node.WaitNoHTLCs(ctx))
	// lnd may list the payment as under way for good (seen): its HTLC never came to be, and
	// its money is there.
	require.Contains(t, []int64{before, before - 1_000}, d.balance(ctx))
	d.pay(ctx, d.x.node, d.Payer)
	d.pay(ctx, d.Payer, d.x.node)
	require.NoError(t, d.x.node.WaitNoHTLCs(ctx))
}

// beyond: at the timeout the node ends or goes on, beyond it it ends; either way what was
// under way is whole.
func (d *slowDay) beyond(ctx context.Context) {
	before := d.balance(ctx)
	d.pays(ctx, 5*time.Second, d.thaw)
	timer := time.NewTimer(3 * time.Second)
	defer timer.Stop()
	select {
	case <-d.x.node.Proc().Exited():
	case <-timer.C:
		require.NoError(d.t, d.x.node.Stop(ctx))
	}
	d.whole(ctx, before)
	before = d.balance(ctx)
	d.pays(ctx, time.Minute, d.thaw)
	<-d.x.node.Proc().Exited()
	d.whole(ctx, before)
}

// diesInAPayment: killed while it is asked, and back with its wallet locked.
func (d *slowDay) diesInAPayment(ctx context.Context) {
	t := d.t
	before := d.balance(ctx)
	d.pays(ctx, time.Second, func() { require.NoError(t, d.x.signer.Kill()) })
	<-d.x.node.Proc().Exited()
	require.NoError(t, d.x.signer.Start(ctx))
	require.NoError(t, devnet.WaitFor(ctx, "the signer to be unlocked", func(ctx context.Context) (bool, error) {
		_, err := lnrpc.NewWalletUnlockerClient(d.x.signer.Conn).UnlockWallet(ctx, &lnrpc.UnlockWalletRequest{WalletPassword: []byte("devnet-" + d.x.signer.Name)})
		return err == nil || strings.Contains(err.Error(), "already"), nil
	}))
	// An lnd whose signer is not ready yet ends at once; a supervisor starts it again.
	require.NoError(t, d.Served(ctx, d.x.signer))
	d.whole(ctx, before)
}

// replaced: the tenant's signer has another seed. Its bundle passes the nine checks, and
// is refused before it is put in the node's way.
func (h *hosting) replaced(ctx context.Context, x *hosted) {
	t := h.t
	other := &hosted{name: "acme-again", bundle: filepath.Join(h.dir, "again.bundle")}
	dir := filepath.Join(h.Dir(), other.name+"-signer")
	var err error
	other.address, err = h.Port()
	require.NoError(t, err)
	init := other.initFlags(h)
	for i, f := range init {
		if f == "--tenant" {
			init[i+1] = x.name
		}
	}
	h.while(ctx, func(ctx context.Context) {
		h.awaitFile(ctx, filepath.Join(dir, "lnd.conf"))
		other.signer, err = h.Adopt(ctx, devnet.Adopted{Name: other.name + "-signer", Dir: dir, RPC: other.address, MakeWallet: true})
		require.NoError(t, err)
		require.NoError(t, h.Served(ctx, other.signer))
	}, init...)
	flags := append([]string{}, x.addFlags...)
	for i, f := range flags {
		if f == x.bundle {
			flags[i] = other.bundle
		}
	}
	before, err := os.ReadFile(filepath.Join(x.node.Dir, "signer.macaroon"))
	require.NoError(t, err)
	out, code := h.ctl(ctx, flags...)
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "its signer has another seed now")
	after, err := os.ReadFile(filepath.Join(x.node.Dir, "signer.macaroon"))
	require.NoError(t, err)
	require.Equal(t, before, after)
	h.pay(ctx, x.node, h.Payer)
}
