//go:build itest

package itest

import (
	"cmp"
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// paidWithin and refundedWithin are the deadlines that every bad day is held
// to, beyond what the gateway was told to wait.
const (
	paidWithin     = 20 * time.Second
	refundedWithin = 20 * time.Second
	// collectFor is how long gateways of these tests wait for missing parts and
	// for wallets: the least that the configuration allows.
	collectFor = 10 * time.Second
)

// scene is a network with a sluiced, shared by the bad days of one test.
type scene struct {
	*devnet.Standard
	t  *testing.T
	s  *devnet.Sluiced
	op *operator
}

// newScene starts the network and sluiced with these settings, and opens the
// books.
func newScene(ctx context.Context, t *testing.T, network devnet.StandardConfig, config devnet.SluicedConfig) *scene {
	t.Helper()
	return sceneOn(ctx, t, devnet.StartStandard(t, network), config)
}

// sceneOn is newScene on a network that runs already.
func sceneOn(ctx context.Context, t *testing.T, net *devnet.Standard, config devnet.SluicedConfig) *scene {
	t.Helper()
	return sceneWith(ctx, t, net, lnd.GatewayRights(), config)
}

// sceneWith is sceneOn with these rights at the gateway's lnd.
func sceneWith(ctx context.Context, t *testing.T, net *devnet.Standard, rights []string, config devnet.SluicedConfig) *scene {
	t.Helper()
	if config.Settings == nil {
		config.Settings = map[string]string{}
	}
	if config.Settings["lsp.collect_for"] == "" {
		config.Settings["lsp.collect_for"] = collectFor.String()
	}
	s, err := net.StartSluiced(ctx, net.Gateway, rights, config)
	require.NoError(t, err)
	sc := &scene{Standard: net, t: t, s: s, op: newOperator(t, s)}
	sc.op.reconcile(ctx)
	return sc
}

// on gives a subtest its own view of the scene, with a payer that remembers no
// failure of the subtests before.
func (sc *scene) on(ctx context.Context, t *testing.T) *scene {
	t.Helper()
	_, err := sc.Payer.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
	require.NoError(t, err)
	return &scene{Standard: sc.Standard, t: t, s: sc.s, op: &operator{t: t, api: sc.op.api, orders: sc.op.orders}}
}

// person is a wallet of a test, with its link to the gateway.
type person struct {
	*rawWallet
	sc   *scene
	link *devnet.Link
}

// persons starts fresh wallets, which have no channel.
func (sc *scene) persons(ctx context.Context, names ...string) []*person {
	sc.t.Helper()
	var specs []devnet.NodeSpec
	for _, name := range names {
		specs = append(specs, devnet.NodeSpec{Name: name})
	}
	nodes, err := sc.NewNodes(ctx, specs...)
	require.NoError(sc.t, err)
	var out []*person
	for _, n := range nodes {
		link, err := sc.NewLink(sc.Gateway)
		require.NoError(sc.t, err)
		require.NoError(sc.t, sc.ConnectVia(ctx, n, sc.Gateway, link))
		out = append(out, &person{rawWallet: newRawWallet(ctx, sc.t, sc.s, sc.Gateway, n, true), sc: sc, link: link})
	}
	return out
}

// first is the wallet that every standard network has.
func (sc *scene) first(ctx context.Context) *person {
	sc.t.Helper()
	return &person{rawWallet: newRawWallet(ctx, sc.t, sc.s, sc.Gateway, sc.Wallet, true), sc: sc, link: sc.WalletLink}
}

// in gives a subtest its own view of the wallet.
func (p *person) in(sc *scene) *person {
	w := *p.rawWallet
	w.t = sc.t
	return &person{rawWallet: &w, sc: sc, link: p.link}
}

// onProposal does f whenever the gateway proposes a channel to the wallet; nil
// ends that.
func (p *person) onProposal(f func(*ln.AcceptVerdict)) { p.proposal.Store(&f) }

// goOffline cuts the wallet's connection until comeOnline.
func (p *person) goOffline(ctx context.Context) {
	p.t.Helper()
	p.link.Cut()
	require.NoError(p.t, p.sc.WaitDisconnected(ctx, p.node, p.sc.Gateway))
}

func (p *person) comeOnline(ctx context.Context) {
	p.t.Helper()
	p.link.Restore()
	require.NoError(p.t, p.sc.WaitConnected(ctx, p.node, p.sc.Gateway))
}

// channels counts the wallet's channels, pending ones included.
func (p *person) channels(ctx context.Context) int {
	p.t.Helper()
	open, err := p.sc.Gateway.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{Peer: p.key[:]})
	require.NoError(p.t, err)
	pending, err := p.sc.Gateway.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
	require.NoError(p.t, err)
	n := len(open.Channels)
	for _, c := range pending.PendingOpenChannels {
		if c.Channel.RemoteNodePub == p.key.String() {
			n++
		}
	}
	return n
}

// outcome is how a payment of the payer ended.
type outcome struct {
	payment *lnrpc.Payment
	err     error
	took    time.Duration
}

// attempt pays in the background and reports the end.
func (sc *scene) attempt(ctx context.Context, req *routerrpc.SendPaymentRequest) <-chan outcome {
	done := make(chan outcome, 1)
	if req.TimeoutSeconds == 0 {
		req.TimeoutSeconds = 120
	}
	if req.FeeLimitMsat == 0 {
		req.FeeLimitMsat = 1_000_000_000
	}
	if req.MaxParts == 0 {
		req.MaxParts = 1
	}
	go func() {
		began := time.Now()
		payment, err := sc.Payer.Send(ctx, req)
		done <- outcome{payment, err, time.Since(began)}
	}()
	return done
}

// pay is attempt for an invoice, in one part: an lnd payer takes a temporary
// failure of several parts as a reason to split and try until its own time-out.
func (sc *scene) pay(ctx context.Context, bolt11 string) <-chan outcome {
	return sc.attempt(ctx, &routerrpc.SendPaymentRequest{PaymentRequest: bolt11})
}

// payInParts is pay as an ordinary payer does it: in as many parts as needed.
func (sc *scene) payInParts(ctx context.Context, bolt11 string) <-chan outcome {
	return sc.attempt(ctx, &routerrpc.SendPaymentRequest{PaymentRequest: bolt11, MaxParts: 16})
}

// paid demands that the payer has paid within the time.
func (sc *scene) paid(done <-chan outcome, within time.Duration) *lnrpc.Payment {
	sc.t.Helper()
	o := sc.ended(done, within)
	require.Equal(sc.t, lnrpc.Payment_SUCCEEDED, o.payment.Status, "the payer must end paid: %s", o.payment.FailureReason)
	sc.t.Logf("paid %d msat (fees %d msat) after %s", o.payment.ValueMsat, o.payment.FeeMsat, o.took.Round(time.Millisecond))
	return o.payment
}

// refunded demands that the payer has its money back within the time, and says
// why lnd gave up.
func (sc *scene) refunded(done <-chan outcome, within time.Duration) *lnrpc.Payment {
	sc.t.Helper()
	o := sc.ended(done, within)
	require.Equal(sc.t, lnrpc.Payment_FAILED, o.payment.Status, "the payer must end refunded")
	for _, h := range o.payment.Htlcs {
		require.Equal(sc.t, lnrpc.HTLCAttempt_FAILED, h.Status, "no part may be left in flight")
	}
	sc.t.Logf("refunded after %s: %s", o.took.Round(time.Millisecond), o.payment.FailureReason)
	return o.payment
}

func (sc *scene) ended(done <-chan outcome, within time.Duration) outcome {
	sc.t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case o := <-done:
		require.NoError(sc.t, o.err)
		return o
	case <-timer.C:
		require.FailNow(sc.t, "the payer waits longer than "+within.String())
		return outcome{}
	}
}

// failureCodes are what the payer's node was told, part by part.
func failureCodes(p *lnrpc.Payment) []lnrpc.Failure_FailureCode {
	var out []lnrpc.Failure_FailureCode
	for _, h := range p.Htlcs {
		out = append(out, h.GetFailure().GetCode())
	}
	return out
}

// offerWish is what a negotiation may vary.
type offerWish struct {
	another bool
	expires time.Duration
	// finalCltv is what the wallet's invoice asks for, which may be more than the gateway
	// was told; 0 is the same.
	finalCltv uint32
}

// offer is an agreement with what the wallet needs for its invoice.
type offer struct {
	*lspv1.NegotiateResponse
	preimage  ln.Preimage
	amount    ln.Msat
	gateway   []byte
	finalCltv uint32
}

func (p *person) negotiate(ctx context.Context, amount ln.Msat, wish offerWish) offer {
	p.t.Helper()
	o, err := p.tryNegotiate(ctx, amount, nil, wish)
	require.NoError(p.t, err)
	return o
}

// tryNegotiate negotiates with these parameters, or with the menu's first.
func (p *person) tryNegotiate(ctx context.Context, amount ln.Msat, params *lspv1.OpeningFeeParams, wish offerWish) (offer, error) {
	p.t.Helper()
	o := offer{amount: amount, finalCltv: cmp.Or(wish.finalCltv, walletFinalCltv)}
	_, err := rand.Read(o.preimage[:])
	require.NoError(p.t, err)
	hash := o.preimage.Hash()
	menu := p.menu(ctx)
	o.gateway = menu.GatewayNodeKey
	if params == nil {
		params = menu.OpeningFeeParamsMenu[0]
	}
	if wish.expires == 0 {
		wish.expires = 10 * time.Minute
	}
	o.NegotiateResponse, err = p.api.Negotiate(ctx, &lspv1.NegotiateRequest{
		PaymentHash: hash[:], AmountMsat: uint64(amount), OpeningFeeParams: params,
		Channel:              &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: wish.another},
		FinalCltvDeltaBlocks: walletFinalCltv, InvoiceExpiresMs: time.Now().Add(wish.expires).UnixMilli(),
	})
	return o, err
}

// invoice makes the wallet's invoice for an offer.
func (p *person) invoice(ctx context.Context, o offer) string {
	p.t.Helper()
	return p.invoiceFor(ctx, o.preimage, o.amount, o.finalCltv, o.NegotiateResponse, o.gateway)
}

// hints are the offer's route hint as lnd's calls want it.
func (o offer) hints(t *testing.T) []*lnrpc.RouteHint {
	t.Helper()
	scid, err := ln.ParseSCID(o.JitScid)
	require.NoError(t, err)
	key, err := ln.PubKeyFromBytes(o.gateway)
	require.NoError(t, err)
	return []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
		NodeId: key.String(), ChanId: uint64(scid), FeeBaseMsat: o.HintBaseFeeMsat,
		FeeProportionalMillionths: o.HintFeePpm, CltvExpiryDelta: o.HintCltvDeltaBlocks,
	}}}}
}

// waitReason waits until the client reads a reason that holds the text, in
// one of the states (any if none is named), and checks that the operator reads
// the same.
func (p *person) waitReason(ctx context.Context, id, text string, states ...string) *lspv1.Payment {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var last *lspv1.Payment
	stream, err := p.api.WatchPayment(ctx, &lspv1.WatchPaymentRequest{PaymentId: id})
	require.NoError(p.t, err)
	for last == nil || !strings.Contains(last.Reason, text) || !oneOf(last.State, states) {
		msg, err := stream.Recv()
		require.NoError(p.t, err, "waiting for %q in %v, the client reads %s: %q", text, states, last.GetState(), last.GetReason())
		last = msg.Payment
	}
	seen, err := p.sc.op.api.ShowPayment(ctx, &lspv1.ShowPaymentRequest{IdOrHash: id})
	require.NoError(p.t, err)
	require.Equal(p.t, last.Reason, seen.Payment.Reason)
	require.NotEmpty(p.t, seen.Story)
	p.t.Logf("%s: %s", last.State, last.Reason)
	return last
}

func oneOf(state string, states []string) bool {
	for _, s := range states {
		if s == state {
			return true
		}
	}
	return len(states) == 0
}

// openings are the opens that were begun for a payment.
func (sc *scene) openings(ctx context.Context, id string) []*lspv1.Opening {
	sc.t.Helper()
	seen, err := sc.op.api.ShowPayment(ctx, &lspv1.ShowPaymentRequest{IdOrHash: id})
	require.NoError(sc.t, err)
	return seen.Openings
}

// requireRefusal demands an answer that a person can read.
func requireRefusal(t *testing.T, err error, text string) {
	t.Helper()
	require.Error(t, err)
	require.Contains(t, status.Convert(err).Message(), text)
	t.Logf("refused: %s", status.Convert(err).Message())
}

// day runs one bad day and then demands that the books equal lnd's.
func (sc *scene) day(ctx context.Context, name string, f func(sc *scene)) {
	sc.t.Helper()
	sc.t.Run(name, func(t *testing.T) {
		today := sc.on(ctx, t)
		f(today)
		require.NoError(t, today.Payer.WaitNoHTLCs(ctx))
		today.op.waitBalanced(ctx)
	})
}
