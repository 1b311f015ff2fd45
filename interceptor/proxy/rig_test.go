package proxy_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"gopkg.in/macaroon.v2"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	"github.com/sluice-lsp/sluice/interceptor/proxy"
	icstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/interceptor/stream"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

const leaseName = "interceptor"

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

// rig is a gateway between a payer and a wallet, with a sidecar that shares lnd's
// interceptor.
type rig struct {
	t       *testing.T
	ctx     context.Context
	w       *lndfake.World
	p, g, c *lndfake.Node
	payer   *grpc.ClientConn
	wallet  *grpc.ClientConn
	client  *lnd.Client
	ledger  *icstore.Store
	scid    ln.SCID

	programs []proxy.Program
	refused  sync.Map // macaroon ids that lnd refuses
	listings atomic.Int64

	eng  *engine.Engine
	hub  *proxy.Hub
	addr string
	stop func()
}

// newRig starts everything but the sidecar.
func newRig(t *testing.T, seed uint64) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, w: lndfake.New(lndfake.Config{Seed: seed}), stop: func() {}}
	t.Cleanup(r.w.Close)
	node := func(name string, cfg lndfake.NodeConfig) (*lndfake.Node, *grpc.ClientConn) {
		cfg.TCP = true
		n, err := r.w.AddNode(name, cfg)
		require.NoError(t, err)
		conn, err := n.Dial()
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return n, conn
	}
	r.p, r.payer = node("payer", lndfake.NodeConfig{})
	r.g, _ = node("gateway", lndfake.NodeConfig{RequireInterceptor: true})
	r.c, r.wallet = node("wallet", lndfake.NodeConfig{})
	for _, n := range []*lndfake.Node{r.p, r.g} {
		for range 4 {
			_, err := n.Fund(20_000_000)
			require.NoError(t, err)
		}
	}
	_, err := r.w.OpenChannel(r.p, r.g, 15_000_000, 0)
	require.NoError(t, err)
	_, err = r.w.OpenChannel(r.g, r.c, 15_000_000, 0)
	require.NoError(t, err)
	r.client, err = lnd.Dial(lnd.Config{Address: r.g.Addr(), DialOptions: []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.client.Close() })
	channels, err := r.client.ListChannels(ctx)
	require.NoError(t, err)
	for _, ch := range channels {
		if ch.Peer.String() == r.c.PubKey() {
			r.scid = ch.ChanID
		}
	}
	require.NotZero(t, r.scid)
	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, icstore.Migrate(ctx, db))
	r.ledger = icstore.New(db, leaseName)
	t.Cleanup(func() { r.stop() })
	return r
}

// register adds a program with its policies, before the sidecar starts.
func (r *rig) register(name string, away, slow interceptor.Absent, change ...func(*proxy.Program)) {
	p := proxy.Program{Name: name, MacaroonID: "id of " + name, WhileAway: away, WhenSlow: slow, AnswerWithin: 30 * time.Second}
	for _, f := range change {
		f(&p)
	}
	r.programs = append(r.programs, p)
}

// start runs the sidecar until stop.
func (r *rig) start() {
	r.t.Helper()
	hub, err := proxy.NewHub(proxy.HubConfig{
		Programs: r.programs, AwayGrace: 300 * time.Millisecond, RecordAfter: 100 * time.Millisecond,
		Stranger: proxy.Program{WhileAway: interceptor.AbsentResume, WhenSlow: interceptor.AbsentResume, AnswerWithin: 30 * time.Second},
	})
	require.NoError(r.t, err)
	eng, err := engine.New(engine.Config{
		Open: func(ctx context.Context) (engine.Session, error) {
			s, err := stream.Open(ctx, stream.Config{Conn: r.client.Conn()})
			if err != nil {
				return nil, err
			}
			return s, nil
		},
		Acquire: func(ctx context.Context) (engine.Lease, error) {
			l, err := r.ledger.Acquire(ctx, store.LeaseConfig{Owner: "a"})
			if err != nil {
				return nil, err
			}
			return l, nil
		},
		Rows: r.ledger, Handlers: r.ledger, Node: r.client, Outcomes: r.client, Screener: hub, KeepForwarding: true,
		PollEvery: 100 * time.Millisecond, PollSoon: 20 * time.Millisecond, LeaveWithin: 100 * time.Millisecond,
	})
	require.NoError(r.t, err)
	hub.Use(eng)
	r.listings.Store(0)
	r.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
		if c.Phase == lndfake.AfterCall && c.Method == "/lnrpc.Lightning/ListChannels" && eng.Status().Connected {
			r.listings.Add(1)
		}
		return lndfake.Pass
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.ctx))
	bare, err := r.g.Dial()
	require.NoError(r.t, err)
	server, err := proxy.Listen(ctx, proxy.ServerConfig{
		Address: "127.0.0.1:0", Hub: hub, Lnd: bare,
		Allowed: func(_ context.Context, raw []byte, _ string) (bool, error) {
			id, err := proxy.MacaroonID(raw)
			if err != nil {
				return false, err
			}
			_, refused := r.refused.Load(id)
			return !refused, nil
		},
	})
	require.NoError(r.t, err)
	var running sync.WaitGroup
	running.Go(func() { _ = eng.Run(ctx) })
	running.Go(func() { hub.Run(ctx, eng, eng) })
	running.Go(func() { _ = server.Run(ctx) })
	r.eng, r.hub, r.addr = eng, hub, server.Addr()
	r.stop = func() {
		cancel()
		running.Wait()
		_ = bare.Close()
	}
	// What comes before the first listing may be a predecessor's: nobody is asked.
	require.Eventually(r.t, func() bool { return r.listings.Load() > 0 }, patience, 5*time.Millisecond)
}

func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	r.start()
}

// macaroonOf is a macaroon with a program's identifier.
func macaroonOf(t *testing.T, name string) string {
	t.Helper()
	mac, err := macaroon.New([]byte("root"), []byte("id of "+name), "lnd", macaroon.LatestVersion)
	require.NoError(t, err)
	raw, err := mac.MarshalBinary()
	require.NoError(t, err)
	return hex.EncodeToString(raw)
}

// explain says how things stand, for a test that fails.
func (r *rig) explain() string {
	rows, err := r.ledger.List(context.Background(), interceptor.RowFilter{})
	return fmt.Sprintf("interceptor %+v\nprograms %+v\nrows %+v (%v)", r.eng.Status(), r.hub.Status(), rows, err)
}

// program is one that is written against lnd's API alone.
type program struct {
	t       *testing.T
	name    string
	conn    *grpc.ClientConn
	stream  routerrpc.Router_HtlcInterceptorClient
	cancel  context.CancelFunc
	offers  chan *routerrpc.ForwardHtlcInterceptRequest
	ended   chan error
	send    sync.Mutex
	explain func() string
}

// dial connects a program, with its macaroon in every call.
func (r *rig) dial(name string) (*grpc.ClientConn, context.Context) {
	r.t.Helper()
	conn, err := grpc.NewClient(r.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn, metadata.AppendToOutgoingContext(r.ctx, "macaroon", macaroonOf(r.t, name))
}

// attach attaches a program and waits until it is.
func (r *rig) attach(name string) *program {
	r.t.Helper()
	conn, ctx := r.dial(name)
	ctx, cancel := context.WithCancel(ctx)
	stream, err := routerrpc.NewRouterClient(conn).HtlcInterceptor(ctx)
	require.NoError(r.t, err)
	p := &program{
		t: r.t, name: name, conn: conn, stream: stream, cancel: cancel,
		offers: make(chan *routerrpc.ForwardHtlcInterceptRequest, 10_000), ended: make(chan error, 1),
		explain: r.explain,
	}
	r.t.Cleanup(cancel)
	go func() {
		for {
			o, err := stream.Recv()
			if err != nil {
				p.ended <- err
				return
			}
			p.offers <- o
		}
	}()
	before := r.attached(name)
	require.Eventually(r.t, func() bool { return before || r.attached(name) }, patience, 2*time.Millisecond, "%s is not attached", name)
	return p
}

func (r *rig) attached(name string) bool {
	for _, p := range r.hub.Status() {
		if p.Name == name && p.Htlcs {
			return true
		}
	}
	return false
}

// status is one program's.
func (r *rig) status(name string) interceptor.ProgramStatus {
	for _, p := range r.hub.Status() {
		if p.Name == name {
			return p
		}
	}
	return interceptor.ProgramStatus{}
}

// leave ends the program's stream and waits until that is noticed.
func (p *program) leave(r *rig) {
	p.t.Helper()
	p.cancel()
	require.Eventually(p.t, func() bool { return !r.attached(p.name) }, patience, 2*time.Millisecond)
}

func (p *program) next() *routerrpc.ForwardHtlcInterceptRequest {
	p.t.Helper()
	select {
	case o := <-p.offers:
		return o
	case err := <-p.ended:
		require.NoError(p.t, err, "%s was to be asked", p.name)
	case <-time.After(patience):
		require.Fail(p.t, "the program was not asked", "%s: %s", p.name, p.explain())
	}
	return nil
}

// answer sends an answer; what a stream that ended makes of it does not matter.
func (p *program) answer(o *routerrpc.ForwardHtlcInterceptRequest, action routerrpc.ResolveHoldForwardAction, change ...func(*routerrpc.ForwardHtlcInterceptResponse)) {
	m := &routerrpc.ForwardHtlcInterceptResponse{IncomingCircuitKey: o.IncomingCircuitKey, Action: action}
	for _, f := range change {
		f(m)
	}
	p.send.Lock()
	defer p.send.Unlock()
	_ = p.stream.Send(m)
}

const (
	resume = routerrpc.ResolveHoldForwardAction_RESUME
	fail   = routerrpc.ResolveHoldForwardAction_FAIL
	settle = routerrpc.ResolveHoldForwardAction_SETTLE
	modify = routerrpc.ResolveHoldForwardAction_RESUME_MODIFIED
)

// payment is one on its way.
type payment struct {
	t       *testing.T
	hash    []byte
	done    chan *lnrpc.Payment
	explain func() string
}

// pay sends a payment over the gateway, in one part.
func (r *rig) pay() *payment {
	r.t.Helper()
	_, err := routerrpc.NewRouterClient(r.payer).ResetMissionControl(r.ctx, &routerrpc.ResetMissionControlRequest{})
	require.NoError(r.t, err)
	inv, err := lnrpc.NewLightningClient(r.wallet).AddInvoice(r.ctx, &lnrpc.Invoice{
		Value: 1000, RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
			NodeId: r.g.PubKey(), ChanId: uint64(r.scid), CltvExpiryDelta: 80, FeeBaseMsat: 1000, FeeProportionalMillionths: 1,
		}}}},
	})
	require.NoError(r.t, err)
	s, err := routerrpc.NewRouterClient(r.payer).SendPaymentV2(r.ctx, &routerrpc.SendPaymentRequest{
		PaymentRequest: inv.PaymentRequest, TimeoutSeconds: 120, NoInflightUpdates: true, FeeLimitMsat: 1_000_000, MaxParts: 1,
	})
	require.NoError(r.t, err)
	p := &payment{t: r.t, hash: inv.RHash, done: make(chan *lnrpc.Payment, 1), explain: r.explain}
	go func() {
		m, err := s.Recv()
		if err == nil {
			p.done <- m
		}
		close(p.done)
	}()
	return p
}

// ends waits for the payment's end.
func (p *payment) ends(status lnrpc.Payment_PaymentStatus) *lnrpc.Payment {
	p.t.Helper()
	select {
	case m := <-p.done:
		require.NotNil(p.t, m)
		require.Equal(p.t, status, m.Status, "%s", m.FailureReason)
		return m
	case <-time.After(patience):
		require.Fail(p.t, "the payment does not end", "%s", p.explain())
	}
	return nil
}

func (p *payment) succeeds() { p.t.Helper(); p.ends(lnrpc.Payment_SUCCEEDED) }
func (p *payment) fails()    { p.t.Helper(); p.ends(lnrpc.Payment_FAILED) }

// rows lists what is on record of a payment.
func (r *rig) rows(p *payment) []interceptor.Row {
	r.t.Helper()
	hash, err := ln.HashFromBytes(p.hash)
	require.NoError(r.t, err)
	rows, err := r.ledger.List(r.ctx, interceptor.RowFilter{Hash: &hash})
	require.NoError(r.t, err)
	return rows
}

// waitHeld waits until a payment is on record as held.
func (r *rig) waitHeld(p *payment) interceptor.Row {
	r.t.Helper()
	var row interceptor.Row
	require.Eventually(r.t, func() bool {
		rows := r.rows(p)
		if len(rows) == 1 && rows[0].State == interceptor.StateHeld {
			row = rows[0]
			return true
		}
		return false
	}, patience, 5*time.Millisecond, "the HTLC is not on record as held")
	return row
}
