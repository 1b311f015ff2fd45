//go:build itest

package itest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// lnd's fees where nobody sets any: a base fee in msat, and ppm.
const stockBaseMsat, stockPPM = 1000, 1

// usesStockFees is what lnd logs of a link that it builds before its own policy is in
// its graph.
const usesStockFees = "using default values"

// TestOnDemandStockGateway is the main job beside a gateway that has nothing in its
// lnd.conf but what our pages tell a newcomer to write there: first README.md's lines,
// then those alone that operator.md calls required. lnd charges its own fees wherever
// nobody says otherwise, which no invoice of ours mentions: sluiced has to say so for
// each channel, also for one that lnd has built with its own fees. Without
// store-final-htlc-resolutions it finds out by lnd's events and its history how an HTLC
// ended.
func TestOnDemandStockGateway(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{Gateway: devnet.NodeConfig{
		Stock: true, Conf: lndConf(t, "README.md", "## Attach it to a gateway you have"),
	}})
	sc := sceneOn(ctx, t, net, patient())
	people := sc.persons(ctx, "wrapper", "dropper")
	c := &stockCase{amount: 100_000_000, jit: sc.first(ctx), wrapper: people[0], dropper: people[1]}
	policy, err := policyOf(ctx, net.Gateway, net.Gateway, net.PayerChannel.ChanID)
	require.NoError(t, err)
	require.EqualValues(t, stockBaseMsat, policy.FeeBaseMsat, "the gateway is a stock one")
	require.EqualValues(t, stockPPM, policy.FeeRateMilliMsat)

	sc.day(ctx, "README.md's lines: a channel opened by hand, with lnd's fees", func(sc *scene) { c.byHand(ctx, sc) })
	sc.day(ctx, "README.md's lines", func(sc *scene) { c.everyWay(ctx, sc) })

	require.NoError(t, net.Gateway.Stop(ctx))
	conf := lndConf(t, filepath.Join("docs", "operator.md"), "## lnd.conf")
	require.NotContains(t, conf, "store-final-htlc-resolutions")
	require.NoError(t, os.WriteFile(filepath.Join(net.Gateway.Dir, "lnd.conf"), []byte(conf), 0o600))
	require.NoError(t, net.Gateway.Start(ctx))
	require.NoError(t, sc.s.WaitReady(ctx))
	sc.waitActive(ctx, net.Payer, c.jit.node, c.wrapper.node, c.dropper.node)

	sc.day(ctx, "the required lines alone", func(sc *scene) {
		refused := c.neverClaims(ctx, sc)
		c.everyWay(ctx, sc)
		c.settledWhileAway(ctx, sc)
		// lnd's stream has told, with nothing to look it up in.
		sc.waitEnd(ctx, refused, "offered")
		c.dropper.in(sc).waitReason(ctx, refused, "did not take the payment", "offered")
	})
	text, err := os.ReadFile(net.Gateway.Proc().LogFile())
	require.NoError(t, err)
	n := strings.Count(string(text), usesStockFees)
	t.Logf("lnd built %d links with its own fees", n)
	require.Positive(t, n, "the trap was never there")
}

// stockCase are the payments beside a stock gateway.
type stockCase struct {
	// amount grows, so that no channel so far has room for it.
	amount                ln.Msat
	jit, wrapper, dropper *person
}

// asked is an invoice, and what has to come of it.
type asked struct {
	id, bolt11     string
	opens          bool
	onTop, arrives ln.Msat
}

func payerIsAsked(ctx context.Context, w *person, amount ln.Msat) asked {
	w.t.Helper()
	o := w.negotiate(ctx, amount, offerWish{another: true})
	return asked{o.PaymentId, w.invoice(ctx, o), o.OpensChannel, ln.Msat(o.FeeMsat), amount}
}

func receiverIsAsked(ctx context.Context, w *person, amount ln.Msat) asked {
	w.t.Helper()
	agreed, own := w.receiveReceiverPays(ctx, amount, &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true})
	return asked{agreed.PaymentId, agreed.Bolt11, agreed.OpensChannel, 0, own.AmountMsat}
}

// receiverHasRoom is wrapped for nothing: there is room.
func receiverHasRoom(ctx context.Context, w *person, amount ln.Msat) asked {
	w.t.Helper()
	own, err := w.node.LN.AddInvoice(ctx, &lnrpc.Invoice{ValueMsat: int64(amount), Expiry: 1200, CltvExpiry: 80})
	require.NoError(w.t, err)
	agreed, err := w.api.Wrap(ctx, &lspv1.WrapRequest{
		Bolt11: own.PaymentRequest, AmountMsat: uint64(amount), OpeningFeeParams: w.menu(ctx).OpeningFeeParamsMenu[0],
		Channel: &lspv1.ChannelWish{ZeroConf: true},
	})
	require.NoError(w.t, err)
	return asked{agreed.PaymentId, agreed.Bolt11, agreed.OpensChannel, 0, amount}
}

// exact has the payer pay it: one channel where it opens one, everybody pays what was
// agreed, and all of the rest arrives.
func (sc *scene) exact(ctx context.Context, w *person, a asked, opens bool) {
	sc.t.Helper()
	require.Equal(sc.t, opens, a.opens)
	channels, before := w.channels(ctx), channelMsat(ctx, sc.t, w.node)
	if opens {
		channels++
	}
	payment := sc.paid(sc.pay(ctx, a.bolt11), paidWithin)
	require.EqualValues(sc.t, a.onTop, payment.FeeMsat)
	require.NoError(sc.t, w.node.WaitNoHTLCs(ctx))
	require.Equal(sc.t, before+uint64(a.arrives), channelMsat(ctx, sc.t, w.node))
	require.Equal(sc.t, channels, w.channels(ctx))
}

// everyWay is the main job both ways, with a payment over the same channel right after
// it; with a flap of the wallet's link, and without; and with one while the channel is
// pending, after which lnd knows no policy of ours for it. Then a wallet pays back out.
func (c *stockCase) everyWay(ctx context.Context, sc *scene) {
	for _, flapAtOnce := range []bool{false, true} {
		for _, way := range []struct {
			w           *person
			opens, room func(context.Context, *person, ln.Msat) asked
		}{
			{c.jit.in(sc), payerIsAsked, payerIsAsked},
			{c.wrapper.in(sc), receiverIsAsked, receiverHasRoom},
		} {
			c.amount += 100_000_000
			sc.exact(ctx, way.w, way.opens(ctx, way.w, c.amount), true)
			if !flapAtOnce {
				sc.exact(ctx, way.w, way.room(ctx, way.w, 3_000_001), false)
			}
			// Seen to be cut, or the next payment is forwarded over what is no more.
			way.w.goOffline(ctx)
			way.w.comeOnline(ctx)
			sc.waitActive(ctx, way.w.node)
			sc.exact(ctx, way.w, way.room(ctx, way.w, 2_000_001), false)
			sc.ownPolicies(ctx, way.w)
		}
	}
	w := c.dropper.in(sc)
	c.amount += 100_000_000
	channels, before := w.channels(ctx), channelMsat(ctx, sc.t, w.node)
	a := payerIsAsked(ctx, w, c.amount)
	require.True(sc.t, a.opens)
	pending := w.cutWhenPending(ctx)
	done := sc.pay(ctx, a.bolt11)
	require.NoError(sc.t, <-pending)
	require.NoError(sc.t, sc.WaitDisconnected(ctx, w.node, sc.Gateway))
	w.comeOnline(ctx)
	payment := sc.paid(done, 2*paidWithin)
	require.EqualValues(sc.t, a.onTop, payment.FeeMsat)
	require.NoError(sc.t, w.node.WaitNoHTLCs(ctx))
	require.Equal(sc.t, before+uint64(a.arrives), channelMsat(ctx, sc.t, w.node))
	require.Equal(sc.t, channels+1, w.channels(ctx))
	sc.ownPolicies(ctx, w)

	w.knowsItsChannels(ctx)
	require.NoError(sc.t, w.node.WaitPolicies(ctx, sc.PayerChannel.ChanID))
	back, err := w.forward(ctx, 20_000_000)
	require.NoError(sc.t, err)
	require.Equal(sc.t, lnrpc.Payment_SUCCEEDED, back.Status, "%s", back.FailureReason)
	require.EqualValues(sc.t, stockBaseMsat+20*stockPPM, back.FeeMsat, "the payer's channel keeps lnd's fees")
}

// byHand: a channel that the operator opened without a word of fees has room for a
// payment, for which nobody pays any.
func (c *stockCase) byHand(ctx context.Context, sc *scene) {
	w := c.dropper.in(sc)
	_, err := sc.OpenChannel(ctx, sc.Gateway, w.node, devnet.ChannelParams{CapacitySat: 300_000, Private: true})
	require.NoError(sc.t, err)
	sc.exact(ctx, w, payerIsAsked(ctx, w, 30_000_001), false)
	sc.exact(ctx, w, receiverHasRoom(ctx, w, 20_000_001), false)
}

// neverClaims: the wallet lets go of a payment.
func (c *stockCase) neverClaims(ctx context.Context, sc *scene) (id string) {
	w := c.dropper.in(sc)
	before := channelMsat(ctx, sc.t, w.node)
	o, bolt11 := w.holdOffer(ctx, 10_000_000)
	done := sc.pay(ctx, bolt11)
	hash := o.preimage.Hash()
	w.waitInvoice(ctx, hash, lnrpc.Invoice_ACCEPTED)
	sc.waitEnd(ctx, o.PaymentId, "forwarded")
	_, err := w.node.Invoices.CancelInvoice(ctx, &invoicesrpc.CancelInvoiceMsg{PaymentHash: hash[:]})
	require.NoError(sc.t, err)
	sc.refunded(done, refundedWithin)
	require.NoError(sc.t, w.node.WaitNoHTLCs(ctx))
	require.Equal(sc.t, before, channelMsat(ctx, sc.t, w.node))
	return o.PaymentId
}

// settledWhileAway: nobody hears how it ends. lnd's history tells.
func (c *stockCase) settledWhileAway(ctx context.Context, sc *scene) {
	w := c.dropper.in(sc)
	before := channelMsat(ctx, sc.t, w.node)
	o, bolt11 := w.holdOffer(ctx, 11_000_000)
	done := sc.pay(ctx, bolt11)
	w.waitInvoice(ctx, o.preimage.Hash(), lnrpc.Invoice_ACCEPTED)
	sc.waitEnd(ctx, o.PaymentId, "forwarded")
	require.NoError(sc.t, sc.s.Kill())
	w.claim(ctx, o)
	sc.paid(done, paidWithin)
	require.NoError(sc.t, sc.Payer.WaitNoHTLCs(ctx))
	require.NoError(sc.t, sc.s.Start(ctx))
	sc.waitEnd(ctx, o.PaymentId, "paid")
	require.Equal(sc.t, before+11_000_000, channelMsat(ctx, sc.t, w.node))
}

// ownPolicies waits until both ends know that the gateway forwards to the wallet for
// nothing, with the delta of our hints, over each channel that sluiced opened or used.
func (sc *scene) ownPolicies(ctx context.Context, w *person) {
	sc.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, paidWithin)
	defer cancel()
	for _, end := range [][2]*devnet.Node{{sc.Gateway, w.node}, {w.node, sc.Gateway}} {
		list, err := end[0].LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
		require.NoError(sc.t, err)
		for _, ch := range list.Channels {
			if ch.RemotePubkey != end[1].PubKey {
				continue
			}
			// A policy that lnd made by itself is replaced a moment later.
			require.NoError(sc.t, devnet.WaitFor(ctx, end[0].Name+" to know the policy that sluiced set", func(ctx context.Context) (bool, error) {
				policy, err := policyOf(ctx, end[0], sc.Gateway, ch.ChanId)
				if err != nil {
					return false, err
				}
				if policy.FeeBaseMsat != 0 || policy.FeeRateMilliMsat != 0 || policy.TimeLockDelta != 80 || policy.Disabled {
					return false, fmt.Errorf("channel %d: %v", ch.ChanId, policy)
				}
				return true, nil
			}))
		}
	}
}

// policyOf is how one forwards over a channel, as the other knows it.
func policyOf(ctx context.Context, known, of *devnet.Node, id uint64) (*lnrpc.RoutingPolicy, error) {
	edge, err := known.LN.GetChanInfo(ctx, &lnrpc.ChanInfoRequest{ChanId: id})
	if err != nil {
		return nil, err
	}
	policy := edge.Node2Policy
	if edge.Node1Pub == of.PubKey {
		policy = edge.Node1Policy
	}
	if policy == nil {
		return nil, fmt.Errorf("%s knows no policy of %s for channel %d", known.Name, of.Name, id)
	}
	return policy, nil
}

// lndConf are the lines for lnd.conf that a page of ours gives first below a heading.
func lndConf(t *testing.T, page, heading string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", page))
	require.NoError(t, err)
	_, below, ok := strings.Cut(string(text), "\n"+heading+"\n")
	require.True(t, ok, "%s has no heading %q", page, heading)
	_, block, ok := strings.Cut(below, "```ini\n")
	require.True(t, ok, "%s has no lines for lnd.conf below %q", page, heading)
	block, _, ok = strings.Cut(block, "```")
	require.True(t, ok)
	out := ""
	for line := range strings.Lines(block) {
		out += strings.TrimSpace(line) + "\n"
	}
	require.Contains(t, out, "requireinterceptor=true")
	return out
}
