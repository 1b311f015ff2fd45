//go:build itest

package itest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// machine is a wallet's machine: an lnd, and sluice-wallet beside it.
type machine struct {
	t     *testing.T
	node  *devnet.Node
	agent *devnet.WalletAgent
}

// cli runs a command with lnd's admin macaroon, as a person would.
func (m *machine) cli(ctx context.Context, args ...string) string {
	m.t.Helper()
	out, err := m.agent.Command(ctx, args...)
	require.NoError(m.t, err)
	m.t.Logf("$ sluice-wallet %s\n%s", strings.Join(args, " "), out)
	return string(out)
}

func (m *machine) admin(args ...string) []string {
	return append(args, "--lnd.address", m.node.RPCAddr, "--lnd.tls", m.node.TLSCertPath, "--admin-macaroon", m.node.AdminMacaroonPath())
}

// backedUp is the state as programs read it.
type backedUp struct {
	BackedUp bool   `json:"backed_up"`
	Number   uint64 `json:"number,string"`
	Channels int    `json:"channels"`
	Good     int    `json:"good"`
	HeldBack string `json:"held_back"`
	Alarms   []string
}

func (m *machine) status(ctx context.Context) backedUp {
	// Exit code 3 says that it is not backed up; the words are the same.
	out, err := m.agent.Command(ctx, "--json", "backup", "status")
	var s backedUp
	if jsonErr := json.Unmarshal(out, &s); jsonErr != nil {
		m.t.Logf("status: %v: %s", err, out)
	}
	return s
}

func (m *machine) waitStatus(ctx context.Context, what string, ok func(backedUp) bool) {
	m.t.Helper()
	var last backedUp
	require.NoError(m.t, devnet.WaitFor(ctx, what, func(ctx context.Context) (bool, error) {
		last = m.status(ctx)
		return ok(last), nil
	}), "%+v", last)
}

func (m *machine) onChain(ctx context.Context) int64 {
	m.t.Helper()
	b, err := m.node.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
	require.NoError(m.t, err)
	return b.ConfirmedBalance + b.UnconfirmedBalance
}

// TestBackup: a stock lnd with channels loses its disk. A new machine, with the
// seed and nothing else, gets the channels' money back on chain, to the sat but
// for the fees of the transactions that bring it. Two of the three providers went
// back to an older copy without a word: the new machine finds that out, and proves
// it. The restore is killed in its middle, and lnd with it.
func TestBackup(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{Wallet: devnet.NodeConfig{Seeded: true}})
	vssAddr, err := net.Port()
	require.NoError(t, err)
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{
		Settings: map[string]string{"backups.vss.listen": vssAddr},
	})
	require.NoError(t, err)
	stick := filepath.Join(t.TempDir(), "stick")
	line, err := devnet.NewLink(s.GRPC)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, line.Close()) })
	setUp := func(m *machine) {
		m.cli(ctx, "backup", "add", "gateway", "--gateway", net.Gateway.PubKey+"@"+line.Addr(), "--cert", s.TLSCert)
		m.cli(ctx, "backup", "add", "vss", "--vss", "https://"+vssAddr+"/vss", "--cert", s.TLSCert)
		m.cli(ctx, "backup", "add", "stick", "--dir", stick)
		m.cli(ctx, "backup", "require", "2")
	}
	old := newMachine(ctx, t, net, s, net.Wallet)
	setUp(old)
	old.cli(ctx, old.admin("backup", "key")...)
	// What else there is goes the same way: a large file goes up in pieces.
	records := filepath.Join(t.TempDir(), "records")
	require.NoError(t, os.WriteFile(records, random(t, 5<<20), 0o600))
	old.cli(ctx, "backup", "include", "records", records)
	unpaid, err := old.node.Invoice(ctx, 7_000_000)
	require.NoError(t, err)
	require.NoError(t, old.agent.Restart(ctx))

	// A channel of the gateway's, and one that the wallet opened and pays the fees of.
	require.NoError(t, net.Fund(ctx, devnet.Funding{Node: old.node, CoinSat: 1_000_000, Coins: 2}))
	_, err = net.OpenChannel(ctx, net.Gateway, old.node, devnet.ChannelParams{CapacitySat: 1_000_000, PushSat: 300_000})
	require.NoError(t, err)
	payerKey := &lnrpc.LightningAddress{Pubkey: net.Payer.PubKey, Host: net.Payer.P2PAddr}
	_, err = old.node.LN.ConnectPeer(ctx, &lnrpc.ConnectPeerRequest{Addr: payerKey})
	require.NoError(t, err)
	_, err = net.OpenChannel(ctx, old.node, net.Payer, devnet.ChannelParams{CapacitySat: 800_000, PushSat: 100_000})
	require.NoError(t, err)
	old.waitStatus(ctx, "both channels to be backed up", func(b backedUp) bool { return b.BackedUp && b.Channels == 2 && b.Good == 3 })
	old.cli(ctx, "backup", "drill")
	plain := filepath.Join(t.TempDir(), "channel.backup")
	old.cli(ctx, old.admin("backup", "export", plain)...)

	old.outlivesALostProvider(ctx, line)
	dump := filepath.Join(t.TempDir(), "dump")
	require.NoError(t, s.Stop(ctx))
	copyDatabase(t, s.Dir, dump)
	copyFile(t, filepath.Join(s.Dir, "generation"), filepath.Join(dump, "generation"))
	require.NoError(t, s.Start(ctx))
	old.backUpAndNote(ctx, stick)

	// Payments after the backup: what comes back is what the channels hold last.
	invoice, err := old.node.Invoice(ctx, 50_000_000)
	require.NoError(t, err)
	paid, err := net.Payer.Pay(ctx, invoice.PaymentRequest)
	require.NoError(t, err)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, paid.Status)
	require.NoError(t, old.node.WaitNoHTLCs(ctx))
	channels, err := old.node.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(t, err)
	require.Len(t, channels.Channels, 2)
	held := map[string]int64{}
	var inChannels int64
	for _, c := range channels.Channels {
		held[c.ChannelPoint] = c.LocalBalance
		inChannels += c.LocalBalance
	}
	before, last := old.onChain(ctx), old.status(ctx).Number
	t.Logf("the wallet has %d sat on chain and %d sat in channels", before, inChannels)

	// The disk is gone.
	require.NoError(t, old.agent.Kill())
	require.NoError(t, old.node.Kill())
	require.NoError(t, os.RemoveAll(old.node.Dir))
	require.NoError(t, os.RemoveAll(old.agent.Dir))
	// And the gateway takes an older copy for the present one, its vault and its VSS.
	require.NoError(t, s.Stop(ctx))
	copyDatabase(t, dump, s.Dir)
	copyFile(t, filepath.Join(dump, "generation"), filepath.Join(s.Dir, "generation"))
	require.NoError(t, s.Start(ctx))

	node, err := net.NewNode(ctx, "wallet2", devnet.NodeConfig{Seed: old.node.Seed()})
	require.NoError(t, err)
	require.Equal(t, old.node.PubKey, node.PubKey)
	fresh := newMachine(ctx, t, net, s, node)
	require.NoError(t, devnet.WaitFor(ctx, "the coins on chain to be found", func(ctx context.Context) (bool, error) {
		return fresh.onChain(ctx) == before, nil
	}))

	// Before it is restored, the new machine's agent replaces nothing.
	setUp(fresh)
	fresh.cli(ctx, fresh.admin("backup", "key")...)
	require.NoError(t, fresh.agent.Restart(ctx))
	fresh.waitStatus(ctx, "the empty wallet's backup to be held back", func(b backedUp) bool { return b.HeldBack != "" && !b.BackedUp })
	_, err = fresh.agent.Command(ctx, "backup", "now")
	require.ErrorContains(t, err, "restore first")

	fresh.findsWhoWentBack(ctx, net, last)
	fresh.killedWhileRestoring(ctx)
	// What was begun goes on, without asking again what was decided.
	fresh.cli(ctx, fresh.admin("backup", "restore", "--yes")...)
	// Begun again it does no harm.
	fresh.cli(ctx, fresh.admin("backup", "restore", "--yes")...)
	fresh.hasTheRest(records, unpaid)

	done := false
	for !done {
		require.NoError(t, ctx.Err())
		require.NoError(t, net.Mine(ctx, 1))
		out, err := fresh.agent.Command(ctx, append([]string{"--json"}, fresh.admin("backup", "progress")...)...)
		require.NoError(t, err)
		var p struct{ Done bool }
		require.NoError(t, json.Unmarshal(out, &p))
		done = p.Done
	}
	fresh.cli(ctx, fresh.admin("backup", "progress")...)
	fees := fresh.accounted(ctx, net, held)
	require.NoError(t, devnet.WaitFor(ctx, "the money to be in the wallet", func(ctx context.Context) (bool, error) {
		return fresh.onChain(ctx) == before+inChannels-fees, nil
	}), "%d sat on chain, want %d + %d - %d", fresh.onChain(ctx), before, inChannels, fees)
	t.Logf("%d sat of channel money came back; the sweeps cost %d sat", inChannels-fees, fees)
	// Who went back is not counted until the owner forgives it.
	fresh.waitStatus(ctx, "the restored wallet to be backed up", func(b backedUp) bool {
		for _, name := range []string{"gateway", "vss"} {
			_, _ = fresh.agent.Command(ctx, "backup", "forgive", name)
		}
		return b.BackedUp && b.Number > last && b.Good == 3 && len(b.Alarms) == 0
	})
}

// outlivesALostProvider: the gateway vanishes in the middle of an upload. The
// version is where it is wanted all the same, and the gateway gets it later.
func (m *machine) outlivesALostProvider(ctx context.Context, line *devnet.Link) {
	m.t.Helper()
	before := m.status(ctx)
	line.Stall()
	m.cli(ctx, "backup", "now")
	without := m.status(ctx)
	require.True(m.t, without.BackedUp)
	require.Equal(m.t, 2, without.Good)
	require.Greater(m.t, without.Number, before.Number)
	line.Cut()
	m.cli(ctx, "backup", "now")
	require.Equal(m.t, 2, m.status(ctx).Good)
	line.Restore()
	m.waitStatus(ctx, "the gateway to have caught up", func(b backedUp) bool {
		return b.Good == 3 && b.Number > without.Number && len(b.Alarms) == 0
	})
}

// backUpAndNote makes a new version, and waits until what was acknowledged of it
// is noted at the stick.
func (m *machine) backUpAndNote(ctx context.Context, stick string) {
	m.t.Helper()
	m.waitStatus(ctx, "everybody to be back", func(b backedUp) bool { return b.Good == 3 && len(b.Alarms) == 0 })
	m.cli(ctx, "backup", "now")
	m.waitStatus(ctx, "all to have it", func(b backedUp) bool { return b.Good == 3 })
	m.noted(ctx, stick)
}

// noted waits until the stick has what there is to be noted: without it a new machine
// knows no names but that of the channels.
func (m *machine) noted(ctx context.Context, stick string) {
	m.t.Helper()
	var newest string
	quiet := time.Now()
	require.NoError(m.t, devnet.WaitFor(ctx, "the receipts to be noted", func(context.Context) (bool, error) {
		files, err := filepath.Glob(filepath.Join(stick, "sluice-*", "*.slb"))
		if err != nil {
			return false, err
		}
		var seen strings.Builder
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				return false, nil //nolint:nilerr // it is being replaced
			}
			seen.WriteString(f + info.ModTime().String())
		}
		if seen.String() != newest {
			newest, quiet = seen.String(), time.Now()
		}
		return time.Since(quiet) > 3*time.Second, nil
	}))
}

// findsWhoWentBack looks at the providers from the new machine: the stick's notes
// convict the gateway, and anybody can check it.
func (m *machine) findsWhoWentBack(ctx context.Context, net *devnet.Standard, last uint64) {
	m.t.Helper()
	look := m.cli(ctx, append([]string{"--json"}, m.admin("backup", "restore", "--look")...)...)
	var survey struct {
		Providers []struct {
			Provider string
			Version  uint64
			Verdict  string
			Note     string
			Chosen   bool
		}
		Against []string
	}
	require.NoError(m.t, json.Unmarshal([]byte(look), &survey))
	// The stick has the newest that anybody tells of. But both others went back, and
	// two is where each version was wanted: one that the stick never had may be gone.
	require.Len(m.t, survey.Against, 1)
	require.Contains(m.t, survey.Against[0], "2 showed less than acknowledged")
	_, err := m.agent.Command(ctx, m.admin("backup", "restore", "--yes")...)
	require.ErrorContains(m.t, err, "--older")
	_, err = os.Stat(filepath.Join(m.agent.Dir, "restore-state.json"))
	require.ErrorIs(m.t, err, os.ErrNotExist, "nothing was begun")
	for _, p := range survey.Providers {
		if p.Provider == "stick" {
			require.True(m.t, p.Chosen)
			require.Equal(m.t, last, p.Version)
			continue
		}
		require.Less(m.t, p.Version, last, p.Provider)
		require.Contains(m.t, p.Note, "acknowledged version", p.Provider)
		if p.Provider == "gateway" {
			require.Equal(m.t, "rolled_back", p.Verdict)
		}
	}
	files, err := filepath.Glob(filepath.Join(m.agent.Dir, "evidence-gateway-*.json"))
	require.NoError(m.t, err)
	require.NotEmpty(m.t, files)
	require.Contains(m.t, m.cli(ctx, "backup", "verify", files[0]), "the node "+net.Gateway.PubKey+" acknowledged entry")
}

// hasTheRest: the owner's file and the preimage of an invoice that nobody paid.
func (m *machine) hasTheRest(records string, unpaid *lnrpc.AddInvoiceResponse) {
	m.t.Helper()
	want, err := os.ReadFile(records)
	require.NoError(m.t, err)
	got, err := os.ReadFile(filepath.Join(m.agent.Dir, "restored", "records"))
	require.NoError(m.t, err)
	require.Equal(m.t, sha256.Sum256(want), sha256.Sum256(got))
	raw, err := os.ReadFile(filepath.Join(m.agent.Dir, "restored", "invoices.json"))
	require.NoError(m.t, err)
	var invoices []struct {
		Hash     string `json:"payment_hash"`
		Preimage string `json:"preimage"`
	}
	require.NoError(m.t, json.Unmarshal(raw, &invoices))
	for _, inv := range invoices {
		preimage, err := hex.DecodeString(inv.Preimage)
		require.NoError(m.t, err)
		hash := sha256.Sum256(preimage)
		require.Equal(m.t, inv.Hash, hex.EncodeToString(hash[:]))
		if inv.Hash == hex.EncodeToString(unpaid.RHash) {
			return
		}
	}
	m.t.Fatalf("the unpaid invoice is not among %d", len(invoices))
}

// killedWhileRestoring ends the restore, and lnd, with kill -9 as soon as it has
// begun.
func (m *machine) killedWhileRestoring(ctx context.Context) {
	m.t.Helper()
	restore, kill := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := m.agent.Command(restore, m.admin("backup", "restore", "--yes", "--older", "--watch")...)
		ended <- err
	}()
	require.NoError(m.t, devnet.WaitFor(ctx, "the restore to begin", func(context.Context) (bool, error) {
		_, err := os.Stat(filepath.Join(m.agent.Dir, "restore-state.json"))
		return err == nil, nil
	}))
	kill()
	require.Error(m.t, <-ended)
	require.NoError(m.t, m.node.Kill())
	require.NoError(m.t, m.node.Start(ctx))
}

func newMachine(ctx context.Context, t *testing.T, net *devnet.Standard, s *devnet.Sluiced, node *devnet.Node) *machine {
	t.Helper()
	agent, err := net.StartWalletAgent(ctx, node, net.Gateway, s, lnd.WalletRights())
	require.NoError(t, err)
	return &machine{t: t, node: node, agent: agent}
}

// accounted checks what each channel's closing transaction pays the wallet
// against what the channel held, and gives what it cost to sweep.
func (m *machine) accounted(ctx context.Context, net *devnet.Standard, held map[string]int64) (fees int64) {
	m.t.Helper()
	closed, err := m.node.LN.ClosedChannels(ctx, &lnrpc.ClosedChannelsRequest{})
	require.NoError(m.t, err)
	require.Len(m.t, closed.Channels, len(held))
	txs, err := m.node.LN.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{})
	require.NoError(m.t, err)
	sweeps, matched := map[string]bool{}, map[string]bool{}
	for _, c := range closed.Channels {
		require.Equal(m.t, lnrpc.ChannelCloseSummary_REMOTE_FORCE_CLOSE, c.CloseType)
		txid, err := chainhash.NewHashFromStr(c.ClosingTxHash)
		require.NoError(m.t, err)
		closing, _, err := net.Miner().Tx(ctx, *txid)
		require.NoError(m.t, err)
		for _, tx := range txs.Transactions {
			for _, in := range tx.PreviousOutpoints {
				hash, index, _ := strings.Cut(in.Outpoint, ":")
				if hash != c.ClosingTxHash {
					continue
				}
				sweeps[tx.TxHash] = true
				for i, out := range closing.TxOut {
					if index == string(rune('0'+i)) {
						require.Equal(m.t, held[c.ChannelPoint], out.Value, "channel %s", c.ChannelPoint)
						matched[c.ChannelPoint] = true
					}
				}
			}
		}
	}
	require.Len(m.t, matched, len(held), "each channel's output was found and swept")
	for hash := range sweeps {
		fees += m.fee(ctx, net, hash)
	}
	return fees
}

// fee is what a transaction cost, from its inputs and outputs.
func (m *machine) fee(ctx context.Context, net *devnet.Standard, hash string) (fee int64) {
	m.t.Helper()
	txid, err := chainhash.NewHashFromStr(hash)
	require.NoError(m.t, err)
	tx, _, err := net.Miner().Tx(ctx, *txid)
	require.NoError(m.t, err)
	for _, in := range tx.TxIn {
		from, _, err := net.Miner().Tx(ctx, in.PreviousOutPoint.Hash)
		require.NoError(m.t, err)
		fee += from.TxOut[in.PreviousOutPoint.Index].Value
	}
	for _, out := range tx.TxOut {
		fee -= out.Value
	}
	return fee
}
