package agent_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

const network = "regtest"

func nodeKey(n byte) ln.PubKey { return ln.PubKey{2, n} }

func startTime() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// wallet is the wallet's lnd, from memory.
type wallet struct {
	mu        sync.Mutex
	key       ln.PubKey
	channels  []ln.Channel
	pending   []ln.PendingChannel
	closed    []ln.ClosedChannel
	online    map[ln.PubKey]bool
	refuse    map[ln.PubKey]bool // peers that cannot be connected
	invoices  map[ln.Hash]*ln.Invoice
	decoded   map[string]ln.Bolt11
	ownHints  []ln.RouteHint // what lnd adds to a private invoice
	subs      map[ln.Hash][]chan ln.Invoice
	peerSubs  []chan ln.PeerEvent
	connects  chan ln.PubKey
	propose   chan proposal
	cancelled int
	// trustSat is what the agent may trust with; abandoned are channels that it had lnd forget.
	trustSat  ln.Sat
	abandoned []ln.Outpoint
	height    uint32
}

type proposal struct {
	ln.OpenProposal
	answer chan ln.AcceptVerdict
}

func newWallet() *wallet {
	return &wallet{
		key: nodeKey(99), online: map[ln.PubKey]bool{}, refuse: map[ln.PubKey]bool{}, invoices: map[ln.Hash]*ln.Invoice{},
		decoded: map[string]ln.Bolt11{}, subs: map[ln.Hash][]chan ln.Invoice{}, connects: make(chan ln.PubKey, 100), propose: make(chan proposal),
	}
}

func (w *wallet) Info(context.Context) (ln.NodeInfo, error) {
	return ln.NodeInfo{PubKey: w.key, Network: network, Version: "0.21.2", SyncedToChain: true, BlockHeight: w.blockHeight()}, nil
}

func (w *wallet) blockHeight() uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.height
}

func (w *wallet) setHeight(height uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.height = height
}

func (w *wallet) SignMessage(context.Context, []byte) (string, error) {
	return "", errors.New("not used")
}

func (w *wallet) RunAcceptor(ctx context.Context, decide func(ln.OpenProposal) ln.AcceptVerdict) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case p := <-w.propose:
			p.answer <- decide(p.OpenProposal)
		}
	}
}

func (w *wallet) ListChannels(context.Context) ([]ln.Channel, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]ln.Channel(nil), w.channels...), nil
}

func (w *wallet) PendingChannels(context.Context) ([]ln.PendingChannel, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]ln.PendingChannel(nil), w.pending...), nil
}

func (w *wallet) ClosedChannels(context.Context) ([]ln.ClosedChannel, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]ln.ClosedChannel(nil), w.closed...), nil
}

func (w *wallet) ConnectPeer(_ context.Context, key ln.PubKey, _ string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.connects <- key
	if w.refuse[key] {
		return ln.ErrPeerOffline
	}
	w.online[key] = true
	return nil
}

func (w *wallet) ConnectedPeers(context.Context) ([]ln.PubKey, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []ln.PubKey
	for k, is := range w.online {
		if is {
			out = append(out, k)
		}
	}
	return out, nil
}

func (w *wallet) SubscribePeers(ctx context.Context, handle func(ln.PeerEvent)) error {
	ch := make(chan ln.PeerEvent, 10)
	w.mu.Lock()
	w.peerSubs = append(w.peerSubs, ch)
	w.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-ch:
			handle(e)
		}
	}
}

func (w *wallet) dropPeer(key ln.PubKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.online[key] = false
	for _, ch := range w.peerSubs {
		ch <- ln.PeerEvent{Peer: key}
	}
}

func (w *wallet) AddInvoice(_ context.Context, r ln.InvoiceRequest) (string, ln.Hash, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	preimage := r.Preimage
	if preimage.IsZero() {
		preimage = ln.Preimage(sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(len(w.invoices)))))
	}
	hash := preimage.Hash()
	text := fmt.Sprintf("lnbcrt-own-%s", hash.Short())
	b := ln.Bolt11{
		Text: text, Network: network, Hash: hash, Payee: w.key, HasPaymentAddr: true, AmountMsat: r.AmountMsat,
		Description: r.Memo, CreatedAt: startTime(), Expiry: r.Expiry, FinalCltvDelta: r.FinalCltvDelta,
	}
	for _, h := range r.RouteHints {
		b.RouteHints = append(b.RouteHints, []ln.RouteHint{h})
	}
	if r.Private {
		for _, h := range w.ownHints {
			b.RouteHints = append(b.RouteHints, []ln.RouteHint{h})
		}
	}
	w.decoded[text] = b
	w.invoices[hash] = &ln.Invoice{Hash: hash, Bolt11: text, State: ln.InvoiceOpen, AmountMsat: r.AmountMsat}
	return text, hash, nil
}

func (w *wallet) decode(_, text string) (ln.Bolt11, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, ok := w.decoded[text]
	if !ok {
		return b, errors.New("no invoice")
	}
	return b, nil
}

func (w *wallet) LookupInvoice(_ context.Context, hash ln.Hash) (ln.Invoice, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if inv, ok := w.invoices[hash]; ok {
		return *inv, nil
	}
	return ln.Invoice{}, ln.ErrNotFound
}

func (w *wallet) CancelInvoice(_ context.Context, hash ln.Hash) error {
	w.set(hash, ln.InvoiceCanceled)
	w.mu.Lock()
	w.cancelled++
	w.mu.Unlock()
	return nil
}

func (w *wallet) set(hash ln.Hash, state ln.InvoiceState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	inv := w.invoices[hash]
	inv.State = state
	if state == ln.InvoiceSettled {
		inv.PaidMsat = inv.AmountMsat
	}
	for _, ch := range w.subs[hash] {
		ch <- *inv
	}
}

func (w *wallet) SubscribeInvoice(ctx context.Context, hash ln.Hash, handle func(ln.Invoice)) error {
	ch := make(chan ln.Invoice, 10)
	w.mu.Lock()
	ch <- *w.invoices[hash]
	w.subs[hash] = append(w.subs[hash], ch)
	w.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case inv := <-ch:
			handle(inv)
		}
	}
}

// fakeLSP is an LSP's service that answers honestly unless bend* changes it.
type fakeLSP struct {
	lspv1.UnimplementedChannelsServiceServer
	w         *wallet
	key       ln.PubKey
	params    lsp.OpeningFeeParams
	room      bool
	refuse    error
	bendHint  func(*lspv1.NegotiateResponse)
	bendWrap  func(*lspv1.WrapResponse, *ln.Bolt11)
	bendMenu  func(*lspv1.GetMenuResponse)
	mu        sync.Mutex
	asked     []*lspv1.NegotiateRequest
	wrapped   []*lspv1.WrapRequest
	cancelled []string
	held      []*lspv1.Payment
	states    chan *lspv1.Payment
	// waiting: nil ends the stream.
	waiting chan *lspv1.WatchWaitingResponse
	// trusts: it funds channels only once they are claimed; refuseTrust, that it
	// refuses whoever does not trust it. signer signs promise.
	trusts, refuseTrust bool
	signer              *btcec.PrivateKey
	promise             *lsp.FundingPromise
	promisesAsked       int
	givenUp             []string
}

func newFakeLSP(w *wallet, key ln.PubKey, minFee ln.Msat, ppm uint32) *fakeLSP {
	return &fakeLSP{w: w, key: key, states: make(chan *lspv1.Payment, 10), waiting: make(chan *lspv1.WatchWaitingResponse), params: lsp.OpeningFeeParams{
		MinFeeMsat: minFee, ProportionalPPM: ppm, ValidUntil: startTime().Add(30 * time.Minute), MinLifetimeBlocks: 1000,
		MaxClientToSelfDelay: 2016, MinPaymentSizeMsat: 1_000_000, MaxPaymentSizeMsat: 1_000_000_000, Promise: "v1.abc",
	}}
}

func (f *fakeLSP) GetMenu(context.Context, *lspv1.GetMenuRequest) (*lspv1.GetMenuResponse, error) {
	p := f.params
	r := &lspv1.GetMenuResponse{
		GatewayNodeKey: f.key[:], CltvDeltaBlocks: 80, Accepting: true, Network: network, MaxChannelSat: 16_000_000,
		OpeningFeeParamsMenu: []*lspv1.OpeningFeeParams{{
			MinFeeMsat: uint64(p.MinFeeMsat), ProportionalPpm: uint64(p.ProportionalPPM), ValidUntilMs: p.ValidUntil.UnixMilli(),
			MinLifetimeBlocks: p.MinLifetimeBlocks, MaxClientToSelfDelayBlocks: p.MaxClientToSelfDelay,
			MinPaymentSizeMsat: uint64(p.MinPaymentSizeMsat), MaxPaymentSizeMsat: uint64(p.MaxPaymentSizeMsat), Promise: p.Promise,
		}},
	}
	r.ClientTrustsLsp = f.trusts
	if f.bendMenu != nil {
		f.bendMenu(r)
	}
	return r, nil
}

func (f *fakeLSP) Negotiate(_ context.Context, r *lspv1.NegotiateRequest) (*lspv1.NegotiateResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r)
	if f.refuse != nil {
		return nil, f.refuse
	}
	if f.refuseTrust && r.Channel.TrustMsat < r.AmountMsat {
		return nil, status.Error(codes.Unavailable, "it wants trust")
	}
	resp := &lspv1.NegotiateResponse{
		PaymentId: "pay-1", JitScid: "16100000x1x1", HintCltvDeltaBlocks: 80, PayerPaysMsat: r.AmountMsat,
		ExpiresMs: min(r.InvoiceExpiresMs, f.params.ValidUntil.UnixMilli()),
	}
	if !f.room {
		q, err := f.params.QuotePayerPays(ln.Msat(r.AmountMsat))
		if err != nil {
			return nil, err
		}
		resp.OpensChannel, resp.ChannelCapacitySat = true, 200_000
		resp.FeeMsat, resp.HintFeePpm, resp.PayerPaysMsat = uint64(q.FeeMsat), q.HintPPM, uint64(q.PayerMsat)
	}
	resp.ClientTrustsLsp = f.trusts
	if f.bendHint != nil {
		f.bendHint(resp)
	}
	return resp, nil
}

func (f *fakeLSP) Wrap(_ context.Context, r *lspv1.WrapRequest) (*lspv1.WrapResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrapped = append(f.wrapped, r)
	if f.refuse != nil {
		return nil, f.refuse
	}
	if f.refuseTrust && r.Channel.TrustMsat == 0 {
		return nil, status.Error(codes.Unavailable, "it wants trust")
	}
	own, err := f.w.decode(network, r.Bolt11)
	if err != nil {
		return nil, err
	}
	b := own
	b.Payee, b.AmountMsat, b.FinalCltvDelta = f.key, ln.Msat(r.AmountMsat), own.FinalCltvDelta+87+r.Channel.HoldForSeconds/600
	b.Expiry = own.Expiry - 150*time.Second - time.Duration(r.Channel.MinConfirmations)*time.Hour - time.Duration(r.Channel.HoldForSeconds)*time.Second
	resp := &lspv1.WrapResponse{PaymentId: "wrap-1", FeeMsat: r.AmountMsat - uint64(own.AmountMsat), OpensChannel: true, ChannelCapacitySat: 200_000}
	if n := r.Channel.MinConfirmations; n > 0 {
		resp.MaxWaitBlocks = 6 + 6*n
	}
	resp.ClientTrustsLsp = f.trusts
	if f.bendWrap != nil {
		f.bendWrap(resp, &b)
	}
	if resp.Bolt11 == "" {
		resp.Bolt11 = "lnbcrt-wrapped-" + own.Hash.Short()
	}
	b.Text = resp.Bolt11
	f.w.mu.Lock()
	f.w.decoded[b.Text] = b
	f.w.mu.Unlock()
	return resp, nil
}

func (f *fakeLSP) CancelPayment(_ context.Context, r *lspv1.CancelPaymentRequest) (*lspv1.CancelPaymentResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cancelled = append(f.cancelled, r.PaymentId)
	return &lspv1.CancelPaymentResponse{}, nil
}

func (f *fakeLSP) ListPayments(context.Context, *lspv1.ListPaymentsRequest) (*lspv1.ListPaymentsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &lspv1.ListPaymentsResponse{Payments: f.held}, nil
}

func (f *fakeLSP) WatchPayment(_ *lspv1.WatchPaymentRequest, s grpc.ServerStreamingServer[lspv1.WatchPaymentResponse]) error {
	for {
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case p := <-f.states:
			if err := s.Send(&lspv1.WatchPaymentResponse{Payment: p}); err != nil || p.Terminal {
				return err
			}
		}
	}
}

func (f *fakeLSP) WatchWaiting(_ *lspv1.WatchWaitingRequest, s grpc.ServerStreamingServer[lspv1.WatchWaitingResponse]) error {
	if err := s.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case w := <-f.waiting:
			if w == nil {
				return status.Error(codes.Unavailable, "the gateway is stopping")
			}
			if err := s.Send(w); err != nil {
				return err
			}
		}
	}
}

// world is one wallet with its agent and its LSPs.
type world struct {
	*wallet
	agent *agent.Agent
	dir   string
	lsps  map[string]*fakeLSP
}

func start(t *testing.T, lsps map[string]*fakeLSP, w *wallet) *world {
	t.Helper()
	return startWith(t, lsps, w, nil)
}

func startWith(t *testing.T, lsps map[string]*fakeLSP, w *wallet, over agent.LSPS) *world {
	t.Helper()
	return startIn(t, t.TempDir(), lsps, w, over)
}

// startIn begins with what is in a data directory.
func startIn(t *testing.T, dir string, lsps map[string]*fakeLSP, w *wallet, over agent.LSPS) *world {
	t.Helper()
	conns := map[string]*grpc.ClientConn{}
	for name, f := range lsps {
		listener := bufconn.Listen(1 << 16)
		s := grpc.NewServer()
		lspv1.RegisterChannelsServiceServer(s, f)
		go func() { _ = s.Serve(listener) }()
		t.Cleanup(s.Stop)
		conn, err := grpc.NewClient("passthrough:"+name, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
		require.NoError(t, err)
		conns[name] = conn
	}
	a, err := agent.New(agent.Config{DataDir: dir, Policy: agent.DefaultPolicy(), CallTimeout: 5 * time.Second, KeepEvery: time.Hour, Trust: agent.TrustConfig{MaxSat: w.trustSat}}, agent.Ports{
		Holder: w, Node: w, Channels: w, Peers: w, Invoices: w, LSPS: over, Decode: w.decode, Now: startTime, Log: zap.NewNop(),
		Connect: func(l agent.LSP, _ ln.PubKey) (lspv1.ChannelsServiceClient, func() error, error) {
			conn, ok := conns[l.Name]
			if !ok {
				return nil, nil, errors.New("no such service")
			}
			return lspv1.NewChannelsServiceClient(conn), func() error { return nil }, nil
		},
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	select {
	case <-a.Ready():
	case <-time.After(10 * time.Second):
		t.Fatal("the agent never became ready")
	}
	for name, f := range lsps {
		require.NoError(t, a.AddLSP(t.Context(), agent.LSP{
			Name: name, NodeKey: f.key, Address: "127.0.0.1:9735", GRPC: "127.0.0.1:10999", ZeroConf: true,
		}, false, true))
	}
	return &world{wallet: w, agent: a, dir: dir, lsps: lsps}
}

func (w *world) ask(t *testing.T, o ln.OpenProposal) ln.AcceptVerdict {
	t.Helper()
	p := proposal{o, make(chan ln.AcceptVerdict, 1)}
	select {
	case w.propose <- p:
		return <-p.answer
	case <-time.After(10 * time.Second):
		t.Fatal("nobody answers proposals")
		return ln.AcceptVerdict{}
	}
}
