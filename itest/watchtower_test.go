//go:build itest

package itest

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/brontide"
	"github.com/lightningnetwork/lnd/keychain"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/wtclientrpc"
	"github.com/lightningnetwork/lnd/lnwire"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/watchtower/agent"
	towerapi "github.com/sluice-lsp/sluice/watchtower/api"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

// guarded is a network with a tower on a machine of its own, a victim with a
// stock tower client, and its peer that will cheat it and is a client, too.
type guarded struct {
	*devnet.Net
	t                        *testing.T
	watcher, victim, cheater *devnet.Node
	backend                  *devnet.Link
	s                        *devnet.Sluiced
	op                       towerv1.TowerOperatorServiceClient
}

// promptly is what a tower at its post has from a block to the punishment in the
// mempool. It takes less than one; the rest is for a machine that does much else.
const promptly = 10 * time.Second

// sweepSatPerVByte is what the victim's client is set to; 1 sat/vbyte is
// 250 sat/kw.
const sweepSatPerVByte = 10

func startGuarded(ctx context.Context, t *testing.T) *guarded {
	t.Helper()
	network := devnet.StartTest(t, devnet.Config{})
	// The chain backend of the tower's lnd can go away without btcd, which forgets
	// everything when it is restarted on regtest.
	backend, err := devnet.NewLink(network.Miner().RPC().Host)
	require.NoError(t, err)
	network.OnClose(backend.Close)
	client := devnet.NodeConfig{ExtraArgs: []string{"--wtclient.active", "--wtclient.sweep-fee-rate=10", "--wtclient.max-updates=20"}}
	nodes, err := network.NewNodes(ctx, devnet.NodeSpec{Name: "watcher", Config: devnet.NodeConfig{ExtraArgs: []string{"--btcd.rpchost=" + backend.Addr()}}},
		devnet.NodeSpec{Name: "victim", Config: client}, devnet.NodeSpec{Name: "cheater", Config: client})
	require.NoError(t, err)
	g := &guarded{Net: network, t: t, watcher: nodes[0], victim: nodes[1], cheater: nodes[2], backend: backend}
	require.NoError(t, network.Fund(ctx, devnet.Funding{Node: g.victim, CoinSat: 3_000_000, Coins: 6}, devnet.Funding{Node: g.cheater, CoinSat: 1_000_000, Coins: 3}))
	listen, err := network.Port()
	require.NoError(t, err)
	// Its macaroon has the tower's rights and no others, and its lnd is no gateway.
	g.s, err = network.StartSluiced(ctx, g.watcher, lnd.TowerRights(), devnet.SluicedConfig{
		Name: "tower", Services: []string{"watchtower"},
		Settings: map[string]string{
			"watchtower.listen": listen, "watchtower.addresses": listen, "watchtower.min_sweep_fee_sat_per_kw": "2000", "watchtower.bury_blocks": "4",
			"watchtower.handshakes.burst": "100000",
		},
	})
	require.NoError(t, err)
	tlsConfig, err := selfcert.ClientTLS(g.s.TLSCert)
	require.NoError(t, err)
	macaroon, err := auth.NewFileCredentials(g.s.Macaroon)
	require.NoError(t, err)
	conn, err := grpc.NewClient(g.s.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)), grpc.WithPerRPCCredentials(macaroon), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	g.op = towerv1.NewTowerOperatorServiceClient(conn)
	require.NoError(t, devnet.WaitFor(ctx, "the tower to run", func(ctx context.Context) (bool, error) {
		_, err := g.op.GetTowerStatus(ctx, &towerv1.GetTowerStatusRequest{})
		return err == nil, err
	}))
	return g
}

// keepOldStates copies the cheater's database as it is now, for when its states are old:
// they are good for the cheater. held is what the tower has of the cheater meanwhile.
func (g *guarded) keepOldStates(ctx context.Context, channels ...devnet.Channel) (file string, held uint32) {
	t := g.t
	t.Helper()
	// A payer hears of a settlement before the HTLC has left both commitments.
	require.NoError(t, errors.Join(g.cheater.WaitNoHTLCs(ctx), g.victim.WaitNoHTLCs(ctx)))
	require.NoError(t, g.cheater.Stop(ctx))
	// Not every cheater has a tower.
	shown, err := g.op.ShowTenant(ctx, &towerv1.ShowTenantRequest{Identity: "node:" + g.cheater.PubKey})
	require.True(t, err == nil || status.Code(err) == codes.NotFound, "%v", err)
	held = uint32(shown.GetTenant().GetUsage().GetUpdates()) //nolint:gosec // a few
	file = filepath.Join(t.TempDir(), "channel.db")
	copyFile(t, database(g.cheater), file)
	require.NoError(t, g.cheater.Start(ctx))
	require.NoError(t, g.Connect(ctx, g.victim, g.cheater))
	for _, ch := range channels {
		for _, n := range []*devnet.Node{g.victim, g.cheater} {
			_, err := n.WaitChannelActive(ctx, ch.Point)
			require.NoError(t, err)
		}
	}
	return file, held
}

// login is a node's own view of the tower.
func (g *guarded) login(n *devnet.Node) towerv1.TowerServiceClient {
	g.t.Helper()
	tlsConfig, err := selfcert.ClientTLS(g.s.TLSCert)
	require.NoError(g.t, err)
	client := dialNode(g.t, n)
	conn, _, err := auth.Dial(g.s.GRPC, credentials.NewTLS(tlsConfig), auth.ClientConfig{
		Server: auth.Server{NodeKey: mustKey(g.t, g.watcher.PubKey)}, Node: mustKey(g.t, n.PubKey), Services: []string{towerapi.Name}, Now: time.Now,
		Sign: func(ctx context.Context, msg string) (string, error) { return client.SignMessage(ctx, []byte(msg)) },
	}, grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	require.NoError(g.t, err)
	g.t.Cleanup(func() { _ = conn.Close() })
	return towerv1.NewTowerServiceClient(conn)
}

// lncli runs a command as a person would.
func (g *guarded) lncli(ctx context.Context, n *devnet.Node, args ...string) (string, error) {
	peers, err := devnet.FindPeers()
	require.NoError(g.t, err)
	cmd := exec.CommandContext(ctx, filepath.Join(peers, "lncli"), append([]string{
		"--rpcserver=" + n.RPCAddr, "--tlscertpath=" + n.TLSCertPath, "--macaroonpath=" + n.AdminMacaroonPath(), "--network=regtest",
	}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// pay moves sats over one channel.
func (g *guarded) pay(ctx context.Context, from, to *devnet.Node, over devnet.Channel, sat int64) {
	g.t.Helper()
	require.NoError(g.t, tryPay(ctx, from, to, over, sat))
}

func tryPay(ctx context.Context, from, to *devnet.Node, over devnet.Channel, sat int64) error {
	invoice, err := to.Invoice(ctx, sat*1000)
	if err != nil {
		return err
	}
	payment, err := from.Send(ctx, &routerrpc.SendPaymentRequest{PaymentRequest: invoice.PaymentRequest, TimeoutSeconds: 60, OutgoingChanIds: []uint64{over.ChanID}, FeeLimitMsat: 10_000})
	if err == nil && payment.Status != lnrpc.Payment_SUCCEEDED {
		err = fmt.Errorf("the payment ended as %s: %s", payment.Status, payment.FailureReason)
	}
	return err
}

// backups are what a client's towers acknowledged, and what it gave to sessions
// since it started.
func (g *guarded) backups(ctx context.Context, n *devnet.Node) (acknowledged, given uint32) {
	g.t.Helper()
	client := wtclientrpc.NewWatchtowerClientClient(n.Conn)
	stats, err := client.Stats(ctx, &wtclientrpc.StatsRequest{})
	require.NoError(g.t, err)
	list, err := client.ListTowers(ctx, &wtclientrpc.ListTowersRequest{IncludeSessions: true})
	require.NoError(g.t, err)
	for _, tower := range list.Towers {
		for _, info := range tower.SessionInfo {
			for _, s := range info.Sessions {
				acknowledged += s.NumBackups
			}
		}
	}
	return acknowledged, stats.NumBackups + stats.NumPendingBackups
}

// uploaded waits until a client has nothing left to upload, of at least so many
// since it started, when it had uploaded before.
func (g *guarded) uploaded(ctx context.Context, n *devnet.Node, before, atLeast uint32) {
	g.t.Helper()
	var acknowledged, given uint32
	err := devnet.WaitFor(ctx, n.Name+" to have uploaded everything", func(ctx context.Context) (bool, error) {
		acknowledged, given = g.backups(ctx, n)
		return given >= atLeast && acknowledged == before+given, nil
	})
	require.NoError(g.t, err, "%d of %d after %d", acknowledged, given, before)
}

func (g *guarded) tenant(ctx context.Context, n *devnet.Node) *towerv1.Tenant {
	g.t.Helper()
	got, err := g.op.ShowTenant(ctx, &towerv1.ShowTenantRequest{Identity: "node:" + n.PubKey})
	require.NoError(g.t, err)
	return got.GetTenant()
}

// database is lnd's channel database.
func database(n *devnet.Node) string {
	return filepath.Join(n.Dir, "data", "graph", "regtest", "channel.db")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, raw, 0o600))
}

// TestWatchtower: a stock lnd client adds the URI of its registration; its peer
// goes back to an older database and closes from it while the client is offline,
// on every type of channel; and the client is made whole, to the sat. The tower is
// down while some of the breaches are mined, is killed, and sees a
// reorganisation.
func TestWatchtower(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Minute)
	defer cancel()
	g := startGuarded(ctx, t)
	require.NoError(t, g.Connect(ctx, g.victim, g.cheater))

	// Registration. A key that nobody was given gets nothing, not even a session.
	victims, cheaters := g.login(g.victim), g.login(g.cheater)
	_, err := victims.GetTower(ctx, &towerv1.GetTowerRequest{})
	require.Error(t, err, "who did not register has no tower")
	registered, err := victims.Register(ctx, &towerv1.RegisterRequest{})
	require.NoError(t, err)
	others, err := cheaters.Register(ctx, &towerv1.RegisterRequest{})
	require.NoError(t, err)
	uri := registered.GetTower().GetUris()[0]
	require.NotEqual(t, uri, others.GetTower().GetUris()[0], "one tower key each")
	require.Equal(t, g.watcher.PubKey, registered.GetTower().GetWatchesThroughNode())
	stranger, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	_, address, _ := strings.Cut(uri, "@")
	for n, at := range map[*devnet.Node]string{g.victim: uri, g.cheater: others.GetTower().GetUris()[0]} {
		out, err := g.lncli(ctx, n, "wtclient", "add", at)
		require.NoError(t, err, out)
	}
	at, err := net.ResolveTCPAddr("tcp", address)
	require.NoError(t, err)
	_, err = brontide.Dial(&keychain.PrivKeyECDH{PrivKey: stranger}, &lnwire.NetAddress{IdentityKey: stranger.PubKey(), Address: at}, 10*time.Second, net.DialTimeout)
	require.Error(t, err)

	// All types of channels that lnd has blobs for. Payments both ways make states
	// to go back to.
	kinds := map[string]lnrpc.CommitmentType{
		"legacy": lnrpc.CommitmentType_STATIC_REMOTE_KEY, "anchors": lnrpc.CommitmentType_ANCHORS, "taproot": lnrpc.CommitmentType_SIMPLE_TAPROOT, "taproot-final": lnrpc.CommitmentType_SIMPLE_TAPROOT_FINAL,
	}
	channels := map[string]devnet.Channel{}
	for _, kind := range []string{"legacy", "anchors", "taproot", "taproot-final"} {
		ch, err := g.OpenChannel(ctx, g.victim, g.cheater, devnet.ChannelParams{
			// Not announced: at its announcement lnd enters a channel anew, and finds no
			// balance in it for a moment.
			CapacitySat: 1_000_000, PushSat: 600_000, CommitmentType: kinds[kind], Private: true,
		})
		require.NoError(t, err, kind)
		channels[kind] = ch
		g.pay(ctx, g.cheater, g.victim, ch, 10_000)
	}
	g.uploaded(ctx, g.victim, 0, 4)

	// What the tower holds of the cheater while it is stopped is what the cheater has
	// not counted since it started again.
	old, before := g.keepOldStates(ctx, slices.Collect(maps.Values(channels))...)
	g.uploaded(ctx, g.victim, 0, 4)

	// Quotas: the cheater's is used up; its uploads wait, and nobody else's do.
	now := g.tenant(ctx, g.cheater)
	_, err = g.op.SetTenant(ctx, &towerv1.SetTenantRequest{
		Identity: now.GetIdentity(), OwnLimits: &towerv1.TowerLimits{Updates: max(1, now.GetUsage().GetUpdates())}, ExpiresMs: now.GetExpiresMs(),
	})
	require.NoError(t, err)
	limited := g.tenant(ctx, g.cheater).GetUsage().GetUpdates()
	for range 2 {
		for _, ch := range channels {
			g.pay(ctx, g.cheater, g.victim, ch, 150_000)
		}
	}
	g.uploaded(ctx, g.victim, 0, 12)
	held := g.tenant(ctx, g.victim).GetUsage()
	require.GreaterOrEqual(t, held.GetUpdates(), int64(12))
	require.LessOrEqual(t, g.tenant(ctx, g.cheater).GetUsage().GetUpdates(), max(1, limited))
	acknowledged, given := g.backups(ctx, g.cheater)
	require.Less(t, acknowledged, before+given, "what has no room waits at the client")
	// The limit is lifted: nothing was lost.
	_, err = g.op.SetTenant(ctx, &towerv1.SetTenantRequest{Identity: now.GetIdentity(), ExpiresMs: now.GetExpiresMs()})
	require.NoError(t, err)
	g.uploaded(ctx, g.cheater, before, 8)

	// What the tower says that it holds is what lnd's client says that it sent.
	g.statementAgrees(ctx, victims)

	// kill -9 of the tower: its clients go on where they were.
	require.NoError(t, g.s.Kill())
	require.NoError(t, g.s.Start(ctx))
	g.pay(ctx, g.victim, g.cheater, channels["anchors"], 1_000)
	g.uploaded(ctx, g.victim, 0, 13)
	g.statementAgrees(ctx, victims)
	g.walletSees(ctx)

	// The victim goes away, and the cheater goes back.
	_, err = victims.GetTower(ctx, &towerv1.GetTowerRequest{})
	require.NoError(t, err)
	coins, err := g.victim.LN.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{})
	require.NoError(t, err)
	transactions := len(coins.Transactions)
	require.NoError(t, g.victim.Stop(ctx))
	require.NoError(t, g.cheater.Stop(ctx))
	copyFile(t, old, database(g.cheater))
	require.NoError(t, g.cheater.Start(ctx))

	commits := map[string]chainhash.Hash{}
	cheat := func(kind string) { commits[kind] = g.cheat(ctx, channels[kind]) }
	// With the tower at its post: within seconds of the block.
	cheat("anchors")
	mined := time.Now()
	require.NoError(t, g.Mine(ctx, 1))
	found := g.breachesOffline(ctx, 1, "published")
	b := found[commits["anchors"].String()]
	require.NotNil(t, b)
	justice, err := chainhash.NewHashFromStr(b.GetJusticeTxid())
	require.NoError(t, err)
	require.NoError(t, g.Miner().WaitTxInMempool(ctx, *justice))
	took := time.Since(mined)
	t.Logf("anchors: justice in the mempool %s after the block", took.Round(time.Millisecond))
	require.Less(t, took, promptly)
	// With the tower down: killed, while the blocks with the others come.
	require.NoError(t, g.s.Kill())
	cheat("legacy")
	cheat("taproot")
	cheat("taproot-final")
	require.NoError(t, g.Mine(ctx, 2))
	require.NoError(t, g.s.Start(ctx))
	found = g.breachesOffline(ctx, 4, "published", "swept")
	for kind, txid := range commits {
		require.NotNil(t, found[txid.String()], kind)
	}
	require.NoError(t, g.Mine(ctx, 1))
	g.breachesOffline(ctx, 4, "swept")

	// The blocks with the justice transactions leave the chain, and others come.
	_, err = g.Miner().Reorg(ctx, 2, 3)
	require.NoError(t, err)
	require.NoError(t, devnet.WaitFor(ctx, "the tower to follow the reorganisation", func(ctx context.Context) (bool, error) {
		height, err := g.Miner().Height(ctx)
		if err != nil {
			return false, err
		}
		got, err := g.op.GetTowerStatus(ctx, &towerv1.GetTowerStatusRequest{})
		return err == nil && int64(got.GetTipHeight()) == height && got.GetDueBreaches() == 0, err
	}))
	require.NoError(t, g.Mine(ctx, 5))
	final := g.breachesOffline(ctx, 4, "swept")
	require.NoError(t, devnet.WaitFor(ctx, "the breaches to be buried", func(ctx context.Context) (bool, error) {
		got, err := g.op.GetTowerStatus(ctx, &towerv1.GetTowerStatusRequest{})
		return err == nil && got.GetOpenBreaches() == 0, err
	}))

	// The victim comes back: it has everything, less the fee that was agreed.
	require.NoError(t, g.victim.Start(ctx))
	for kind, txid := range commits {
		b := final[txid.String()]
		g.exact(ctx, kind, txid, b)
		justice, err := chainhash.NewHashFromStr(b.GetJusticeTxid())
		require.NoError(t, err)
		require.NoError(t, devnet.WaitFor(ctx, "the victim's wallet to have its money", func(ctx context.Context) (bool, error) {
			got, err := g.victim.LN.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{})
			if err != nil {
				return false, err
			}
			for _, tx := range got.Transactions {
				if tx.TxHash == justice.String() {
					return tx.Amount == b.GetSweptSat() && tx.NumConfirmations > 0, nil
				}
			}
			return false, nil
		}), kind)
	}
	coins, err = g.victim.LN.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{})
	require.NoError(t, err)
	require.Equal(t, transactions+4, len(coins.Transactions), "four justice transactions and nothing else")
	// The story is the victim's to read, and nobody else's.
	for _, b := range final {
		story, err := victims.ShowBreach(ctx, &towerv1.ShowBreachRequest{Id: b.GetId()})
		require.NoError(t, err)
		for _, line := range story.GetStory() {
			t.Logf("%s %s", time.UnixMilli(line.GetAtMs()).Format("15:04:05.000"), line.GetText())
		}
		require.GreaterOrEqual(t, len(story.GetStory()), 4)
		_, err = cheaters.ShowBreach(ctx, &towerv1.ShowBreachRequest{Id: b.GetId()})
		require.Error(t, err)
	}
	mine, err := cheaters.ListBreaches(ctx, &towerv1.ListBreachesRequest{})
	require.NoError(t, err)
	require.Empty(t, mine.GetBreaches())
	tower, err := g.lncli(ctx, g.victim, "wtclient", "towers")
	require.NoError(t, err)
	t.Logf("wtclient towers: %s", tower)
}

// cheat has the cheater's lnd, which believes an older database, publish what it has
// of a channel.
func (g *guarded) cheat(ctx context.Context, channel devnet.Channel) chainhash.Hash {
	g.t.Helper()
	stream, err := g.cheater.LN.CloseChannel(ctx, &lnrpc.CloseChannelRequest{ChannelPoint: channel.RPCPoint(), Force: true})
	require.NoError(g.t, err)
	update, err := stream.Recv()
	require.NoError(g.t, err)
	txid, err := chainhash.NewHash(update.GetClosePending().GetTxid())
	require.NoError(g.t, err)
	require.NoError(g.t, g.Miner().WaitTxInMempool(ctx, *txid))
	return *txid
}

// breachesOffline is breaches as the operator sees the victim's: the victim, who
// is offline, cannot log in.
func (g *guarded) breachesOffline(ctx context.Context, n int, states ...string) map[string]*towerv1.Breach {
	g.t.Helper()
	var list []*towerv1.Breach
	err := devnet.WaitFor(ctx, "breaches to be "+strings.Join(states, " or "), func(ctx context.Context) (bool, error) {
		got, err := g.op.ListAllBreaches(ctx, &towerv1.ListAllBreachesRequest{})
		if err != nil {
			return false, err
		}
		list = got.GetBreaches()
		fit := 0
		for _, b := range list {
			require.Equal(g.t, "node:"+g.victim.PubKey, b.GetIdentity())
			for _, s := range states {
				if b.GetState() == s {
					fit++
				}
			}
		}
		return fit == n && len(list) == n, nil
	})
	require.NoError(g.t, err, "%v", list)
	out := map[string]*towerv1.Breach{}
	for _, b := range list {
		out[b.GetCommitmentTxid()] = b
	}
	return out
}

// exact checks the justice transaction that is in the chain: it takes both
// balances of the commitment whole, and pays the rate that the session agreed on
// for the weight that lnd's client reckoned with.
func (g *guarded) exact(ctx context.Context, kind string, commitment chainhash.Hash, b *towerv1.Breach) {
	g.t.Helper()
	justiceID, err := chainhash.NewHashFromStr(b.GetJusticeTxid())
	require.NoError(g.t, err)
	commit, _, err := g.Miner().Tx(ctx, commitment)
	require.NoError(g.t, err)
	justice, confs, err := g.Miner().Tx(ctx, *justiceID)
	require.NoError(g.t, err)
	require.Positive(g.t, confs)
	require.Len(g.t, justice.TxOut, 1)
	in, taken := int64(0), map[wire.OutPoint]bool{}
	for _, input := range justice.TxIn {
		require.Equal(g.t, commitment, input.PreviousOutPoint.Hash)
		in += commit.TxOut[input.PreviousOutPoint.Index].Value
		taken[input.PreviousOutPoint] = true
	}
	require.Len(g.t, taken, 2, "both balances")
	left := int64(0)
	for i, out := range commit.TxOut {
		if !taken[wire.OutPoint{Hash: commitment, Index: uint32(i)}] {
			left += out.Value
		}
	}
	anchors, least := int64(660), int64(0)
	if kind == "legacy" {
		// lnd's clients reckon with a weight unit too little there, and all towers do.
		anchors, least = 0, -sweepSatPerVByte*250/1000-1
	}
	require.Equal(g.t, anchors, left, "%s: but the two anchors nothing is left", kind)
	require.Equal(g.t, b.GetSweptSat(), justice.TxOut[0].Value)
	require.Equal(g.t, b.GetFeeSat(), in-justice.TxOut[0].Value)
	weight := blockchain.GetTransactionWeight(btcutil.NewTx(justice))
	least += weight * sweepSatPerVByte * 250 / 1000
	require.GreaterOrEqual(g.t, b.GetFeeSat(), least, kind)
	// lnd reckons with the largest signatures.
	require.LessOrEqual(g.t, b.GetFeeSat(), (weight+8)*sweepSatPerVByte*250/1000+1, kind)
	g.t.Logf("%s: %d sat to the victim, fee %d sat for %d weight units", kind, b.GetSweptSat(), b.GetFeeSat(), weight)
}

// wallet runs sluice-wallet's commands about towers beside the victim's lnd, with the
// rights of a wallet.
func (g *guarded) wallet(ctx context.Context) func(args ...string) (string, error) {
	g.t.Helper()
	bin, err := devnet.FindSluice()
	require.NoError(g.t, err)
	dir := g.t.TempDir()
	require.NoError(g.t, g.victim.Bake(ctx, filepath.Join(dir, "sluice-wallet.macaroon"), append(lnd.WalletRights(), lnd.WalletTowerRights()...)))
	return func(args ...string) (string, error) {
		args = append([]string{"--data-dir", dir, "towers"}, args...)
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "sluice-wallet"), append(args, "--lnd.address", g.victim.RPCAddr, "--lnd.tls", g.victim.TLSCertPath)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

// walletSees is what the wallet is shown of an honest tower.
func (g *guarded) walletSees(ctx context.Context) {
	g.t.Helper()
	run := g.wallet(ctx)
	out, err := run("list")
	require.NoError(g.t, err, out)
	require.Contains(g.t, out, "not asked", "lnd's tower is there; this wallet did not register")
	require.Contains(g.t, out, "is not known", "nor does it know whose it is")
	out, err = run("add", "guard", g.watcher.PubKey, "--grpc", g.s.GRPC, "--cert", g.s.TLSCert)
	require.NoError(g.t, err, out)
	require.Contains(g.t, out, "lnd uploads to it")
	out, err = run("list")
	require.NoError(g.t, err, out)
	g.t.Logf("sluice-wallet towers:\n%s", out)
	require.Regexp(g.t, `guard +[0-9a-f]{16} +[3-6] +(\d+) +0 +(\d+) +[1-8] +active`, out)
	var seen struct{ Towers []agent.Report }
	out, err = run("list", "--json")
	require.NoError(g.t, err, out)
	require.NoError(g.t, json.Unmarshal([]byte(out), &seen))
	require.Len(g.t, seen.Towers, 1)
	require.True(g.t, seen.Towers[0].Checked)
	require.Equal(g.t, seen.Towers[0].Acknowledged, seen.Towers[0].Held)
	require.GreaterOrEqual(g.t, seen.Towers[0].Held, uint64(13))
	require.Positive(g.t, seen.Towers[0].Sampled, "and it gave some of them back")
	require.False(g.t, seen.Towers[0].Agreed.IsZero())
	out, err = run("renew", "guard")
	require.NoError(g.t, err, out)
	out, err = run("events")
	require.NoError(g.t, err, out)
	require.Contains(g.t, out, "found no breach")
}

// statementAgrees compares the tower's signed statement with what lnd's client
// says, session by session.
func (g *guarded) statementAgrees(ctx context.Context, tower towerv1.TowerServiceClient) {
	g.t.Helper()
	nonce := make([]byte, 32)
	nonce[0] = 7
	raw, err := tower.GetStatement(ctx, &towerv1.GetStatementRequest{Nonce: nonce})
	require.NoError(g.t, err)
	statement, err := towerapi.StatementFromWire(raw)
	require.NoError(g.t, err)
	require.NoError(g.t, statement.Verify())
	require.Equal(g.t, nonce, statement.Nonce)
	require.Equal(g.t, "node:"+g.victim.PubKey, statement.Identity)
	list, err := wtclientrpc.NewWatchtowerClientClient(g.victim.Conn).ListTowers(ctx, &wtclientrpc.ListTowersRequest{IncludeSessions: true})
	require.NoError(g.t, err)
	sent := map[string]uint32{}
	for _, tower := range list.Towers {
		for _, info := range tower.SessionInfo {
			for _, s := range info.Sessions {
				sent[hex.EncodeToString(s.Id)] = s.NumBackups
			}
		}
	}
	seen := 0
	for _, s := range statement.Sessions {
		n, ok := sent[hex.EncodeToString(s.ID[:])]
		require.True(g.t, ok, "the client knows the session %x", s.ID)
		require.EqualValues(g.t, n, s.LastApplied)
		require.EqualValues(g.t, n, s.Updates)
		seen++
	}
	require.Equal(g.t, len(sent), seen, "every session of the client's is in the statement")
}
