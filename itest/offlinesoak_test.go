//go:build itest

package itest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor/api/interceptorv1"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lws/agent"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

// soakProgram is a program of somebody else's that shares the gateway's interceptor: slow
// at times, away at times, and in nobody's way.
func soakProgram(ctx context.Context, t *testing.T, net *devnet.Standard, config *devnet.SluicedConfig) *rawProgram {
	t.Helper()
	address, err := net.Port()
	require.NoError(t, err)
	macaroon := filepath.Join(net.Dir(), "program.macaroon")
	require.NoError(t, net.Gateway.Bake(ctx, macaroon, programRights()))
	config.File += fmt.Sprintf("[[proxy.programs]]\nname = 'watcher'\nmacaroon_file = '%s'\n", macaroon)
	config.Settings["proxy.listen"] = address
	return &rawProgram{t: t, address: address, macaroon: macaroon, decide: func(o *routerrpc.ForwardHtlcInterceptRequest) *routerrpc.ForwardHtlcInterceptResponse {
		if o.IncomingCircuitKey.HtlcId%7 == 3 {
			time.Sleep(time.Second)
		}
		return answer(o, routerrpc.ResolveHoldForwardAction_RESUME)
	}}
}

// attach connects the program where it is not.
func (p *rawProgram) attach(ctx context.Context) {
	if p.conn != nil {
		select {
		case <-p.ended:
			p.leave()
		default:
			return
		}
	}
	p.connect(ctx)
}

// detach takes it away, where it is there.
func (p *rawProgram) detach() {
	if p.conn != nil {
		p.leave()
		p.conn = nil
	}
}

// lndGaveUp is what lnd 0.21.2 logs when it has given a link up for good (runbook.md, "A
// channel stays inactive").
const lndGaveUp = "unable to settle htlc: No HTLC with ID"

// soak is a wallet that comes and goes, for so many minutes.
type soak struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	net     *devnet.Standard
	s       *devnet.Sluiced
	program *rawProgram
	w       *sleeper
	books   *operator

	// channelMsat and chainSat are what the wallet must have once nothing is in flight.
	channelMsat uint64
	chainSat    int64

	rounds, paid, failed int
	lost, stalled        int
	lndKilled            bool // in this round
	historyLost          bool
	arrivedMsat          uint64
	gaveUp, closed       int
	// closing are the channels that are on their way to the chain, by whose they are.
	closing map[*devnet.Node]chainhash.Hash
}

// soaking is a payment of a round.
type soaking struct {
	bolt11  string
	hash    []byte
	msat    uint64
	wrapped bool
	payment *paying
}

// TestOfflineSoak: for SLUICE_SOAK_MINUTES a wallet comes and goes, payments of three kinds
// (ordinary, signed anew, wrapped) come in one part and in several, links flap, blocks come
// in bursts, sluiced and the gateway's lnd are killed, a program of somebody
// else's shares the interceptor, comes and goes, and now and then the wallet's channel is
// closed by force with what is on its way. Everybody has what is theirs, to the millisatoshi
// in channels and to the satoshi on chain, and nobody else closes a channel.
func TestOfflineSoak(t *testing.T) {
	minutes, _ := strconv.Atoi(os.Getenv("SLUICE_SOAK_MINUTES"))
	if minutes <= 0 {
		t.Skip("it runs with make soak")
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SLUICE_SOAK_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("%d minutes, seed %d", minutes, seed)
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(minutes)*time.Minute+30*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	// What the wallet claims on chain with a preimage is paid for with coins of its own, and
	// the payer has coins for more channels.
	require.NoError(t, net.Fund(ctx, devnet.Funding{Node: net.Wallet, CoinSat: 100_000, Coins: 20}, devnet.Funding{Node: net.Payer, CoinSat: payerSat + 100_000, Coins: 5}))
	config := holding()
	config.Settings["lsp.reconnect_after"] = reconnectAfter
	program := soakProgram(ctx, t, net, &config)
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), config)
	require.NoError(t, err)
	program.cert = s.TLSCert
	books := newOperator(t, s)
	books.reconcile(ctx)
	w := newSleeper(ctx, t, net, s, newHoldOperator(t, s))
	_, err = w.agent.Say(ctx, agent.Said{Enabled: true, HoldFor: "24h"})
	require.NoError(t, err)
	require.NoError(t, net.Wallet.WaitNoHTLCs(ctx))
	k := &soak{
		t: t, seed: seed, net: net, s: s, program: program, w: w, books: books, closing: map[*devnet.Node]chainhash.Hash{},
		rng:         rand.New(rand.NewPCG(seed, 0)), //nolint:gosec // repeatable
		channelMsat: channelMsat(ctx, t, net.Wallet), chainSat: onChainSat(ctx, t, net.Wallet),
	}
	for until := time.Now().Add(time.Duration(minutes) * time.Minute); time.Now().Before(until); k.rounds++ {
		k.round(ctx)
		if k.rounds%10 == 9 {
			t.Log(k.soFar())
		}
	}
	w.waitWaiting(ctx, 0)
	t.Log(k.soFar())
	require.Positive(t, k.paid)
}

func (k *soak) soFar() string {
	return fmt.Sprintf("%d rounds: %d payments arrived with %d msat, %d went back; the channel was closed by force %d times, %d of them because lnd had given its link up, and %d times by the payer, for an HTLC that lnd had lost, and %d times by the wallet, because it stood still",
		k.rounds, k.paid, k.arrivedMsat, k.failed, k.closed, k.gaveUp, k.lost, k.stalled)
}

// round is one absence of the wallet.
func (k *soak) round(ctx context.Context) {
	k.lndKilled = false
	// A link may come up for a moment, and be given up after the last round's look at it.
	if !k.usable(ctx, k.net.Wallet) {
		k.takeHome(ctx, 0)
		k.account(ctx)
	}
	payments := k.invoices(ctx)
	if k.rng.IntN(3) == 0 {
		k.program.detach()
	} else {
		k.program.attach(ctx)
	}
	k.w.sleep(ctx)
	k.pay(ctx, payments)
	time.Sleep(time.Duration(k.rng.IntN(4000)) * time.Millisecond)
	for range k.rng.IntN(4) {
		k.happens(ctx)
	}
	if k.rng.IntN(3) == 0 {
		require.NoError(k.t, k.net.Mine(ctx, 20))
	}
	k.w.wakeUp(ctx)
	if k.rng.IntN(12) == 0 && k.usable(ctx, k.net.Wallet) {
		time.Sleep(time.Duration(k.rng.IntN(2000)) * time.Millisecond)
		k.close(ctx, k.net.Wallet)
	}
	k.waitEnds(ctx, payments)
	k.takeHome(ctx, len(payments))
	k.account(ctx)
	if k.channelMsat > 900_000_000 {
		k.giveBack(ctx)
	}
	// A kill takes lnd's last 15 s of forwards with it, which nothing else says the channel
	// of: sluiced decides on these HTLCs and posts none of them. The sums would still agree,
	// until a channel is closed that has more, or less, than the books know of. Then what is
	// left in `closing/...` is explained by nothing, and is rightly shown (runbook.md,
	// "Reconcile differs").
	if k.historyLost = k.historyLost || k.lndKilled; !k.historyLost {
		k.books.waitBalanced(ctx)
	}
}

// invoices are made while the wallet is there.
func (k *soak) invoices(ctx context.Context) (out []*soaking) {
	for range 1 + k.rng.IntN(8) {
		// On chain each of three parts is worth its fees.
		msat := 12_000_000 + k.rng.Uint64N(12_000_000)
		switch k.rng.IntN(3) {
		case 0:
			inv := k.w.longInvoice(ctx, ln.Msat(msat), 20*time.Hour)
			out = append(out, &soaking{bolt11: inv.Bolt11, hash: inv.Hash[:], msat: msat})
		case 1:
			inv := k.w.wrapped(ctx, msat/1000)
			out = append(out, &soaking{bolt11: inv.bolt11, hash: inv.hash, msat: inv.sat * 1000, wrapped: true})
		case 2:
			inv := k.w.invoice(ctx, int64(msat)) //nolint:gosec // small
			out = append(out, &soaking{bolt11: inv.PaymentRequest, hash: inv.RHash, msat: msat})
		}
	}
	return out
}

func (k *soak) pay(ctx context.Context, payments []*soaking) {
	_, err := k.net.Payer.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
	require.NoError(k.t, err)
	for _, p := range payments {
		parts := uint64(1 + k.rng.IntN(3))
		if p.wrapped {
			parts = 1
		}
		p.payment = sendInParts(ctx, k.t, k.net, p.bolt11, p.hash, p.msat/parts+1)
		// Of two HTLCs of one commitment of which one ends before a restart and the other after
		// it, lnd 0.21.2 loses one, or ends it twice (runbook.md). So no two payments share one.
		require.NoError(k.t, devnet.WaitFor(ctx, "the payment to be held", func(ctx context.Context) (bool, error) {
			if p.wrapped {
				held, err := k.net.Gateway.LN.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: p.hash})
				return err == nil && held.State == lnrpc.Invoice_ACCEPTED, err
			}
			got, err := k.w.holds.GetHold(ctx, &lwsv1.GetHoldRequest{})
			for _, waiting := range got.GetWaiting() {
				if bytes.Equal(waiting.PaymentHash, p.hash) && waiting.AmountMsat >= p.msat {
					return true, nil
				}
			}
			return false, err
		}), "seed %d", k.seed)
	}
}

// happens is something of a bad day.
func (k *soak) happens(ctx context.Context) {
	switch k.rng.IntN(6) {
	case 0:
		k.net.PayerLink.Flap()
	case 1:
		require.NoError(k.t, k.s.Kill())
		require.NoError(k.t, k.s.Start(ctx))
	case 2:
		k.lndKilled = true
		require.NoError(k.t, k.net.Gateway.Kill())
		require.NoError(k.t, k.net.Gateway.Start(ctx))
	case 3:
		require.NoError(k.t, k.net.Mine(ctx, 1+k.rng.IntN(6)))
	case 4:
		// Not killed: an lnd 0.21.2 that dies while it takes in the HTLCs of a commitment calls
		// them replayed afterwards and fails them, those as well whose preimage it has given
		// away (offline.md, "What lnd may lose").
		k.w.wakeUp(ctx)
		time.Sleep(time.Duration(k.rng.IntN(1500)) * time.Millisecond)
		require.NoError(k.t, k.net.Wallet.Stop(ctx))
	case 5:
		time.Sleep(time.Duration(k.rng.IntN(5000)) * time.Millisecond)
	}
}

// channel is the one that somebody has with the gateway.
func (k *soak) channel(of *devnet.Node) *devnet.Channel {
	if of == k.net.Payer {
		return &k.net.PayerChannel
	}
	return &k.w.point
}

// usable waits until a channel with the gateway is active, unless lnd has given its link
// up for good. Then the operator does what the runbook says: closes it by force.
func (k *soak) usable(ctx context.Context, of *devnet.Node) (active bool) {
	if _, closing := k.closing[of]; closing {
		return false
	}
	point := k.channel(of).Point
	require.NoError(k.t, devnet.WaitFor(ctx, of.Name+"'s channel to be active, or given up", func(ctx context.Context) (bool, error) {
		c, err := k.net.Gateway.FindChannel(ctx, point)
		if err != nil {
			return false, err
		}
		if c == nil {
			k.noteClosed(ctx, of)
			_, closing := k.closing[of]
			return closing, nil
		}
		active = c.Active
		return active || k.givenUp(of, point) || k.givenUp(k.net.Gateway, point), nil
	}), "seed %d", k.seed)
	if _, closing := k.closing[of]; closing {
		return false
	}
	if !active {
		k.gaveUp++
		k.close(ctx, of)
	}
	return active
}

// givenUp reads it in a node's log.
func (k *soak) givenUp(n *devnet.Node, point wire.OutPoint) bool {
	log, err := os.ReadFile(n.Proc().LogFile())
	require.NoError(k.t, err)
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, lndGaveUp) && strings.Contains(line, "ChannelLink("+point.String()+")") {
			return true
		}
	}
	return false
}

// close is what an operator does at last: by force.
func (k *soak) close(ctx context.Context, of *devnet.Node) {
	k.closed++
	by := []*devnet.Node{of, k.net.Gateway}[k.rng.IntN(2)]
	k.t.Logf("round %d: %s closes %s's channel by force", k.rounds, by.Name, of.Name)
	k.closing[of] = closeChannel(ctx, k.t, k.net.Net, by, *k.channel(of), true)
}

const (
	// aliveFor is how long a payment may take with its wallet there. Then blocks come: what
	// is on chain needs them.
	aliveFor = 90 * time.Second
	// unpaidAfter bounds the blocks until a payment ends: expiries of everything on its way,
	// and the expiry after which an HTLC is gone that lnd lost in a restart.
	unpaidAfter = 700
	// closesBefore is how many blocks before an HTLC expires a wallet's lnd that knows its
	// preimage closes the channel, and some.
	closesBefore = 20
	// reconnectAfter is short, since the soak's blocks come each second: at 36 blocks before
	// an expiry, it leaves time for several attempts.
	reconnectAfter = "6s"
)

// waitEnds waits until all have ended one way or the other. What is on chain gets blocks.
func (k *soak) waitEnds(ctx context.Context, payments []*soaking) {
	k.t.Helper()
	began, blocks := time.Now(), 0
	for _, p := range payments {
		for ended := false; !ended; {
			select {
			case m := <-p.payment.done:
				k.ended(m)
				ended = true
			case <-ctx.Done():
				require.NoError(k.t, ctx.Err(), "seed %d", k.seed)
			case <-time.After(time.Second):
				k.noteClosed(ctx, k.net.Payer)
				k.noteClosed(ctx, k.net.Wallet)
				k.usable(ctx, k.net.Wallet)
				k.usable(ctx, k.net.Payer)
				if len(k.closing) > 0 || time.Since(began) > aliveFor {
					blocks++
					require.Less(k.t, blocks, unpaidAfter, "a payment does not end; seed %d", k.seed)
					require.NoError(k.t, k.net.Mine(ctx, 1))
				}
			}
		}
	}
	k.usable(ctx, k.net.Wallet)
	k.usable(ctx, k.net.Payer)
}

// noteClosed notes that somebody's lnd has closed its channel because of an HTLC that
// expires. Our own record must say that it was resumed. At the payer it is one that the
// gateway's lnd has lost, which takes a kill since the payment came; at the wallet one that
// it knows the preimage of, in a channel that stood still and that no reconnection moved.
func (k *soak) noteClosed(ctx context.Context, of *devnet.Node) {
	if _, known := k.closing[of]; known {
		return
	}
	pending, err := of.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
	require.NoError(k.t, err)
	for _, c := range pending.WaitingCloseChannels {
		height, err := k.net.Miner().Height(ctx)
		require.NoError(k.t, err)
		rows, err := k.w.op.api.ListRows(ctx, &interceptorv1.ListRowsRequest{OpenOnly: true, Limit: 1000})
		require.NoError(k.t, err)
		for _, r := range rows.GetRows() {
			if expiry := int64(r.GetIncomingExpiry()); of == k.net.Payer && expiry <= height || of == k.net.Wallet && int64(r.GetOutgoingExpiry()) <= height+closesBefore {
				require.Equal(k.t, "resumed", r.GetState(), "%s closed its channel for an HTLC that was still ours to decide; seed %d: %v", of.Name, k.seed, r)
			}
		}
		id, err := chainhash.NewHashFromStr(c.ClosingTxid)
		require.NoError(k.t, err)
		k.closing[of] = *id
		if of == k.net.Payer {
			require.True(k.t, k.lndKilled, "the payer closed its channel although the gateway's lnd was not killed; seed %d", k.seed)
			k.lost++
			k.t.Logf("round %d: the payer closed its channel for an HTLC that the gateway's lnd has lost", k.rounds)
			continue
		}
		k.stalled++
		k.t.Logf("round %d: the wallet closed its channel, which stood still", k.rounds)
	}
}

// ended counts what the payer's lnd says to have paid: of a set that went on chain some may
// have been settled only.
func (k *soak) ended(m *lnrpc.Payment) {
	if m.Status != lnrpc.Payment_SUCCEEDED {
		k.failed++
		return
	}
	k.paid++
	for _, h := range m.Htlcs {
		if h.Status == lnrpc.HTLCAttempt_SUCCEEDED {
			msat := uint64(h.Route.TotalAmtMsat - h.Route.TotalFeesMsat) //nolint:gosec // not negative
			k.arrivedMsat += msat
			k.channelMsat += msat
		}
	}
}

// account compares everything with what everybody has.
func (k *soak) account(ctx context.Context) {
	k.t.Helper()
	for _, n := range []*devnet.Node{k.net.Payer, k.net.Gateway, k.net.Wallet} {
		require.NoError(k.t, n.WaitNoHTLCs(ctx), "seed %d", k.seed)
		pending, err := n.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
		require.NoError(k.t, err)
		require.Empty(k.t, pending.PendingForceClosingChannels, "%s, seed %d", n.Name, k.seed)
		require.Empty(k.t, pending.WaitingCloseChannels, "%s, seed %d", n.Name, k.seed)
	}
	for _, of := range []*devnet.Node{k.net.Payer, k.net.Wallet} {
		open, err := k.net.Gateway.FindChannel(ctx, k.channel(of).Point)
		require.NoError(k.t, err)
		require.NotNil(k.t, open, "%s's channel is open; seed %d", of.Name, k.seed)
	}
	require.Equal(k.t, k.channelMsat, channelMsat(ctx, k.t, k.net.Wallet), "seed %d", k.seed)
	require.Equal(k.t, k.chainSat, onChainSat(ctx, k.t, k.net.Wallet), "seed %d", k.seed)
}

const payerSat, walletSat = 16_000_000, 1_900_000

// takeHome waits until all of what was closed is on chain, counts it, and opens other
// channels.
func (k *soak) takeHome(ctx context.Context, payments int) {
	k.t.Helper()
	if len(k.closing) == 0 {
		return
	}
	nodes := []*devnet.Node{k.net.Payer, k.net.Gateway, k.net.Wallet}
	resolveOnChain(ctx, k.t, k.net, nodes...)
	if id, closed := k.closing[k.net.Payer]; closed {
		treeOf(ctx, k.t, k.net, id, nodes...)
	}
	if id, closed := k.closing[k.net.Wallet]; closed {
		tree := treeOf(ctx, k.t, k.net, id, nodes...)
		// A commitment leaves fractions of a satoshi to the fee: of its balance and of each HTLC.
		owed, outputs := int64(k.channelMsat/1000), int64(1+3*payments) //nolint:gosec // small
		require.LessOrEqual(k.t, tree.taken[k.net.Wallet], owed, "seed %d", k.seed)
		require.GreaterOrEqual(k.t, tree.taken[k.net.Wallet], owed-outputs, "seed %d", k.seed)
		tree.arrived(ctx, k.net.Wallet, k.chainSat)
		k.channelMsat, k.chainSat = 0, k.chainSat+tree.gains[k.net.Wallet]
	}
	for of := range k.closing {
		require.NoError(k.t, devnet.WaitFor(ctx, of.Name+" to be connected", func(ctx context.Context) (bool, error) {
			peers, err := k.net.Gateway.LN.ListPeers(ctx, &lnrpc.ListPeersRequest{})
			return slices.ContainsFunc(peers.GetPeers(), func(p *lnrpc.Peer) bool { return p.PubKey == of.PubKey }), err
		}), "seed %d", k.seed)
		from, to, params := k.net.Gateway, of, devnet.ChannelParams{CapacitySat: walletSat, Private: true}
		if of == k.net.Payer {
			from, to, params = of, k.net.Gateway, devnet.ChannelParams{CapacitySat: payerSat, PushSat: payerSat / 4}
		}
		var err error
		*k.channel(of), err = k.net.OpenChannel(ctx, from, to, params)
		require.NoError(k.t, err, "seed %d", k.seed)
	}
	clear(k.closing)
}

// giveBack has the wallet pay half of it, so that there is room.
func (k *soak) giveBack(ctx context.Context) {
	half := k.channelMsat / 2
	inv, err := k.net.Payer.Invoice(ctx, int64(half)) //nolint:gosec // small
	require.NoError(k.t, err)
	back, err := k.net.Wallet.Pay(ctx, inv.PaymentRequest)
	require.NoError(k.t, err)
	require.Equal(k.t, lnrpc.Payment_SUCCEEDED, back.Status)
	require.NoError(k.t, k.net.Wallet.WaitNoHTLCs(ctx))
	k.channelMsat -= half + uint64(back.FeeMsat) //nolint:gosec // not negative
	require.Equal(k.t, k.channelMsat, channelMsat(ctx, k.t, k.net.Wallet), "seed %d", k.seed)
}
