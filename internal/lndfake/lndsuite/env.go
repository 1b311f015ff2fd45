package lndsuite

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"
)

const (
	nSat     = 100_000
	nMsat    = nSat * 1000
	deadline = 2 * time.Minute
	settled  = 3 * time.Second // how long "nothing happens" is watched
)

func sorted(m map[string]func(*env)) []string { return slices.Sorted(maps.Keys(m)) }

// env is one case under way.
type env struct {
	*testing.T
	ctx  context.Context
	make Factory
	Network
	// x is the X of the recipes: what the wallet's hints name and no channel has. Cases that share a network have
	// one each.
	x uint64
	// pubs are the nodes' keys: a frozen node does not tell its own.
	pubs map[string]string
}

func newEnv(t *testing.T, make Factory, number int) *env {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	t.Cleanup(cancel)
	return &env{T: t, ctx: ctx, make: make, x: 16_100_000<<40 | uint64(number)<<16 | 3, pubs: map[string]string{}} //nolint:gosec // a count
}

// start makes the network of the case.
func (e *env) start(opts Options) {
	e.Helper()
	e.Network = e.make(e.T, opts)
}

func (e *env) ln(node string) lnrpc.LightningClient {
	return lnrpc.NewLightningClient(e.Conn(e.T, node))
}

func (e *env) router(node string) routerrpc.RouterClient {
	return routerrpc.NewRouterClient(e.Conn(e.T, node))
}

func (e *env) invoices(node string) invoicesrpc.InvoicesClient {
	return invoicesrpc.NewInvoicesClient(e.Conn(e.T, node))
}

func (e *env) walletKit(node string) walletrpc.WalletKitClient {
	return walletrpc.NewWalletKitClient(e.Conn(e.T, node))
}

func (e *env) ok(err error) {
	e.Helper()
	require.NoError(e.T, err)
}

// until waits for a condition.
func (e *env) until(what string, cond func() bool) {
	e.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if cond() {
			return
		}
	}
	e.Fatalf("never: %s", what)
}

func (e *env) info(node string) *lnrpc.GetInfoResponse {
	e.Helper()
	r, err := e.ln(node).GetInfo(e.ctx, &lnrpc.GetInfoRequest{})
	e.ok(err)
	return r
}

func (e *env) pub(node string) string {
	e.Helper()
	if e.pubs[node] == "" {
		e.pubs[node] = e.info(node).IdentityPubkey
	}
	return e.pubs[node]
}

func (e *env) pubBytes(node string) []byte {
	e.Helper()
	b, err := hex.DecodeString(e.pub(node))
	e.ok(err)
	return b
}

func (e *env) height() uint32 { return e.info(Gateway).BlockHeight }

func (e *env) channels(node string) []*lnrpc.Channel {
	e.Helper()
	r, err := e.ln(node).ListChannels(e.ctx, &lnrpc.ListChannelsRequest{})
	e.ok(err)
	return r.Channels
}

// followed is for how many seconds the gateway's lnd says that it has followed its channels.
func (e *env) followed() int64 {
	e.Helper()
	least := int64(math.MaxInt64)
	for _, c := range e.channels(Gateway) {
		least = min(least, c.Lifetime)
	}
	return least
}

func (e *env) channelsWith(node, peer string) (out []*lnrpc.Channel) {
	e.Helper()
	pub := e.pub(peer)
	for _, c := range e.channels(node) {
		if c.RemotePubkey == pub {
			out = append(out, c)
		}
	}
	return out
}

// local is what a node has in its channels, by its own account, in sat.
func (e *env) local(node string) (sum int64) {
	e.Helper()
	for _, c := range e.channels(node) {
		sum += c.LocalBalance
	}
	return sum
}

// quiet waits until no node has an HTLC in flight.
func (e *env) quiet(nodes ...string) {
	e.Helper()
	e.until("no HTLC in flight", func() bool {
		for _, n := range nodes {
			for _, c := range e.channels(n) {
				if len(c.PendingHtlcs) > 0 {
					return false
				}
			}
		}
		return true
	})
}

// acceptor attaches a ChannelAcceptor to the wallet.
func (e *env) acceptor(zeroConf bool) {
	e.Helper()
	s, err := e.ln(Wallet).ChannelAcceptor(e.ctx)
	e.ok(err)
	go func() {
		for {
			q, err := s.Recv()
			if err != nil {
				return
			}
			_ = s.Send(&lnrpc.ChannelAcceptResponse{
				Accept: true, PendingChanId: q.PendingChanId, ZeroConf: zeroConf && q.WantsZeroConf,
			})
		}
	}()
	time.Sleep(300 * time.Millisecond) // nothing tells when the stream is registered
}

// sidecar is an interceptor's client.
type sidecar struct {
	e      *env
	stream routerrpc.Router_HtlcInterceptorClient
	offers chan *routerrpc.ForwardHtlcInterceptRequest
	ended  chan error
	close  func()
}

// sidecar attaches an interceptor's client; lnd has it when it returns.
func (e *env) sidecar() *sidecar {
	e.Helper()
	var s *sidecar
	e.until("the interceptor's client is attached", func() bool {
		s = e.attach()
		time.Sleep(50 * time.Millisecond) // so that the other one comes second
		if e.refusesAnother() {
			return true
		}
		s.close()
		<-s.ended
		return false
	})
	return s
}

// refusesAnother: lnd tells that it has a client only by refusing a second one.
func (e *env) refusesAnother() bool {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, 2*time.Second)
	defer cancel()
	second, err := e.router(Gateway).HtlcInterceptor(ctx)
	e.ok(err)
	_, err = second.Recv()
	return err != nil && strings.Contains(err.Error(), "interceptor already exists")
}

func (e *env) attach() *sidecar {
	e.Helper()
	ctx, cancel := context.WithCancel(e.ctx)
	s, err := e.router(Gateway).HtlcInterceptor(ctx)
	e.ok(err)
	c := &sidecar{
		e: e, stream: s, offers: make(chan *routerrpc.ForwardHtlcInterceptRequest, 1000), ended: make(chan error, 1), close: cancel,
	}
	go func() {
		for {
			q, err := s.Recv()
			if err != nil {
				c.ended <- err
				return
			}
			c.offers <- q
		}
	}()
	e.Cleanup(cancel)
	return c
}

// drop ends the stream and waits until lnd has noticed.
func (c *sidecar) drop() {
	c.close()
	<-c.ended
	time.Sleep(300 * time.Millisecond)
}

func (c *sidecar) next() *routerrpc.ForwardHtlcInterceptRequest {
	c.e.Helper()
	select {
	case q := <-c.offers:
		return q
	case err := <-c.ended:
		c.e.Fatalf("the interceptor's stream ended: %v", err)
	case <-time.After(deadline):
		c.e.Fatal("no HTLC was offered")
	}
	return nil
}

// none checks that nothing is offered for a while.
func (c *sidecar) none() {
	c.e.Helper()
	select {
	case q := <-c.offers:
		c.e.Fatalf("offered again: %v", q)
	case <-time.After(settled):
	}
}

func (c *sidecar) answer(q *routerrpc.ForwardHtlcInterceptRequest, a routerrpc.ResolveHoldForwardAction) {
	c.e.Helper()
	c.e.ok(c.stream.Send(&routerrpc.ForwardHtlcInterceptResponse{IncomingCircuitKey: q.IncomingCircuitKey, Action: a}))
}

func (c *sidecar) resume(q *routerrpc.ForwardHtlcInterceptRequest) {
	c.e.Helper()
	c.answer(q, routerrpc.ResolveHoldForwardAction_RESUME)
}

func (c *sidecar) fail(q *routerrpc.ForwardHtlcInterceptRequest) {
	c.e.Helper()
	c.answer(q, routerrpc.ResolveHoldForwardAction_FAIL)
}

func (c *sidecar) settle(q *routerrpc.ForwardHtlcInterceptRequest, preimage []byte) {
	c.e.Helper()
	c.e.ok(c.stream.Send(&routerrpc.ForwardHtlcInterceptResponse{
		IncomingCircuitKey: q.IncomingCircuitKey, Action: routerrpc.ResolveHoldForwardAction_SETTLE, Preimage: preimage,
	}))
}

func key(q *routerrpc.ForwardHtlcInterceptRequest) [2]uint64 {
	return [2]uint64{q.IncomingCircuitKey.ChanId, q.IncomingCircuitKey.HtlcId}
}

// hint is the wallet's route hint over X.
func (e *env) hint(delta, ppm uint32) []*lnrpc.RouteHint {
	return []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
		NodeId: e.pub(Gateway), ChanId: e.x, CltvExpiryDelta: delta, FeeProportionalMillionths: ppm,
	}}}}
}

func (e *env) invoice(sat int64) *lnrpc.AddInvoiceResponse { return e.invoiceWith(sat, e.hint(80, 0)) }

func (e *env) invoiceWith(sat int64, hints []*lnrpc.RouteHint) *lnrpc.AddInvoiceResponse {
	e.Helper()
	r, err := e.ln(Wallet).AddInvoice(e.ctx, &lnrpc.Invoice{Value: sat, RouteHints: hints})
	e.ok(err)
	return r
}

// holdInvoice is one that the wallet accepts and settles when told, so that HTLCs stay in flight.
func (e *env) holdInvoice(sat int64) (req string, preimage []byte) {
	e.Helper()
	preimage = make([]byte, 32)
	_, err := rand.Read(preimage)
	e.ok(err)
	h := sha256.Sum256(preimage)
	r, err := e.invoices(Wallet).AddHoldInvoice(e.ctx, &invoicesrpc.AddHoldInvoiceRequest{
		Hash: h[:], Value: sat, RouteHints: e.hint(80, 0),
	})
	e.ok(err)
	return r.PaymentRequest, preimage
}

func (e *env) settleAtWallet(preimage []byte) {
	e.Helper()
	e.until("the wallet accepted and settled", func() bool {
		_, err := e.invoices(Wallet).SettleInvoice(e.ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: preimage})
		return err == nil
	})
}

func (e *env) accepted(node string, hash []byte) {
	e.Helper()
	e.until("the invoice is accepted", func() bool {
		r, err := e.ln(node).LookupInvoice(e.ctx, &lnrpc.PaymentHash{RHash: hash})
		return err == nil && r.State == lnrpc.Invoice_ACCEPTED
	})
}

// holds says that one of a node's channels lists an HTLC of this hash.
func (e *env) holds(node string, hash []byte) bool {
	e.Helper()
	for _, c := range e.channels(node) {
		for _, h := range c.PendingHtlcs {
			if bytes.Equal(h.HashLock, hash) {
				return true
			}
		}
	}
	return false
}

func hashOf(preimage []byte) []byte {
	h := sha256.Sum256(preimage)
	return h[:]
}

// paying is a payment of the payer's under way.
type paying struct {
	e    *env
	hash []byte
}

func (e *env) pay(req string) *paying { return e.payIn(req, 0) }

func (e *env) payIn(req string, shardSat uint64) *paying {
	e.Helper()
	d, err := e.ln(Payer).DecodePayReq(e.ctx, &lnrpc.PayReqString{PayReq: req})
	e.ok(err)
	hash, err := hex.DecodeString(d.PaymentHash)
	e.ok(err)
	_, err = e.router(Payer).SendPaymentV2(e.ctx, &routerrpc.SendPaymentRequest{
		PaymentRequest: req, TimeoutSeconds: 3600, FeeLimitMsat: 10_000_000, MaxShardSizeMsat: shardSat * 1000, MaxParts: 16,
	})
	e.ok(err)
	return &paying{e: e, hash: hash}
}

func (p *paying) now() *lnrpc.Payment {
	p.e.Helper()
	var m *lnrpc.Payment
	p.e.until("the payer knows its payment", func() bool {
		ctx, cancel := context.WithCancel(p.e.ctx)
		defer cancel()
		s, err := p.e.router(Payer).TrackPaymentV2(ctx, &routerrpc.TrackPaymentRequest{PaymentHash: p.hash})
		if err != nil {
			return false
		}
		m, err = s.Recv()
		return err == nil
	})
	return m
}

func (p *paying) wait() *lnrpc.Payment {
	p.e.Helper()
	var m *lnrpc.Payment
	p.e.until("the payment is final", func() bool {
		m = p.now()
		return m.Status == lnrpc.Payment_SUCCEEDED || m.Status == lnrpc.Payment_FAILED
	})
	return m
}

func (p *paying) succeeds() *lnrpc.Payment {
	p.e.Helper()
	m := p.wait()
	require.Equal(p.e.T, lnrpc.Payment_SUCCEEDED, m.Status, "%v", m)
	return m
}

// fails checks that the payment failed, with the first attempt's failure being code.
func (p *paying) fails(code lnrpc.Failure_FailureCode) *lnrpc.Payment {
	p.e.Helper()
	m := p.wait()
	require.Equal(p.e.T, lnrpc.Payment_FAILED, m.Status, "%v", m)
	require.NotEmpty(p.e.T, m.Htlcs)
	require.Equal(p.e.T, code, m.Htlcs[0].Failure.GetCode(), "%v", m)
	return m
}

func (e *env) resetMissionControl() {
	e.Helper()
	_, err := e.router(Payer).ResetMissionControl(e.ctx, &routerrpc.ResetMissionControlRequest{})
	e.ok(err)
}
