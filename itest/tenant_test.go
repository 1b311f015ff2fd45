//go:build itest

package itest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lnd/remotesigner"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// hosting is an operator that runs nodes for tenants.
type hosting struct {
	*devnet.Standard
	t   *testing.T
	s   *devnet.Sluiced
	dir string
	// key is the operator's for bundles.
	key string
	// backend is what all its nodes have as their chain.
	backend string
}

// hosted is one tenant with its signer and its watch-only node.
type hosted struct {
	name         string
	signer, node *devnet.Node
	bundle       string
	// addFlags are those of sluicectl tenant add.
	addFlags []string
	address  string
}

// ctl runs sluicectl and gives its output and exit code.
func (h *hosting) ctl(ctx context.Context, args ...string) (string, int) {
	h.t.Helper()
	bin, err := devnet.FindSluice()
	require.NoError(h.t, err)
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "sluicectl"), append([]string{"--server", h.s.GRPC, "--data-dir", h.s.Dir}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return out.String(), exit.ExitCode()
	}
	require.NoError(h.t, err, out.String())
	return out.String(), 0
}

// while runs sluicectl beside f, which it waits for.
func (h *hosting) while(ctx context.Context, f func(context.Context), args ...string) string {
	h.t.Helper()
	type end struct {
		out  string
		code int
	}
	done := make(chan end, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		out, code := h.ctl(ctx, args...)
		if code != 0 {
			// f waits for what will not come.
			h.t.Logf("sluicectl ended with %d:\n%s", code, out)
			cancel()
		}
		done <- end{out, code}
	}()
	f(ctx)
	e := <-done
	require.Zero(h.t, e.code, e.out)
	return e.out
}

func (h *hosting) awaitFile(ctx context.Context, path string) {
	h.t.Helper()
	require.NoError(h.t, devnet.WaitFor(ctx, path, func(context.Context) (bool, error) {
		_, err := os.Stat(path)
		return err == nil, nil
	}))
}

// signUp is the tenant's side: a signer from nothing, its wallet, its bundle.
func (h *hosting) signUp(ctx context.Context, name string) *hosted {
	h.t.Helper()
	x := &hosted{name: name, bundle: filepath.Join(h.dir, name+".bundle")}
	dir := filepath.Join(h.Dir(), name+"-signer")
	var err error
	x.address, err = h.Port()
	require.NoError(h.t, err)
	out := h.while(ctx, func(ctx context.Context) {
		h.awaitFile(ctx, filepath.Join(dir, "lnd.conf"))
		x.signer, err = h.Adopt(ctx, devnet.Adopted{Name: name + "-signer", Dir: dir, RPC: x.address, MakeWallet: true})
		require.NoError(h.t, err)
		require.NoError(h.t, h.Served(ctx, x.signer))
	}, x.initFlags(h)...)
	h.t.Logf("%s:\n%s", name, out)
	require.Contains(h.t, out, "fingerprint")
	return x
}

func (x *hosted) initFlags(h *hosting) []string {
	return []string{
		"signer", "init", "--dir", filepath.Join(h.Dir(), x.name+"-signer"), "--rpc", x.address, "--listen", x.address, "--address", x.address, "--network", "regtest",
		"--tenant", x.name, "--operator", h.key, "--out", x.bundle, "--wait", "3m",
	}
}

// onboard is the operator's side: the node from nothing.
func (h *hosting) onboard(ctx context.Context, x *hosted, more ...string) {
	h.t.Helper()
	dir := filepath.Join(h.Dir(), x.name+"-node")
	rpc, err := h.Port()
	require.NoError(h.t, err)
	peers, err := h.Port()
	require.NoError(h.t, err)
	x.addFlags = []string{
		"tenant", "add", x.name, x.bundle, "--dir", dir, "--network", "regtest", "--node-rpc", rpc, "--node-peers", peers, "--backend", h.backend,
		"--gateway", h.Gateway.PubKey + "@" + h.Gateway.P2PAddr, "--out", filepath.Join(h.dir, x.name+".macaroon"), "--wait", "3m",
	}
	x.addFlags = append(x.addFlags, more...)
	began := time.Now()
	out := h.while(ctx, func(ctx context.Context) {
		h.awaitFile(ctx, filepath.Join(dir, "lnd.conf"))
		x.node, err = h.Adopt(ctx, devnet.Adopted{Name: x.name + "-node", Dir: dir, RPC: rpc, P2P: peers, Chain: true, Args: []string{
			"--nobootstrap", "--trickledelay=50", "--minbackoff=200ms", "--maxbackoff=1s", "--maxpendingchannels=10",
		}})
		require.NoError(h.t, err)
	}, x.addFlags...)
	require.NoError(h.t, h.Served(ctx, x.node))
	h.t.Logf("%s was onboarded in %s:\n%s", x.name, time.Since(began).Round(time.Millisecond), out)
	require.Contains(h.t, out, x.name+" is active")
}

func startHosting(ctx context.Context, t *testing.T) *hosting {
	t.Helper()
	h := &hosting{Standard: devnet.StartStandard(t, devnet.StandardConfig{}), t: t, dir: t.TempDir()}
	var err error
	h.s, err = h.StartSluiced(ctx, h.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{})
	require.NoError(t, err)
	out, code := h.ctl(ctx, "tenant", "key")
	require.Zero(t, code, out)
	h.key = strings.TrimSpace(out)
	again, _ := h.ctl(ctx, "tenant", "key")
	require.Equal(t, out, again, "the key is made once")
	h.backend = filepath.Join(h.dir, "backend.conf")
	require.NoError(t, os.WriteFile(h.backend, []byte(h.BackendConf()), 0o600))
	return h
}

// TestTenant: two tenants with a signer each, watch-only nodes, the gateway; onboarded
// in one command each, paid in both directions, one revoked. Then every row of what can
// be wrong with a signer, on a real one.
func TestTenant(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	h := startHosting(ctx, t)
	acme, bolt := h.signUp(ctx, "acme"), h.signUp(ctx, "bolt")

	// Used for another tenant, and altered: refused before anything.
	out, code := h.ctl(ctx, "tenant", "add", "bolt", acme.bundle, "--dir", filepath.Join(h.dir, "x"), "--network", "regtest")
	require.Equal(t, 1, code)
	require.Contains(t, out, `made for the tenant "acme", not for "bolt"`)
	out, code = h.ctl(ctx, "tenant", "add", "acme", acme.bundle, "--dir", filepath.Join(h.dir, "x"), "--network", "signet")
	require.Equal(t, 1, code)
	require.Contains(t, out, "for a signer on regtest, and this gateway is on signet")

	h.onboard(ctx, acme)
	h.onboard(ctx, bolt)
	require.NotEqual(t, acme.node.PubKey, bolt.node.PubKey)
	require.Equal(t, acme.signer.PubKey, acme.node.PubKey, "one seed, one identity")
	h.oneSignerForTwo(ctx, acme)
	for _, x := range []*hosted{acme, bolt} {
		h.paysAndIsPaid(ctx, x)
	}
	h.changesNothingThatIsRight(ctx, acme)
	h.revoked(ctx, bolt, acme)
	h.rows(ctx, acme, bolt)
}

// oneSignerForTwo: a tenant that has its signer serve another name as well is refused
// before a second node is made of the same seed, which would lose its channels' money.
func (h *hosting) oneSignerForTwo(ctx context.Context, x *hosted) {
	h.t.Helper()
	twice := *x
	twice.bundle = filepath.Join(h.dir, "twice.bundle")
	flags := twice.initFlags(h)
	for i, f := range flags {
		if f == x.name {
			flags[i] = "corp"
		}
	}
	out, code := h.ctl(ctx, flags...)
	require.Zero(h.t, code, out)
	dir := filepath.Join(h.dir, "corp-node")
	out, code = h.ctl(ctx, "tenant", "add", "corp", twice.bundle, "--dir", dir, "--network", "regtest", "--backend", h.backend)
	require.Equal(h.t, 1, code, out)
	require.Contains(h.t, out, "is the tenant acme's already")
	_, err := os.Stat(filepath.Join(dir, "lnd.conf"))
	require.ErrorIs(h.t, err, os.ErrNotExist)
}

// paysAndIsPaid: a spend on chain (the channel's funding), a payment out and one in.
func (h *hosting) paysAndIsPaid(ctx context.Context, x *hosted) {
	h.t.Helper()
	require.NoError(h.t, h.Fund(ctx, devnet.Funding{Node: x.node, CoinSat: 2_000_000, Coins: 2}))
	_, err := h.OpenChannel(ctx, x.node, h.Gateway, devnet.ChannelParams{CapacitySat: 1_500_000, PushSat: 500_000})
	require.NoError(h.t, err)
	for _, way := range []struct{ from, to *devnet.Node }{{x.node, h.Payer}, {h.Payer, x.node}} {
		h.pay(ctx, way.from, way.to)
	}
}

// pay pays once the route is known.
func (h *hosting) pay(ctx context.Context, from, to *devnet.Node) {
	h.t.Helper()
	require.NoError(h.t, devnet.WaitFor(ctx, from.Name+" to pay "+to.Name, func(ctx context.Context) (bool, error) {
		invoice, err := to.Invoice(ctx, 20_000_000)
		if err != nil {
			return false, err
		}
		p, err := from.Send(ctx, &routerrpc.SendPaymentRequest{PaymentRequest: invoice.PaymentRequest, TimeoutSeconds: 20, FeeLimitMsat: 1_000_000})
		if err == nil && p.Status != lnrpc.Payment_SUCCEEDED {
			err = fmt.Errorf("the last payment ended %s, %s", p.Status, p.FailureReason)
		}
		return err == nil, err
	}))
}

// changesNothingThatIsRight: both commands again.
func (h *hosting) changesNothingThatIsRight(ctx context.Context, x *hosted) {
	h.t.Helper()
	read := func() string {
		var all string
		for _, f := range []string{x.node.Dir + "/lnd.conf", x.node.Dir + "/wallet.password", x.node.Dir + "/signer.macaroon", x.signer.Dir + "/lnd.conf", x.signer.Dir + "/sluice-signer.macaroon", x.signer.Dir + "/sluice-signer.json", h.dir + "/" + x.name + ".macaroon"} {
			raw, err := os.ReadFile(f)
			require.NoError(h.t, err)
			all += f + ": " + fmt.Sprintf("%x", raw) + "\n"
		}
		return all
	}
	before := read()
	show, code := h.ctl(ctx, "tenant", "show", x.name, "--json")
	require.Zero(h.t, code, show)
	out, code := h.ctl(ctx, x.initFlags(h)...)
	require.Zero(h.t, code, out)
	out, code = h.ctl(ctx, append(x.addFlags, "--json")...)
	require.Zero(h.t, code, out)
	var got struct {
		Checks []onboard.Result `json:"checks"`
	}
	require.NoError(h.t, json.Unmarshal([]byte(out), &got))
	require.Len(h.t, got.Checks, 10)
	require.Equal(h.t, before, read())
	after, code := h.ctl(ctx, "tenant", "show", x.name, "--json")
	require.Zero(h.t, code, after)
	require.Equal(h.t, show, after)
}

// revoked: one tenant takes its signer's macaroon back. Its node cannot sign from then
// on, and ends; the other's goes on. A new bundle serves it again.
func (h *hosting) revoked(ctx context.Context, x, other *hosted) {
	h.t.Helper()
	out, code := h.ctl(ctx, "signer", "revoke", "--dir", x.signer.Dir, "--rpc", x.address, "--network", "regtest")
	require.Zero(h.t, code, out)
	_, err := x.node.LN.SignMessage(ctx, &lnrpc.SignMessageRequest{Msg: []byte("still?")})
	require.Error(h.t, err)
	out, code = h.ctl(ctx, append(x.addFlags, "--check")...)
	require.Equal(h.t, onboard.Permissions.ExitCode(), code, out)
	require.Contains(h.t, out, "it was revoked")
	h.pay(ctx, other.node, h.Payer)
	out, code = h.ctl(ctx, x.initFlags(h)...)
	require.Zero(h.t, code, out)
	out, code = h.ctl(ctx, append(x.addFlags, "--check")...)
	require.Zero(h.t, code, out)
}

// rows: each way in which a signer is unfit, on a real lnd, by the name of its check.
func (h *hosting) rows(ctx context.Context, x, other *hosted) {
	t := h.t
	open := func(x *hosted) bundle.Bundle {
		raw, err := os.ReadFile(filepath.Join(h.s.Dir, "onboarding.key"))
		require.NoError(t, err)
		key, err := age.ParseX25519Identity(strings.TrimSpace(string(raw)))
		require.NoError(t, err)
		file, err := os.ReadFile(x.bundle)
		require.NoError(t, err)
		b, err := bundle.Open(file, key, bundle.Expect{Tenant: x.name, Network: "regtest"})
		require.NoError(t, err)
		return b
	}
	bake := func(ops ...onboard.Op) []byte {
		path := filepath.Join(t.TempDir(), "macaroon")
		var rights []string
		for _, op := range ops {
			for _, a := range op.Actions {
				rights = append(rights, op.Entity+":"+a)
			}
		}
		require.NoError(t, x.signer.Bake(ctx, path, rights))
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		return raw
	}
	admin, err := os.ReadFile(x.signer.AdminMacaroonPath())
	require.NoError(t, err)
	for _, row := range []struct {
		name  string
		check onboard.Name
		spoil func(*bundle.Bundle, *onboard.Input)
	}{
		{"nobody answers", onboard.Reachable, func(b *bundle.Bundle, _ *onboard.Input) { b.Address = "127.0.0.1:1" }},
		{"another certificate", onboard.Reachable, func(b *bundle.Bundle, _ *onboard.Input) { b.Certificate = open(other).Certificate }},
		{"a certificate that ends soon", onboard.Reachable, func(_ *bundle.Bundle, in *onboard.Input) { in.Now = in.Now.AddDate(1, 1, 15) }},
		{"info:read only", onboard.Permissions, func(b *bundle.Bundle, _ *onboard.Input) {
			b.Macaroon = bake(onboard.Op{Entity: "info", Actions: []string{"read"}})
		}},
		{"the documented macaroon", onboard.Permissions, func(b *bundle.Bundle, _ *onboard.Input) { b.Macaroon = bake(onboard.Documented()...) }},
		{"the admin's macaroon", onboard.Excess, func(b *bundle.Bundle, _ *onboard.Input) { b.Macaroon = admin }},
		{"no taproot account", onboard.Accounts, func(b *bundle.Bundle, _ *onboard.Input) {
			for i, a := range b.Accounts {
				if a.Path == "m/86'/0'/0'" {
					b.Accounts = append(b.Accounts[:i:i], b.Accounts[i+1:]...)
					return
				}
			}
		}},
		{"ten families", onboard.Accounts, func(b *bundle.Bundle, _ *onboard.Input) { b.Accounts = b.Accounts[:13] }},
		{"another tenant's seed", onboard.Keys, func(b *bundle.Bundle, _ *onboard.Input) { b.Accounts = open(other).Accounts }},
		{"another network", onboard.Network, func(_ *bundle.Bundle, in *onboard.Input) { in.Network = "mainnet" }},
		{"no birthday", onboard.Birthday, func(b *bundle.Bundle, _ *onboard.Input) { b.Birthday = time.Time{} }},
		{"a fit signer", "", func(*bundle.Bundle, *onboard.Input) {}},
	} {
		t.Run("row/"+row.name, func(t *testing.T) {
			in := onboard.Input{Bundle: open(x), Network: "regtest", Now: time.Now(), Random: rand.Reader}
			row.spoil(&in.Bundle, &in)
			mac, err := remotesigner.ReadMacaroon(in.Bundle.Macaroon)
			require.NoError(t, err)
			for _, op := range mac.Ops {
				in.Ops = append(in.Ops, onboard.Op(op))
			}
			signer, err := remotesigner.Dial(remotesigner.Config{Address: in.Bundle.Address, Certificate: in.Bundle.Certificate, Macaroon: in.Bundle.Macaroon})
			require.NoError(t, err)
			defer func() { _ = signer.Close() }()
			report := onboard.Run(ctx, in, signer)
			first, failed := report.FirstFailed()
			require.Equal(t, row.check, first.Check, "%+v", report.Results)
			require.Equal(t, row.check != "", failed)
		})
	}
	// A signer that was started again waits for its wallet to be opened.
	require.NoError(t, x.signer.Stop(ctx))
	require.NoError(t, x.signer.Start(ctx))
	require.NoError(t, devnet.WaitFor(ctx, "the signer to wait", func(ctx context.Context) (bool, error) {
		out, code := h.ctl(ctx, append(x.addFlags, "--check")...)
		return code == onboard.Unlocked.ExitCode() && strings.Contains(out, "wallet is locked"), nil
	}))
}
