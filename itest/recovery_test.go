//go:build itest

package itest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/lws/tenant/recovery"
)

// homeless is a tenant whose node's database is followed at home.
type homeless struct {
	*guardedSigner
	h       *hosting
	primary *devnet.Postgres
	standby *devnet.Standby
	// replica is what the operator gave, note what the tenant saw.
	replica, note string
	watch         *devnet.Proc
}

// TestRecovery is docs/recovery.md, step by step: a tenant follows its node's database,
// operator and gateway die, and the tenant alone gets its money. A copy that is older is
// found out, before any lnd is started on it.
func TestRecovery(t *testing.T) {
	untilTrusted(t)
	if _, err := devnet.FindPostgres(); errors.Is(err, devnet.ErrNoPostgres) {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Minute)
	defer cancel()
	h := startHosting(ctx, t)
	x := &homeless{h: h, guardedSigner: h.signUpGuarded(ctx, "acme"), replica: filepath.Join(h.dir, "acme.replica"), note: filepath.Join(h.dir, "replica.json")}
	var err error
	x.primary, err = h.StartPostgres(ctx)
	require.NoError(t, err)
	dsn, err := x.primary.CreateDatabase(ctx, "acme")
	require.NoError(t, err)
	h.onboard(ctx, x.hosted, "--dsn-file", x.file("node.dsn", dsn))

	x.follows(ctx, dsn)
	h.paysAndIsPaid(ctx, x.hosted)
	x.waitsForItsTenant(ctx)
	x.crashesWithout(ctx)
	old := x.older(ctx)
	h.pay(ctx, x.node, h.Payer)
	h.pay(ctx, h.Payer, x.node)
	require.NoError(t, x.node.WaitNoHTLCs(ctx))
	channels, err := x.node.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(t, err)
	require.Len(t, channels.Channels, 1)
	coins, err := x.node.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
	require.NoError(t, err)

	x.seen(ctx, time.Now())
	// While the operator is there, nothing is proven: the next moment may add a state.
	verdicts, code := x.check(ctx, x.standby, "early")
	require.Equal(t, 3, code)
	require.Contains(t, verdicts.Replication, "still sends")

	// The machines of operator and gateway are gone.
	require.NoError(t, x.node.Kill())
	require.NoError(t, h.s.Kill())
	require.NoError(t, h.Gateway.Kill())
	require.NoError(t, x.primary.Kill())

	// 1. The host's node can do nothing more, should it come back.
	out, code := h.ctl(ctx, "signer", "revoke", "--dir", x.signer.Dir, "--rpc", x.hosted.address, "--network", "regtest")
	require.Zero(t, code, out)
	// 2. The proof. An older copy fails it.
	require.NoError(t, old.Start(ctx))
	verdicts, code = x.check(ctx, old, "old")
	require.Equal(t, 4, code, "%+v", verdicts)
	require.Equal(t, "stale", verdicts.Channels[0].Verdict)
	out, code = h.ctl(ctx, x.nodeFlags("old", old)...)
	require.Equal(t, 1, code)
	require.Contains(t, out, "1 channel(s) are stale in this replica")
	verdicts, code = x.check(ctx, x.standby, "home")
	require.Zero(t, code, "%+v", verdicts)
	require.Len(t, verdicts.Channels, 1)
	require.Equal(t, channels.Channels[0].ChannelPoint, verdicts.Channels[0].Point)
	require.Equal(t, channels.Channels[0].NumUpdates, verdicts.Channels[0].State)

	// 3. A node at home, on the promoted replica.
	out, code = h.ctl(ctx, x.nodeFlags("home", x.standby)...)
	require.Zero(t, code, out)
	require.NoError(t, x.standby.Promote(ctx))
	home := x.home(ctx)
	require.Equal(t, x.signer.PubKey, home.PubKey)
	// 4. The channels are closed, and everything comes home.
	out, code = h.ctl(ctx, "signer", "recover", "close", "--dir", home.Dir, "--node-rpc", home.RPCAddr, "--network", "regtest", "--grace", "3s", "--json")
	require.Zero(t, code, out)
	require.Contains(t, out, `"did": "force-closed"`)
	h.comesHome(ctx, home)
	after, err := home.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
	require.NoError(t, err)
	want := coins.TotalBalance + channels.Channels[0].LocalBalance
	t.Logf("%d sat of %d came home", after.ConfirmedBalance, want)
	require.Greater(t, after.ConfirmedBalance, want-20_000, "less the fees of closing and sweeping")
	require.LessOrEqual(t, after.ConfirmedBalance, want+channels.Channels[0].CommitFee+700)

	// 5. And can be spent, with the signer and nobody else.
	to, err := h.Payer.LN.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
	require.NoError(t, err)
	_, err = home.LN.SendCoins(ctx, &lnrpc.SendCoinsRequest{Addr: to.Address, SendAll: true, SatPerVbyte: 2})
	require.NoError(t, err)
}

// file writes a file and gives its path.
func (x *homeless) file(name, content string) string {
	path := filepath.Join(x.h.dir, name)
	require.NoError(x.h.t, os.WriteFile(path, []byte(content+"\n"), 0o600))
	return path
}

// follows: both sides' commands, once around until commits wait for the replica.
func (x *homeless) follows(ctx context.Context, dsn string) {
	h, t := x.h, x.h.t
	admin := x.file("admin.dsn", dsn)
	address := strings.Split(strings.TrimPrefix(dsn, "postgres://"), "/")[0]
	_, address, _ = strings.Cut(address, "@")
	operator := []string{"tenant", "replica", "acme", "--admin-dsn-file", admin, "--address", address, "--sslmode", "disable", "--out", x.replica}
	out, code := h.ctl(ctx, operator...)
	require.Zero(t, code, out)
	require.Contains(t, out, "does not follow yet")
	first, err := os.ReadFile(x.replica)
	require.NoError(t, err)
	look := []string{"signer", "replica", "watch", x.replica, "--note", x.note, "--once"}
	out, code = h.ctl(ctx, look...)
	require.Equal(t, 1, code)
	require.Contains(t, out, "the replica does not follow")

	x.standby, err = h.NewStandby("acme-standby")
	require.NoError(t, err)
	out, code = h.ctl(ctx, "signer", "replica", "base", x.replica, "--to", x.standby.Data())
	require.Zero(t, code, out)
	require.NoError(t, x.standby.Make(ctx, out))
	require.NoError(t, devnet.WaitFor(ctx, "the replica to follow", func(ctx context.Context) (bool, error) {
		out, code := h.ctl(ctx, look...)
		return code == 1 && strings.Contains(out, "commits do not wait"), nil
	}))
	for range 2 { // the second time changes nothing
		out, code = h.ctl(ctx, operator...)
		require.Zero(t, code, out)
		require.Contains(t, out, "Every commit of the node waits")
	}
	again, err := os.ReadFile(x.replica)
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.NoError(t, devnet.WaitFor(ctx, "the replication to be synchronous", func(ctx context.Context) (bool, error) {
		_, code := h.ctl(ctx, look...)
		return code == 0, nil
	}))
	// The node's own sessions were there before: they are asked to heed the setting by the reload.
	bin, err := devnet.FindSluice()
	require.NoError(t, err)
	x.watch = h.NewProc(devnet.Command{Name: "replica-watch", Path: filepath.Join(bin, "sluicectl"), Args: []string{"signer", "replica", "watch", x.replica, "--note", x.note, "--every", "1s"}})
	require.NoError(t, x.watch.Start(ctx))
}

// waitsForItsTenant: a replica that does not answer holds the node up, and nothing is lost
// by it; the payment goes through when it is back.
func (x *homeless) waitsForItsTenant(ctx context.Context) {
	t := x.h.t
	require.NoError(t, x.node.WaitNoHTLCs(ctx))
	invoice, err := x.h.Gateway.Invoice(ctx, 1_000_000)
	require.NoError(t, err)
	require.NoError(t, x.standby.Freeze())
	group, groupCtx := errgroup.WithContext(ctx)
	paid := make(chan struct{})
	group.Go(func() error {
		defer close(paid)
		p, err := x.node.Pay(groupCtx, invoice.PaymentRequest)
		if err == nil && p.Status != lnrpc.Payment_SUCCEEDED {
			err = fmt.Errorf("the payment ended %s", p.Status)
		}
		return err
	})
	timer := time.NewTimer(4 * time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-paid:
		t.Error("a payment was made that the tenant's replica does not have")
	}
	require.NoError(t, x.standby.Thaw())
	require.NoError(t, group.Wait())
}

// crashesWithout: PostgreSQL shows after a crash what it had committed and not sent yet.
// The node must tell nobody of it while the replica is away: it comes to its peers only
// once that answers.
func (x *homeless) crashesWithout(ctx context.Context) {
	t := x.h.t
	require.NoError(t, x.node.WaitNoHTLCs(ctx))
	invoice, err := x.h.Gateway.Invoice(ctx, 1_000_000)
	require.NoError(t, err)
	require.NoError(t, x.standby.Freeze())
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		// It ends with the node.
		_, _ = x.node.Pay(groupCtx, invoice.PaymentRequest)
		return nil
	})
	pause := func(d time.Duration) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		<-timer.C
	}
	pause(2 * time.Second)
	require.NoError(t, x.primary.Kill())
	require.NoError(t, x.node.Kill())
	require.NoError(t, group.Wait())
	require.NoError(t, x.primary.Start(ctx))
	require.NoError(t, x.node.Start(ctx))
	for range 20 {
		pause(500 * time.Millisecond)
		peers, err := x.h.Gateway.LN.ListPeers(ctx, &lnrpc.ListPeersRequest{})
		require.NoError(t, err)
		for _, p := range peers.Peers {
			require.NotEqual(t, x.node.PubKey, p.PubKey, "the node speaks to its peer while its tenant's replica is away")
		}
	}
	require.NoError(t, x.standby.Thaw())
	require.NoError(t, x.h.Served(ctx, x.node))
	x.h.pay(ctx, x.node, x.h.Payer)
	x.h.pay(ctx, x.h.Payer, x.node)
}

// seen waits until the watch has seen the replication synchronous since. While the replica
// was started anew it was not, and a machine that is gone then proves nothing.
func (x *homeless) seen(ctx context.Context, since time.Time) {
	require.NoError(x.h.t, devnet.WaitFor(ctx, "the watch to see the replica follow", func(context.Context) (bool, error) {
		raw, err := os.ReadFile(x.note)
		if err != nil {
			return false, err
		}
		var s recovery.Sighting
		if err := json.Unmarshal(raw, &s); err != nil {
			return false, err
		}
		return s.Synchronous && s.AtMs >= since.UnixMilli(), nil
	}))
}

// older copies the replica as it is now.
func (x *homeless) older(ctx context.Context) *devnet.Standby {
	t := x.h.t
	require.NoError(t, x.standby.Stop(ctx))
	old, err := x.h.NewStandby("acme-older")
	require.NoError(t, err)
	require.NoError(t, old.Copy(ctx, x.standby))
	require.NoError(t, x.standby.Start(ctx))
	return old
}

// found is what the check says.
type found struct {
	Replication string `json:"replication"`
	Channels    []struct {
		Point   string `json:"channel"`
		State   uint64 `json:"state"`
		Verdict string `json:"verdict"`
		Said    string `json:"said"`
	} `json:"channels"`
}

func (x *homeless) homeDir(name string) string { return filepath.Join(x.h.Dir(), "acme-"+name) }

func (x *homeless) check(ctx context.Context, s *devnet.Standby, name string) (out found, code int) {
	text, code := x.h.ctl(ctx, "signer", "recover", "check", "--dir", x.homeDir(name), "--dsn-file", x.file(name+".dsn", s.DSNOf("acme")), "--note", x.note, "--guard", x.dir, "--json")
	require.NoError(x.h.t, json.Unmarshal([]byte(text), &out), text)
	x.h.t.Logf("%s: %s", name, text)
	return out, code
}

func (x *homeless) nodeFlags(name string, s *devnet.Standby) []string {
	return []string{
		"signer", "recover", "node", x.replica, "--dir", x.homeDir(name), "--dsn-file", x.file(name+".dsn", s.DSNOf("acme")), "--backend", x.h.backend,
		"--signer-dir", x.signer.Dir, "--signer-rpc", x.hosted.address, "--node-rpc", x.node.RPCAddr, "--node-peers", x.node.P2PAddr,
	}
}

// home starts the tenant's own node.
func (x *homeless) home(ctx context.Context) *devnet.Node {
	t := x.h.t
	home, err := x.h.Adopt(ctx, devnet.Adopted{Name: "acme-home", Dir: x.homeDir("home"), RPC: x.node.RPCAddr, P2P: x.node.P2PAddr, Chain: true, Args: []string{"--nobootstrap", "--minbackoff=200ms", "--maxbackoff=1s"}})
	require.NoError(t, err)
	require.NoError(t, x.h.Served(ctx, home))
	return home
}

// comesHome waits until nothing is pending any more.
func (h *hosting) comesHome(ctx context.Context, node *devnet.Node) {
	h.t.Helper()
	require.NoError(h.t, devnet.WaitFor(ctx, "the closed channels to come home", func(ctx context.Context) (bool, error) {
		if err := h.Mine(ctx, 1); err != nil {
			return false, err
		}
		pending, err := node.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
		if err != nil {
			return false, err
		}
		return len(pending.PendingForceClosingChannels)+len(pending.WaitingCloseChannels) == 0, nil
	}))
}
