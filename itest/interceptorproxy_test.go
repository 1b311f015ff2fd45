//go:build itest

package itest

import (
	"context"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/interceptor/api/interceptorv1"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
)

const (
	passMsat = 1_000_000
	// holdMsat is what the program on lnd's API alone does not answer by itself, and
	// refuseMsat what the program on lndclient fails.
	holdMsat      = 2_000_000
	refuseMsat    = 3_000_000
	minProgramSat = 1_000_000
)

// TestInterceptorProxy has three programs share the gateway's interceptor: one that is
// written against lnd's API alone, one on lndclient, and one that misbehaves.
func TestInterceptorProxy(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	require.NoError(t, net.Fund(ctx, devnet.Funding{Node: net.Payer, CoinSat: 3_000_000, Coins: 4}))
	toWallet, err := net.OpenChannel(ctx, net.Gateway, net.Wallet, devnet.ChannelParams{CapacitySat: 1_900_000})
	require.NoError(t, err)
	require.NoError(t, net.Payer.WaitPolicies(ctx, toWallet.ChanID))

	address, err := net.Port()
	require.NoError(t, err)
	file := ""
	macaroons := map[string]string{}
	for _, p := range []struct{ name, policies, rights string }{
		{"alone", "while_away = 'hold'\nwhen_slow = 'hold'", ""},
		{"onlndclient", "while_away = 'fail'", "broad"},
		{"bad", "answer_within = '2s'", ""},
	} {
		macaroons[p.name] = filepath.Join(net.Dir(), p.name+".macaroon")
		rights := programRights()
		if p.rights == "broad" {
			rights = []string{"info:read", "offchain:read", "offchain:write", "onchain:read", "onchain:write", "address:read", "invoices:read", "peers:read", "message:read", "macaroon:read"}
		}
		require.NoError(t, net.Gateway.Bake(ctx, macaroons[p.name], rights))
		file += fmt.Sprintf("[[proxy.programs]]\nname = '%s'\nmacaroon_file = '%s'\n%s\n\n", p.name, macaroons[p.name], p.policies)
	}
	config := patient()
	config.File, config.Settings["proxy.listen"] = file, address
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), config)
	require.NoError(t, err)
	books := newOperator(t, s)
	books.reconcile(ctx)

	alone := &rawProgram{t: t, address: address, cert: s.TLSCert, macaroon: macaroons["alone"]}
	alone.decide = func(o *routerrpc.ForwardHtlcInterceptRequest) *routerrpc.ForwardHtlcInterceptResponse {
		if o.OutgoingAmountMsat == holdMsat {
			return nil
		}
		return answer(o, routerrpc.ResolveHoldForwardAction_RESUME)
	}
	alone.connect(ctx)
	onClient := lndclientProgram(ctx, t, net, address, s.TLSCert, macaroons["onlndclient"], refuseMsat, minProgramSat)
	bad := &rawProgram{t: t, address: address, cert: s.TLSCert, macaroon: macaroons["bad"]}
	bad.decide = func(o *routerrpc.ForwardHtlcInterceptRequest) *routerrpc.ForwardHtlcInterceptResponse {
		return answer(o, routerrpc.ResolveHoldForwardAction_RESUME)
	}
	bad.connect(ctx)
	op := newHoldOperator(t, s)
	op.waitAttached(ctx, "alone", "onlndclient", "bad")

	t.Run("other methods are lnd's", func(t *testing.T) {
		info, err := lnrpc.NewLightningClient(alone.conn).GetInfo(alone.ctx, &lnrpc.GetInfoRequest{})
		require.NoError(t, err)
		require.Equal(t, net.Gateway.PubKey, info.IdentityPubkey)
		_, err = lnrpc.NewLightningClient(alone.conn).WalletBalance(alone.ctx, &lnrpc.WalletBalanceRequest{})
		require.ErrorContains(t, err, "permission denied", "lnd judges the caller's own macaroon")
	})

	t.Run("all let it pass", func(t *testing.T) {
		startPayment(ctx, t, net, passMsat).ends(lnrpc.Payment_SUCCEEDED)
	})

	t.Run("fail beats resume", func(t *testing.T) {
		p := startPayment(ctx, t, net, refuseMsat)
		p.ends(lnrpc.Payment_FAILED)
		rows, err := op.api.ListRows(ctx, &interceptorv1.ListRowsRequest{PaymentHash: p.hash})
		require.NoError(t, err)
		require.NotEmpty(t, rows.GetRows())
		for _, row := range rows.GetRows() {
			require.Equal(t, "failed", row.GetState())
			require.Equal(t, "the program onlndclient failed it", row.GetReason())
		}
	})

	t.Run("channels", func(t *testing.T) {
		_, err := net.Payer.StartOpen(ctx, net.Gateway, devnet.ChannelParams{CapacitySat: minProgramSat / 2})
		require.ErrorContains(t, err, "too small for the program")
		_, err = net.OpenChannel(ctx, net.Payer, net.Gateway, devnet.ChannelParams{CapacitySat: minProgramSat})
		require.NoError(t, err)
	})

	t.Run("a hold outlives sluiced", func(t *testing.T) {
		p := startPayment(ctx, t, net, holdMsat)
		first := alone.next()
		op.waitHeld(ctx, p.hash)
		require.NoError(t, s.Kill())
		<-alone.ended
		alone.leave()
		<-onClient.Exited()
		require.NoError(t, s.Start(ctx))
		alone.connect(ctx)
		require.NoError(t, onClient.Start(ctx))
		bad.leave()
		bad.connect(ctx)
		op.waitAttached(ctx, "alone", "onlndclient", "bad")
		again := alone.next()
		require.Equal(t, first.IncomingCircuitKey.HtlcId, again.IncomingCircuitKey.HtlcId)
		require.Equal(t, first.OnionBlob, again.OnionBlob)
		alone.reply(answer(again, routerrpc.ResolveHoldForwardAction_RESUME))
		p.ends(lnrpc.Payment_SUCCEEDED)
		require.Equal(t, 1, strings.Count(onClient.LogTail(1000), fmt.Sprint("forward ", holdMsat)), "who answered is not asked again")
	})

	t.Run("replays are nobody's question", func(t *testing.T) {
		var preimage ln.Preimage
		copy(preimage[:], "a preimage for the replayed HTLC")
		hash := preimage.Hash()
		inv, err := net.Wallet.Invoices.AddHoldInvoice(ctx, &invoicesrpc.AddHoldInvoiceRequest{Hash: hash[:], ValueMsat: passMsat + 1})
		require.NoError(t, err)
		p := sendPayment(ctx, t, net, inv.PaymentRequest, hash[:])
		require.NoError(t, devnet.WaitFor(ctx, "the wallet to hold it", func(ctx context.Context) (bool, error) {
			got, err := net.Wallet.LN.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: hash[:]})
			return err == nil && got.State == lnrpc.Invoice_ACCEPTED, nil
		}))
		// lnd loses what it has not written of its forwards yet.
		books.waitBalanced(ctx)
		before := op.asked(ctx)
		net.PayerLink.Flap()
		require.NoError(t, net.Gateway.Kill())
		require.NoError(t, net.Gateway.Start(ctx))
		require.NoError(t, s.WaitReady(ctx))
		op.waitConnected(ctx)
		net.WalletLink.Flap()
		require.Equal(t, before, op.asked(ctx))
		require.NoError(t, devnet.WaitFor(ctx, "the invoice to be settled", func(ctx context.Context) (bool, error) {
			_, err := net.Wallet.Invoices.SettleInvoice(ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: preimage.Bytes()})
			return err == nil, nil
		}))
		p.ends(lnrpc.Payment_SUCCEEDED)
	})

	misbehave(ctx, t, net, op, bad)

	require.NoError(t, net.Payer.WaitNoHTLCs(ctx))
	require.NoError(t, net.Wallet.WaitNoHTLCs(ctx))
	for _, c := range []*devnet.Node{net.Payer, net.Wallet, net.Gateway} {
		pending, err := c.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
		require.NoError(t, err)
		require.Empty(t, pending.PendingForceClosingChannels, c.Name)
	}
	books.waitBalanced(ctx)
}

// misbehave has one program do everything wrong: the others' forwards go on.
func misbehave(ctx context.Context, t *testing.T, net *devnet.Standard, op *holdOperator, bad *rawProgram) {
	passes := func(t *testing.T) {
		t.Helper()
		startPayment(ctx, t, net, passMsat).ends(lnrpc.Payment_SUCCEEDED)
	}
	again := func(t *testing.T, decide func(*routerrpc.ForwardHtlcInterceptRequest) *routerrpc.ForwardHtlcInterceptResponse) {
		t.Helper()
		bad.leave()
		op.waitAway(ctx, "bad")
		bad.decide = decide
		bad.connect(ctx)
		op.waitAttached(ctx, "bad")
	}
	silent := func(*routerrpc.ForwardHtlcInterceptRequest) *routerrpc.ForwardHtlcInterceptResponse { return nil }
	strange := &routerrpc.ForwardHtlcInterceptResponse{
		IncomingCircuitKey: &routerrpc.CircuitKey{ChanId: 1 << 40, HtlcId: 7}, Action: routerrpc.ResolveHoldForwardAction_FAIL,
	}
	t.Run("hangs", func(t *testing.T) {
		again(t, silent)
		before := op.program(ctx, "bad").GetLate()
		passes(t)
		require.Greater(t, op.program(ctx, "bad").GetLate(), before)
		// What it says of it now is too late, and hurts nobody.
		bad.reply(answer(bad.next(), routerrpc.ResolveHoldForwardAction_FAIL))
		passes(t)
	})
	t.Run("answers twice", func(t *testing.T) {
		again(t, func(o *routerrpc.ForwardHtlcInterceptRequest) *routerrpc.ForwardHtlcInterceptResponse {
			bad.reply(answer(o, routerrpc.ResolveHoldForwardAction_RESUME))
			return answer(o, routerrpc.ResolveHoldForwardAction_FAIL)
		})
		passes(t)
	})
	t.Run("answers for others", func(t *testing.T) {
		again(t, func(o *routerrpc.ForwardHtlcInterceptRequest) *routerrpc.ForwardHtlcInterceptResponse {
			bad.reply(strange)
			return answer(o, routerrpc.ResolveHoldForwardAction_RESUME)
		})
		passes(t)
	})
	t.Run("settles without a right", func(t *testing.T) {
		again(t, silent)
		p := startPayment(ctx, t, net, passMsat)
		bad.reply(answer(bad.next(), routerrpc.ResolveHoldForwardAction_SETTLE))
		require.Equal(t, codes.InvalidArgument, status.Code(<-bad.ended))
		p.ends(lnrpc.Payment_SUCCEEDED)
	})
	t.Run("floods", func(t *testing.T) {
		again(t, silent)
		for range 10_000 {
			bad.reply(strange)
		}
		require.Equal(t, codes.ResourceExhausted, status.Code(<-bad.ended))
		passes(t)
	})
	t.Run("disconnects with HTLCs held", func(t *testing.T) {
		again(t, silent)
		p := startPayment(ctx, t, net, passMsat)
		bad.next()
		bad.leave()
		p.ends(lnrpc.Payment_SUCCEEDED)
	})
}

// holdOperator looks at the interceptor.
type holdOperator struct {
	t   *testing.T
	api interceptorv1.InterceptorClient
}

func newHoldOperator(t *testing.T, s *devnet.Sluiced) *holdOperator {
	t.Helper()
	tlsConfig, err := selfcert.ClientTLS(s.TLSCert)
	require.NoError(t, err)
	macaroon, err := auth.NewFileCredentials(s.Macaroon)
	require.NoError(t, err)
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)), grpc.WithPerRPCCredentials(macaroon))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &holdOperator{t: t, api: interceptorv1.NewInterceptorClient(conn)}
}

func (o *holdOperator) program(ctx context.Context, name string) *interceptorv1.ProgramStatus {
	st, err := o.api.GetStatus(ctx, &interceptorv1.GetStatusRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return nil
	}
	for _, p := range st.GetPrograms() {
		if p.GetName() == name {
			return p
		}
	}
	return nil
}

// routes counts what the wallet server claims.
func (o *holdOperator) routes(ctx context.Context) (int32, error) {
	st, err := o.api.GetStatus(ctx, &interceptorv1.GetStatusRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return 0, err
	}
	for _, h := range st.GetHandlers() {
		if h.GetName() == "lws" {
			return h.GetRoutes(), nil
		}
	}
	return 0, nil
}

// asked counts what all programs were asked.
func (o *holdOperator) asked(ctx context.Context) (n uint64) {
	for _, name := range []string{"alone", "onlndclient", "bad"} {
		n += o.program(ctx, name).GetAsked()
	}
	return n
}

func (o *holdOperator) waitAttached(ctx context.Context, names ...string) {
	o.t.Helper()
	for _, name := range names {
		require.NoError(o.t, devnet.WaitFor(ctx, name+" to be attached", func(ctx context.Context) (bool, error) {
			return o.program(ctx, name).GetHtlcs(), nil
		}))
	}
	o.waitConnected(ctx)
}

func (o *holdOperator) waitAway(ctx context.Context, name string) {
	o.t.Helper()
	require.NoError(o.t, devnet.WaitFor(ctx, name+" to be away", func(ctx context.Context) (bool, error) {
		return !o.program(ctx, name).GetHtlcs(), nil
	}))
}

func (o *holdOperator) waitConnected(ctx context.Context) {
	o.t.Helper()
	require.NoError(o.t, devnet.WaitFor(ctx, "lnd's stream", func(ctx context.Context) (bool, error) {
		st, err := o.api.GetStatus(ctx, &interceptorv1.GetStatusRequest{}, grpc.WaitForReady(true))
		return err == nil && st.GetConnected(), nil
	}))
}

func (o *holdOperator) waitHeld(ctx context.Context, hash []byte) {
	o.t.Helper()
	require.NoError(o.t, devnet.WaitFor(ctx, hex.EncodeToString(hash)+" to be held", func(ctx context.Context) (bool, error) {
		rows, err := o.api.ListRows(ctx, &interceptorv1.ListRowsRequest{PaymentHash: hash, State: "held"})
		return err == nil && len(rows.GetRows()) == 1, nil
	}))
}

// rowsOf are the rows of a payment.
func (o *holdOperator) rowsOf(ctx context.Context, hash []byte) ([]*interceptorv1.Row, error) {
	rows, err := o.api.ListRows(ctx, &interceptorv1.ListRowsRequest{PaymentHash: hash})
	return rows.GetRows(), err
}
