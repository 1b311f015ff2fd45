package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/interceptor/api/interceptorv1"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

// fakeNow is the clock of commands under test.
func fakeNow() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func ms(ago time.Duration) int64 { return fakeNow().Add(-ago).UnixMilli() }

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// fakeGateway answers like a gateway in the middle of its day, behind the real
// server with its certificates, macaroons and errors.
type fakeGateway struct {
	lspv1.UnimplementedOperatorServiceServer
	interceptorv1.UnimplementedInterceptorServer

	vault fakeVault
	tower fakeTower

	mu        sync.Mutex
	accepting bool
	reason    string
	// statusCalls counts polls while stopped: it drains at the third.
	statusCalls int
}

func (f *fakeGateway) Name() string { return "lsp" }

func (f *fakeGateway) Permissions() auth.Permissions {
	table := auth.Permissions{}
	for _, desc := range []grpc.ServiceDesc{lspv1.OperatorService_ServiceDesc, lspv1.OrdersOperatorService_ServiceDesc, interceptorv1.Interceptor_ServiceDesc, lwsv1.HoldsOperatorService_ServiceDesc, backupsv1.VaultOperatorService_ServiceDesc, swapsv1.SwapsOperatorService_ServiceDesc, towerv1.TowerOperatorService_ServiceDesc, collabv1.JointFundingOperatorService_ServiceDesc} {
		for _, m := range desc.Methods {
			table["/"+desc.ServiceName+"/"+m.MethodName] = auth.Permission{Service: "lsp", For: auth.Operators}
		}
		for _, m := range desc.Streams {
			table["/"+desc.ServiceName+"/"+m.StreamName] = auth.Permission{Service: "lsp", For: auth.Operators}
		}
	}
	return table
}

func (f *fakeGateway) RegisterGRPC(r grpc.ServiceRegistrar) {
	lspv1.RegisterOperatorServiceServer(r, f)
	lspv1.RegisterOrdersOperatorServiceServer(r, fakeOrders{})
	interceptorv1.RegisterInterceptorServer(r, heldFake{})
	lwsv1.RegisterHoldsOperatorServiceServer(r, holdsFake{})
	backupsv1.RegisterVaultOperatorServiceServer(r, &f.vault)
	swapsv1.RegisterSwapsOperatorServiceServer(r, fakeSwaps{})
	towerv1.RegisterTowerOperatorServiceServer(r, &f.tower)
	collabv1.RegisterJointFundingOperatorServiceServer(r, fakeFundings{})
}

func (f *fakeGateway) RegisterREST(context.Context, *runtime.ServeMux, *grpc.ClientConn) error {
	return nil
}

var _ rpcserver.Service = (*fakeGateway)(nil)

const (
	fakeClient  = "02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	fakeGateKey = "03bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	fakeHash    = "1111111111111111111111111111111111111111111111111111111111111111"
	fakeTxID    = "2222222222222222222222222222222222222222222222222222222222222222"
)

func (f *fakeGateway) GetStatus(context.Context, *lspv1.GetStatusRequest) (*lspv1.GetStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	got := &lspv1.GetStatusResponse{
		Accepting: f.accepting, StoppedReason: f.reason,
		Exposures: []*lspv1.Exposure{
			{Kind: "unconfirmed", Used: 4_000_000, Cap: 100_000_000, Unit: "sat"},
			{Kind: "held", Used: 99_000_001, Cap: 100_000_000, Unit: "sat"},
			{Kind: "unpaid", Used: 0, Cap: 0, Unit: "sat"},
			{Kind: "held_sat_blocks", Used: 12, Cap: 10_000_000_000, Unit: "sat_blocks"},
			{Kind: "opens_this_hour", Used: 7, Cap: 200, Unit: "count"},
		},
		PaymentsByState: map[string]uint64{"opening": 2, "paid": 1234, "offered": 1},
		OpeningsByState: map[string]uint64{"usable": 40, "published": 1},
		FeesEarnedMsat:  12_345_678, ChainFeesMsat: 1_500_000, UsableCoinsSat: 5_000_000, AnchorReserveSat: 100_000,
		CoinPool: &lspv1.CoinPool{Wanted: 40, CoinSat: 1_000_000, Ready: 38, Coming: 2, Small: 3, OpensLeft: 38, Promised: 7, Refill: "next_block"},
		Settings: &lspv1.GatewaySettings{
			Network: "regtest", CltvDelta: 144, HoldExpiryDelta: 20, MinChannelSat: 200_000, MaxChannelSat: 50_000_000,
			ReservePerChannelSat: 20_000, MinReserveSat: 30_000, MaxReserveSat: 300_000, KeepSat: 5_000_000,
		},
		FundingTrust:    &lspv1.FundingTrust{Mode: "under_attack", Unclaimed: 21, AttackFrom: 20, AttackFromPerClient: 5, UnderAttack: true},
		FeeRateSatPerKw: 1253, FeeRateEstimateSatPerKw: 1253, FeeRateAgeMs: 31_000, FeeRateFloorSatPerKw: 253, FeeRateCeilingSatPerKw: 50_000,
		OpeningCostCoveredSat: 1_238, Menu: []*lspv1.OpeningFeeParams{
			{MinFeeMsat: 2_000_000, ProportionalPpm: 10_000, MinLifetimeBlocks: 4_320, MinPaymentSizeMsat: 10_000_000, MaxPaymentSizeMsat: 10_000_000_000},
			{MinFeeMsat: 5_000_000, ProportionalPpm: 12_000, MinLifetimeBlocks: 12_960, MinPaymentSizeMsat: 10_000_000, MaxPaymentSizeMsat: 10_000_000_000},
		},
		PromiseKeys: []*lspv1.PromiseKey{
			{Version: 1_769_000_000, MadeMs: ms(40 * 24 * time.Hour)}, {Version: 1_772_000_000, MadeMs: ms(95 * time.Minute), Signs: true},
		},
		GatewayNodeKey: unhex(fakeGateKey), BlockHeight: 850_123,
	}
	if !f.accepting {
		f.statusCalls++
		if f.statusCalls >= 3 {
			got.Drained, got.PaymentsByState, got.OpeningsByState = true, nil, nil
		}
	}
	return got, nil
}

func fakePayment() *lspv1.Payment {
	return &lspv1.Payment{
		PaymentId: "01JPAY1", ClientNodeKey: unhex(fakeClient), Mode: lspv1.PaymentMode_PAYMENT_MODE_PAYER_PAYS,
		PaymentHash: unhex(fakeHash), AmountMsat: 100_000_000, FeeMsat: 2_000_500, ReceivedMsat: 102_000_500,
		State: "opening", Reason: "holding the payment while channel 01JOPEN1 is opened",
		CreatedMs: ms(2 * time.Minute), UpdatedMs: ms(3 * time.Second), ExpiresMs: ms(-28 * time.Minute), BlocksLeft: 101, JitScid: "16000001x2x3",
	}
}

func (f *fakeGateway) FindPayments(_ context.Context, r *lspv1.FindPaymentsRequest) (*lspv1.FindPaymentsResponse, error) {
	if r.GetState() == "nowhere" {
		return &lspv1.FindPaymentsResponse{}, nil
	}
	done := fakePayment()
	done.PaymentId, done.State, done.Terminal, done.BlocksLeft = "01JPAY0", "refunded", true, 0
	done.Mode = lspv1.PaymentMode_PAYMENT_MODE_RECEIVER_PAYS
	done.Reason = "the wallet's node refused: \x1b[31mred\x1b[0m\nand a second line"
	done.UpdatedMs = ms(50 * time.Hour)
	list := []*lspv1.Payment{fakePayment(), done}
	return &lspv1.FindPaymentsResponse{Payments: list[:min(len(list), int(r.GetLimit()))]}, nil
}

func fakeOpening() *lspv1.Opening {
	return &lspv1.Opening{
		OpeningId: "01JOPEN1", PaymentId: "01JPAY1", ClientNodeKey: unhex(fakeClient), State: "published",
		CapacitySat: 250_000, ChainFeeSat: 455, FundingOutpoint: fakeTxID + ":1", ZeroConf: true,
		Reason: "waiting for the channel to become active", CreatedMs: ms(4 * time.Second), UpdatedMs: ms(3900 * time.Millisecond),
		Unpaid: true,
	}
}

func (f *fakeGateway) ShowPayment(_ context.Context, r *lspv1.ShowPaymentRequest) (*lspv1.ShowPaymentResponse, error) {
	if r.GetIdOrHash() != "01JPAY1" && r.GetIdOrHash() != fakeHash {
		return nil, errkind.New(errkind.NotFound, "There is no such payment: list them with FindPayments.")
	}
	return &lspv1.ShowPaymentResponse{
		Payment: fakePayment(), Openings: []*lspv1.Opening{fakeOpening()},
		Story: []*lspv1.StoryEvent{
			{AtMs: ms(2 * time.Minute), Event: "agreed", To: "offered", Reason: "waiting for the payer", Machine: "payment"},
			{AtMs: ms(5 * time.Second), Event: "part_arrived", From: "offered", To: "collecting", Machine: "payment"},
			{AtMs: ms(5*time.Second - 12*time.Millisecond), Event: "complete", From: "collecting", To: "opening", Machine: "payment"},
			{AtMs: ms(4 * time.Second), Event: "published", From: "signed", To: "published", Machine: "opening"},
		},
	}, nil
}

func (f *fakeGateway) ShowClient(_ context.Context, r *lspv1.ShowClientRequest) (*lspv1.ShowClientResponse, error) {
	return &lspv1.ShowClientResponse{ClientNodeKey: r.GetClientNodeKey(), Newcomer: true, Exposures: []*lspv1.Exposure{
		{Kind: "unpaid", Used: 250_000, Cap: 20_000_000, Unit: "sat"}, {Kind: "opens_this_hour", Used: 1, Cap: 10, Unit: "count"},
	}}, nil
}

func (f *fakeGateway) SetClientTrust(context.Context, *lspv1.SetClientTrustRequest) (*lspv1.SetClientTrustResponse, error) {
	return &lspv1.SetClientTrustResponse{}, nil
}

func (f *fakeGateway) ForgiveClient(context.Context, *lspv1.ForgiveClientRequest) (*lspv1.ForgiveClientResponse, error) {
	return &lspv1.ForgiveClientResponse{Channels: 1, CapacitySat: 250_000}, nil
}

func (f *fakeGateway) ListOpenings(_ context.Context, r *lspv1.ListOpeningsRequest) (*lspv1.ListOpeningsResponse, error) {
	if r.GetUnpaidOnly() && len(r.GetClientNodeKey()) > 0 {
		return &lspv1.ListOpeningsResponse{}, nil
	}
	return &lspv1.ListOpeningsResponse{Openings: []*lspv1.Opening{fakeOpening()}}, nil
}

func (f *fakeGateway) WithdrawPayment(_ context.Context, r *lspv1.WithdrawPaymentRequest) (*lspv1.WithdrawPaymentResponse, error) {
	if r.GetPaymentId() == "01JPAID" {
		return nil, errkind.New(errkind.Conflict, "The payment was handed on already, so it can only end at the wallet: wait for it.")
	}
	p := fakePayment()
	p.State, p.Terminal, p.Reason, p.BlocksLeft = "cancelled", true, r.GetReason(), 0
	return &lspv1.WithdrawPaymentResponse{Payment: p}, nil
}

func (f *fakeGateway) SetBusiness(_ context.Context, r *lspv1.SetBusinessRequest) (*lspv1.SetBusinessResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepting, f.reason, f.statusCalls = r.GetAccepting(), r.GetReason(), 0
	if f.accepting {
		f.reason = ""
	}
	return &lspv1.SetBusinessResponse{Accepting: f.accepting}, nil
}

func (f *fakeGateway) Reconcile(context.Context, *lspv1.ReconcileRequest) (*lspv1.ReconcileResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.Contains(f.reason, "long history") {
		f.mu.Unlock()
		time.Sleep(quiet + 300*time.Millisecond)
		f.mu.Lock()
	}
	got := &lspv1.ReconcileResponse{Balanced: true, Lines: []*lspv1.ReconcileLine{
		{Account: "channels", BooksMsat: 1_000_000_000, LndMsat: 1_000_000_000},
		{Account: "wallet", BooksMsat: 500_000_000, LndMsat: 500_000_000},
	}}
	if !f.accepting {
		got.Balanced = false
		got.Lines[1].LndMsat, got.Lines[1].DifferenceMsat, got.Lines[1].Note = 499_999_000, -1000, "one transaction is not in the books"
		got.Details = []*lspv1.ReconcileDetail{{
			Account: "wallet", LndMsat: -1000, DifferenceMsat: -1000, Reference: strings.Repeat("ab", 32), Note: "it moves exactly the difference: no label",
		}}
	}
	return got, nil
}

func (f *fakeGateway) GetReconcileProgress(context.Context, *lspv1.GetReconcileProgressRequest) (*lspv1.GetReconcileProgressResponse, error) {
	return &lspv1.GetReconcileProgressResponse{Step: "forwards", Entries: 3000}, nil
}

type heldFake struct {
	interceptorv1.UnimplementedInterceptorServer
}

func (heldFake) GetStatus(context.Context, *interceptorv1.GetStatusRequest) (*interceptorv1.GetStatusResponse, error) {
	return &interceptorv1.GetStatusResponse{
		Active: true, Connected: true, Height: 850_123, HeldHtlcs: 3, HeldMsat: 153_000_000, MinBlocksLeft: 9,
		StreamEnds: 1, LastStreamEnd: "lnd restarted",
		Asked: 2,
		Programs: []*interceptorv1.ProgramStatus{{
			Name: "firewall", Registered: true, Htlcs: true, WhileAway: "fail", WhenSlow: "resume", Waiting: 2, Asked: 1234,
			Failed: 5, Late: 1, Refused: 1, LastRefusal: "7x1x0:3: this program may not settle forwards",
		}},
		Handlers: []*interceptorv1.HandlerStatus{{Name: "lsp", OnAbsent: "hold", Attached: true, Routes: 7, Held: 3}},
	}, nil
}

func (heldFake) ListRows(_ context.Context, r *interceptorv1.ListRowsRequest) (*interceptorv1.ListRowsResponse, error) {
	row := func(id int64, state string, failHeight uint32) *interceptorv1.Row {
		return &interceptorv1.Row{
			Id: id, Key: &interceptorv1.CircuitKey{ChanId: 850_000<<40 | 5<<16 | 1, HtlcId: uint64(id)}, PaymentHash: unhex(fakeHash),
			IncomingMsat: 51_000_000, OutgoingMsat: 50_000_000, FailHeight: failHeight, Handler: "lsp", State: state,
			OfferedMs: ms(90 * time.Second), Reason: "a channel is being opened",
		}
	}
	got := &interceptorv1.ListRowsResponse{}
	for _, x := range []*interceptorv1.Row{row(1, "held", 850_200), row(2, "held", 850_132), row(3, "paying", 850_150), row(4, "resumed", 850_140)} {
		if r.GetState() == "" || r.GetState() == x.GetState() {
			got.Rows = append(got.Rows, x)
		}
	}
	return got, nil
}

// startFake serves a fake gateway and writes its certificate and macaroon into
// dir, as sluiced does.
func startFake(t testing.TB, dir string) (addr string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	keys, err := auth.NewFileRootKeys(filepath.Join(dir, "keys"))
	require.NoError(t, err)
	bakery, err := auth.NewBakery(ctx, keys, rand.Reader, time.Now)
	require.NoError(t, err)
	_, err = bakery.OperatorFile(ctx, filepath.Join(dir, "operator.macaroon"))
	require.NoError(t, err)
	cert, err := selfcert.Open(selfcert.Config{CertPath: filepath.Join(dir, "tls.cert"), KeyPath: filepath.Join(dir, "tls.key"), Now: time.Now})
	require.NoError(t, err)
	tenants, registry := fakeTenants(t, dir, bakery)
	server, err := rpcserver.Listen(ctx, rpcserver.Config{
		GRPCAddress: "127.0.0.1:0", TLS: cert.TLS(), Verifier: bakery, Tenants: registry, Limits: auth.DefaultLimits(), StopTimeout: time.Second,
		Log: zap.NewNop(), Now: time.Now, Rand: rand.Reader, Registry: prometheus.NewRegistry(),
	}, &fakeGateway{accepting: true}, tenants)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	return strings.Replace(server.GRPCAddr().String(), "127.0.0.1", "localhost", 1), func() {
		cancel()
		<-done
	}
}

// holdsFake has one payment that waits.
type holdsFake struct {
	lwsv1.UnimplementedHoldsOperatorServiceServer
}

func (holdsFake) ListHolds(context.Context, *lwsv1.ListHoldsRequest) (*lwsv1.ListHoldsResponse, error) {
	return &lwsv1.ListHoldsResponse{Registered: 12, Waiting: []*lwsv1.WaitingPayment{{
		Id: "01", Client: unhex(fakeClient), PaymentHash: unhex(fakeHash), AmountMsat: 51_000_000, Htlcs: 2, State: "held",
		SinceMs: ms(26 * time.Minute), UntilMs: ms(-34 * time.Minute), FailHeight: 850_010, BlocksLeft: 3, Wakes: 4,
		LastWakeMs: time.Date(2026, 3, 1, 12, 3, 0, 0, time.UTC).UnixMilli(), LastWake: "its program does not listen; its webhooks are to be called",
		Webhooks: []string{"app at push.example: told at 12:03:01"}, Kind: "registered",
	}, {
		Id: "02", Client: unhex(fakeClient), PaymentHash: unhex(fakeHash), AmountMsat: 20_000_000, Htlcs: 1, State: "accepted",
		SinceMs: ms(time.Minute), UntilMs: ms(-11 * time.Hour), FailHeight: 850_110, BlocksLeft: 103, Kind: "wrapped",
	}}}, nil
}
