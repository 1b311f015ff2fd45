//go:build itest

package itest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// afterOutage bounds what a payment may still take once everything that was
// killed is back: nodes redial, the payer's link comes up, a channel opens.
const afterOutage = time.Minute

// activeAgain bounds how long channels may take to be active after it. lnd leaves a link
// down now and then though its peer is connected; sluiced connects such a peer anew after
// lsp.reconnect_after, two minutes.
const activeAgain = 4 * time.Minute

// newSceneOn is newScene on a network that is there already.
func newSceneOn(ctx context.Context, t *testing.T, net *devnet.Standard, config devnet.SluicedConfig) *scene {
	t.Helper()
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), config)
	require.NoError(t, err)
	sc := &scene{Standard: net, t: t, s: s, op: newOperator(t, s)}
	sc.op.reconcile(ctx)
	return sc
}

// startPostgres starts a server in the network; without PostgreSQL the test is
// skipped, with the reason.
func startPostgres(ctx context.Context, t *testing.T, net *devnet.Standard) *devnet.Postgres {
	t.Helper()
	pg, err := net.StartPostgres(ctx)
	if errors.Is(err, devnet.ErrNoPostgres) {
		t.Skip(err)
	}
	require.NoError(t, err)
	return pg
}

// forget makes a node forget what it has learnt from failures.
func forget(ctx context.Context, t *testing.T, n *devnet.Node) {
	t.Helper()
	_, err := n.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
	require.NoError(t, err)
}

// moment is a step of a payment's story: its own machine (jit or wrap), or that
// of an opening of its own, reached a state.
type moment struct{ machine, state string }

func (m moment) String() string { return m.machine + " " + m.state }

// waitMoment returns as soon as the operator can see the moment in a payment's
// story. The payment goes on meanwhile: what is done next happens at that
// moment or soon after it.
func (sc *scene) waitMoment(ctx context.Context, id string, m moment) {
	sc.t.Helper()
	sc.waitStory(ctx, id, m.String(), func(e *lspv1.StoryEvent) bool {
		return e.To == m.state && strings.Contains(e.Machine, "-open-") == (m.machine == "opening")
	})
}

// waitStory is waitMoment for what the story says otherwise.
func (sc *scene) waitStory(ctx context.Context, id, what string, has func(*lspv1.StoryEvent) bool) {
	sc.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, afterOutage)
	defer cancel()
	var last *lspv1.ShowPaymentResponse
	for {
		// One call after the other: these moments last for milliseconds.
		seen, err := sc.op.api.ShowPayment(ctx, &lspv1.ShowPaymentRequest{IdOrHash: id})
		if err == nil {
			last = seen
			if slices.ContainsFunc(seen.Story, has) {
				return
			}
			require.False(sc.t, seen.Payment.Terminal, "payment %s ended without ever reaching %s; its story:\n%s", id, what, storyText(seen))
		}
		require.NoError(sc.t, ctx.Err(), "payment %s never reached %s; its story:\n%s", id, what, storyText(last))
	}
}

// waitEnd waits until a payment is in one of the states, through any outage.
func (sc *scene) waitEnd(ctx context.Context, id string, states ...string) *lspv1.Payment {
	sc.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, afterOutage)
	defer cancel()
	var last *lspv1.ShowPaymentResponse
	err := devnet.WaitFor(ctx, "the payment to end", func(ctx context.Context) (bool, error) {
		seen, err := sc.op.api.ShowPayment(ctx, &lspv1.ShowPaymentRequest{IdOrHash: id})
		if err != nil {
			return false, err
		}
		last = seen
		return oneOf(seen.Payment.State, states), nil
	})
	require.NoError(sc.t, err, "payment %s should be %v; its story:\n%s", id, states, storyText(last))
	return last.Payment
}

func storyText(seen *lspv1.ShowPaymentResponse) string {
	if seen == nil {
		return "  (the operator's API did not answer)"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  now %s: %s\n", seen.Payment.State, seen.Payment.Reason)
	for _, e := range seen.Story {
		fmt.Fprintf(&b, "  %s %s: %s -> %s (%s) %s\n", time.UnixMilli(e.AtMs).Format("15:04:05.000"), e.Machine, e.From, e.To, e.Event, e.Reason)
	}
	for _, o := range seen.Openings {
		fmt.Fprintf(&b, "  opening %s: %s %s %s\n", o.OpeningId, o.State, o.FundingOutpoint, o.Reason)
	}
	return b.String()
}

// holdOffer negotiates for a payment whose preimage the wallet gives up only
// when the test says so: its HTLC stays in flight at the wallet.
func (p *person) holdOffer(ctx context.Context, amount ln.Msat) (o offer, bolt11 string) {
	p.t.Helper()
	o = p.negotiate(ctx, amount, offerWish{another: true})
	return o, p.holdInvoice(ctx, o)
}

// holdInvoice is invoice with a hold invoice.
func (p *person) holdInvoice(ctx context.Context, o offer) string {
	p.t.Helper()
	hash := o.preimage.Hash()
	inv, err := p.node.Invoices.AddHoldInvoice(ctx, &invoicesrpc.AddHoldInvoiceRequest{
		Hash: hash[:], ValueMsat: int64(o.amount), Expiry: 600, CltvExpiry: uint64(o.finalCltv), RouteHints: o.hints(p.t),
	})
	require.NoError(p.t, err)
	return inv.PaymentRequest
}

// claim gives up the preimage of a hold invoice.
func (p *person) claim(ctx context.Context, o offer) {
	p.t.Helper()
	_, err := p.node.Invoices.SettleInvoice(ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: o.preimage.Bytes()})
	require.NoError(p.t, err)
}

// gauge reads one of sluiced's metrics; ok is false while it is not served.
func gauge(ctx context.Context, s *devnet.Sluiced, name string) (value float64, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Admin+"/metrics", nil)
	if err != nil {
		return 0, false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, false
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, name+" "); found {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return value, err == nil
		}
	}
	return 0, false
}

func waitGauge(ctx context.Context, t *testing.T, s *devnet.Sluiced, name string, want float64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, afterOutage)
	defer cancel()
	err := devnet.WaitFor(ctx, fmt.Sprintf("%s of %s to be %v", name, s.Name(), want), func(ctx context.Context) (bool, error) {
		v, ok := gauge(ctx, s, name)
		if !ok {
			return false, fmt.Errorf("%s is not served", name)
		}
		if v != want {
			return false, fmt.Errorf("it is %v", v)
		}
		return true, nil
	})
	require.NoError(t, err)
}

// ready reports whether sluiced says that it does business.
func ready(ctx context.Context, s *devnet.Sluiced) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Admin+"/ready", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode == http.StatusOK
}

// crash kills sluiced as a power cut would, and starts it again.
func (sc *scene) crash(ctx context.Context) {
	sc.t.Helper()
	require.NoError(sc.t, sc.s.Kill())
	began := time.Now()
	require.NoError(sc.t, sc.s.Start(ctx))
	sc.t.Logf("sluiced killed; ready again %s after its start", time.Since(began).Round(time.Millisecond))
}

// crashGateway kills the gateway's lnd, starts it again, and waits for its peers.
func (sc *scene) crashGateway(ctx context.Context, peers ...*devnet.Node) {
	sc.t.Helper()
	require.NoError(sc.t, sc.Gateway.Kill())
	sc.gatewayBack(ctx, peers)
}

// gatewayBack starts the gateway's lnd, with these flags besides, and waits for its peers.
func (sc *scene) gatewayBack(ctx context.Context, peers []*devnet.Node, flags ...string) {
	sc.t.Helper()
	require.NoError(sc.t, sc.Gateway.Start(ctx, flags...))
	for _, p := range peers {
		require.NoError(sc.t, sc.WaitConnected(ctx, p, sc.Gateway))
	}
	sc.waitActive(ctx, peers...)
}

// waitActive waits until every channel between these nodes and the gateway is
// usable, as both ends see it.
func (sc *scene) waitActive(ctx context.Context, peers ...*devnet.Node) {
	sc.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, activeAgain)
	defer cancel()
	err := devnet.WaitFor(ctx, "the channels to be active", func(ctx context.Context) (bool, error) {
		for _, p := range peers {
			for _, ends := range [][2]*devnet.Node{{p, sc.Gateway}, {sc.Gateway, p}} {
				list, err := ends[0].LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
				if err != nil {
					return false, err
				}
				for _, c := range list.Channels {
					if c.RemotePubkey == ends[1].PubKey && !c.Active {
						return false, fmt.Errorf("%s has channel %d inactive", ends[0].Name, c.ChanId)
					}
				}
			}
		}
		return true, nil
	})
	require.NoError(sc.t, err)
}

// forward makes an ordinary forward through the gateway: the wallet pays an
// invoice of the payer over its channel. It reports how that ended.
func (p *person) forward(ctx context.Context, amountMsat int64) (*lnrpc.Payment, error) {
	p.t.Helper()
	inv, err := p.sc.Payer.Invoice(ctx, amountMsat)
	require.NoError(p.t, err)
	return p.node.Pay(ctx, inv.PaymentRequest)
}

// knowsItsChannels waits until the wallet's router has both policies of each of
// its channels, which it learns a second after they became active.
func (p *person) knowsItsChannels(ctx context.Context) {
	p.t.Helper()
	list, err := p.node.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(p.t, err)
	for _, c := range list.Channels {
		require.NoError(p.t, p.node.WaitPolicies(ctx, c.ChanId))
	}
}

func (p *person) forwards(ctx context.Context, amountMsat int64) {
	p.t.Helper()
	began := time.Now()
	payment, err := p.forward(ctx, amountMsat)
	require.NoError(p.t, err)
	require.Equal(p.t, lnrpc.Payment_SUCCEEDED, payment.Status, "an ordinary forward must pass: %s", payment.FailureReason)
	p.t.Logf("an ordinary forward passed in %s", time.Since(began).Round(time.Millisecond))
}
