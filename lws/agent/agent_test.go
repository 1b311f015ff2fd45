package agent_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/agent"
	"github.com/sluice-lsp/sluice/lws/agent/holdagentv1"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// gateway is one in memory.
type gateway struct {
	lwsv1.HoldsServiceClient
	hold     *lwsv1.Hold
	waiting  []*lwsv1.WaitingPayment
	expected []*lwsv1.ExpectPaymentRequest
	returned []string
	away     error
}

func (g *gateway) GetHold(context.Context, *lwsv1.GetHoldRequest, ...grpc.CallOption) (*lwsv1.GetHoldResponse, error) {
	if g.away != nil {
		return nil, g.away
	}
	return &lwsv1.GetHoldResponse{Hold: g.hold, Waiting: g.waiting, Terms: &lwsv1.HoldTerms{HoldForSeconds: 7200, MaxHtlcs: 5, MaxSat: 1000}}, nil
}

func (g *gateway) SetHold(_ context.Context, r *lwsv1.SetHoldRequest, _ ...grpc.CallOption) (*lwsv1.SetHoldResponse, error) {
	g.hold = r.Hold
	return &lwsv1.SetHoldResponse{}, nil
}

func (g *gateway) RemoveHold(context.Context, *lwsv1.RemoveHoldRequest, ...grpc.CallOption) (*lwsv1.RemoveHoldResponse, error) {
	g.hold = nil
	return &lwsv1.RemoveHoldResponse{}, nil
}

func (g *gateway) ExpectPayment(_ context.Context, r *lwsv1.ExpectPaymentRequest, _ ...grpc.CallOption) (*lwsv1.ExpectPaymentResponse, error) {
	if g.away != nil {
		return nil, g.away
	}
	g.expected = append(g.expected, r)
	return &lwsv1.ExpectPaymentResponse{}, nil
}

func (g *gateway) ReturnPayment(_ context.Context, r *lwsv1.ReturnPaymentRequest, _ ...grpc.CallOption) (*lwsv1.ReturnPaymentResponse, error) {
	g.returned = append(g.returned, r.Id)
	return &lwsv1.ReturnPaymentResponse{}, nil
}

// node is the wallet's lnd in memory.
type node struct {
	peer      ln.PubKey
	asked     []ln.InvoiceRequest
	invoices  map[ln.Hash]ln.InvoiceState
	reissued  []ln.Reissue
	hints     int
	denied    error
	remoteSat ln.Sat
}

func (n *node) Info(context.Context) (ln.NodeInfo, error) {
	return ln.NodeInfo{PubKey: ln.PubKey{2, 1}, Network: "regtest"}, nil
}

func (n *node) ListChannels(context.Context) ([]ln.Channel, error) {
	return []ln.Channel{{Peer: n.peer, Private: true, RemoteSat: n.remoteSat, RemoteReserveSat: 10}}, nil
}

func (n *node) AddInvoice(_ context.Context, r ln.InvoiceRequest) (string, ln.Hash, error) {
	n.asked = append(n.asked, r)
	hash := ln.Hash{byte(len(n.asked))}
	n.invoices[hash] = ln.InvoiceOpen
	return "own", hash, nil
}

func (n *node) LookupInvoice(_ context.Context, hash ln.Hash) (ln.Invoice, error) {
	if state, known := n.invoices[hash]; known {
		return ln.Invoice{State: state}, nil
	}
	return ln.Invoice{}, ln.ErrNotFound
}

func (n *node) CancelInvoice(_ context.Context, hash ln.Hash) error {
	n.invoices[hash] = ln.InvoiceCanceled
	return nil
}

func (n *node) reissue(_ context.Context, _, text string, r ln.Reissue) (string, error) {
	n.reissued = append(n.reissued, r)
	return "again:" + text, n.denied
}

func (n *node) decode(_, text string) (ln.Bolt11, error) {
	r := n.reissued[len(n.reissued)-1]
	return ln.Bolt11{Text: text, CreatedAt: noon, Expiry: r.Expiry, FinalCltvDelta: r.FinalCltvDelta, RouteHints: make([][]ln.RouteHint, n.hints)}, nil
}

func newNode() *node {
	return &node{peer: ln.PubKey{2, 9}, invoices: map[ln.Hash]ln.InvoiceState{}, hints: 1, remoteSat: 2_000}
}

func start(t *testing.T, dir string, n *node, g *gateway, enabled bool) *agent.Agent {
	t.Helper()
	a, err := agent.New(agent.Config{DataDir: dir, Wish: agent.DefaultWish(), Enabled: enabled}, agent.Ports{
		Node: n, Reissue: n.reissue, Decode: n.decode, Now: func() time.Time { return noon },
		Gateways: func() []agent.Gateway { return []agent.Gateway{{Name: "g", NodeKey: n.peer}} },
		Connect: func(agent.Gateway, ln.PubKey) (lwsv1.HoldsServiceClient, func() error, error) {
			return g, func() error { return nil }, nil
		},
	})
	require.NoError(t, err)
	return a
}

// Who was asked nothing changes nothing: the registration may be another machine's.
func TestRegistration(t *testing.T) {
	ctx, dir, g := t.Context(), t.TempDir(), &gateway{hold: &lwsv1.Hold{HoldForSeconds: 60, MaxHtlcs: 1, MaxSat: 1, FinalCltvDeltaBlocks: 80}}
	a := start(t, dir, newNode(), g, false)
	_, err := a.Refresh(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 60, g.hold.HoldForSeconds)

	all, err := a.Say(ctx, agent.Said{Enabled: true, HoldFor: "90m"})
	require.NoError(t, err)
	require.True(t, all[0].Registered)
	require.EqualValues(t, 5400, g.hold.HoldForSeconds)
	require.EqualValues(t, 5, g.hold.MaxHtlcs, "within what the gateway offers")
	require.EqualValues(t, 1000, g.hold.MaxSat)

	// The gateway forgot it; another process of the same wallet registers again.
	g.hold = nil
	_, err = start(t, dir, newNode(), g, false).Refresh(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 5400, g.hold.HoldForSeconds)

	_, err = a.Say(ctx, agent.Said{})
	require.NoError(t, err)
	require.Nil(t, g.hold)
	_, err = start(t, dir, newNode(), g, true).Refresh(ctx)
	require.NoError(t, err)
	require.Nil(t, g.hold, "off, by command, wins over the configuration")
	_, err = a.Say(ctx, agent.Said{Enabled: true, HoldFor: "soon"})
	require.ErrorIs(t, err, errkind.Invalid)
}

// A wallet that was restored from its seed has no invoice for what waits.
func TestWhatWaits(t *testing.T) {
	ctx, n, g := t.Context(), newNode(), &gateway{}
	n.invoices[ln.Hash{7}] = ln.InvoiceOpen
	known, unknown := ln.Hash{7}, ln.Hash{0xab, 0xcd, 0xef}
	g.waiting = []*lwsv1.WaitingPayment{{Id: "1", PaymentHash: known[:]}, {Id: "2", PaymentHash: unknown[:]}, {Id: "3", PaymentHash: []byte{1}}}
	a := start(t, t.TempDir(), n, g, false)
	all, err := a.Refresh(ctx)
	require.NoError(t, err)
	require.Len(t, all[0].Waiting, 2)
	require.Equal(t, string(ln.InvoiceOpen), all[0].Waiting[0].Invoice)
	require.Equal(t, agent.InvoiceUnknown, all[0].Waiting[1].Invoice)
	require.NoError(t, a.Return(ctx, "ABCDEF"))
	require.Equal(t, []string{"2"}, g.returned)
	require.ErrorIs(t, a.Return(ctx, "abc"), errkind.Invalid)
	require.ErrorIs(t, a.Return(ctx, "ffffff"), errkind.NotFound)

	g.away = errors.New("gone")
	all, err = a.Refresh(ctx)
	require.NoError(t, err)
	require.Error(t, all[0].Problem)
	require.Len(t, all[0].Waiting, 2, "what was heard last")
	require.Len(t, a.Known()[0].Waiting, 2)
}

// What a gateway says does not reach the terminal as control characters.
func TestWordsOfGateways(t *testing.T) {
	hash := ln.Hash{7}
	g := &gateway{waiting: []*lwsv1.WaitingPayment{{Id: "\x1b[2J", PaymentHash: hash[:], LastWake: "a\nb", State: "\u202eheld", Webhooks: []string{"told\x07"}, Kind: "wrap\x00ped"}}}
	var r registrar
	start(t, t.TempDir(), newNode(), g, false).RegisterControl(&r)
	got, err := r.holds.GetHolds(t.Context(), &holdagentv1.GetHoldsRequest{Fresh: true})
	require.NoError(t, err)
	w := got.Gateways[0].Waiting[0]
	require.Equal(t, []string{" [2J", "a b", " held", "told ", "wrap ped"}, []string{w.Id, w.LastWake, w.State, w.Webhooks[0], w.Kind})
}

type registrar struct{ holds holdagentv1.WalletHoldsServer }

func (r *registrar) RegisterService(_ *grpc.ServiceDesc, impl any) {
	r.holds = impl.(holdagentv1.WalletHoldsServer)
}

func TestInvoice(t *testing.T) {
	ctx, n, g := t.Context(), newNode(), &gateway{}
	a := start(t, t.TempDir(), n, g, true)
	r := agent.InvoiceRequest{AmountMsat: 1_000_000, Wait: time.Hour}
	inv, err := a.MakeInvoice(ctx, r)
	require.NoError(t, err)
	require.Equal(t, "again:own", inv.Bolt11)
	require.EqualValues(t, 80, n.asked[0].FinalCltvDelta)
	require.GreaterOrEqual(t, n.asked[0].Expiry, 2*time.Hour, "the payer's hour and the hold's")
	require.Equal(t, n.peer, n.reissued[0].Via)
	require.Len(t, g.expected, 1)
	require.EqualValues(t, 80, g.expected[0].FinalCltvDeltaBlocks)
	require.Equal(t, noon.Add(time.Hour).UnixMilli(), g.expected[0].UntilMs)

	for name, spoil := range map[string]func(){
		"no hint yet":    func() { n.hints = 0 },
		"not allowed":    func() { n.denied = ln.ErrPermission },
		"no room":        func() { n.remoteSat = 100 },
		"nobody by name": func() { r.Gateway = "x" },
		"too long":       func() { r.Wait = 3 * time.Hour },
	} {
		n.hints, n.denied, n.remoteSat, r = 1, nil, 2_000, agent.InvoiceRequest{AmountMsat: 1_000_000, Wait: time.Hour}
		spoil()
		_, err := a.MakeInvoice(ctx, r)
		require.Error(t, err, name)
	}
	require.Len(t, g.expected, 1)
	open := 0
	for _, state := range n.invoices {
		if state == ln.InvoiceOpen {
			open++
		}
	}
	require.Equal(t, 1, open, "invoices that nobody was shown are cancelled")
}

// Whatever is asked: lnd's invoice outlives payer and hold, payers can pay it, the gateway
// holds as long as was said, and is paid its price.
func TestPlans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const height = 800_000
		price := rapid.Uint64Range(0, 100_000).Draw(t, "price")
		w := lws.Wish{HoldFor: 9 * 24 * time.Hour, FinalCltvDelta: rapid.Uint32Range(18, 200).Draw(t, "final")}
		r := agent.InvoiceRequest{
			AmountMsat: ln.Msat(rapid.Uint64Range(1, 1<<40).Draw(t, "amount")), Wait: time.Duration(rapid.IntRange(10, 10_000).Draw(t, "minutes")) * time.Minute,
			Expiry: time.Duration(rapid.IntRange(1, 40_000).Draw(t, "expiry")) * time.Minute,
		}
		p, err := agent.MakePlan(r, w, &lwsv1.HoldTerms{PriceMsatPerMillionSatBlocks: price})
		if err != nil {
			require.ErrorIs(t, err, errkind.Invalid)
			return
		}
		require.Greater(t, p.OwnExpiry, r.Expiry+r.Wait)
		require.LessOrEqual(t, p.PayerFinal, uint32(1440))
		padding := rapid.Uint32Range(0, 16).Draw(t, "padding")
		out := uint32(height) + p.PayerFinal + padding
		h := ln.InterceptedHtlc{OutgoingExpiry: out, IncomingExpiry: out + 80, AutoFailHeight: out + 61}
		until := lws.FailHeight(h, height, p.OwnFinal, 10)
		require.GreaterOrEqual(t, until-height, p.WaitBlocks)
		require.GreaterOrEqual(t, time.Duration(p.WaitBlocks)*10*time.Minute, r.Wait)
		fee := uint64(r.AmountMsat) * uint64(p.ExtraPPM) / 1_000_000
		incoming := r.AmountMsat + ln.Msat(min(fee, uint64(r.AmountMsat)/100))
		require.GreaterOrEqual(t, ln.Msat(fee)+1, lws.Limits{PriceMsat: ln.Msat(price)}.Price(lws.SatBlocks(incoming, height, until)))
	})
}
