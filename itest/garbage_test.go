//go:build itest

package itest

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/matrixtest"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lsp/api/lspsv1"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
)

// TestGarbage: every gRPC method of a sluiced that offers everything, again and again,
// with nonsense and with what is nearly right, by those who may call it, and every REST
// route with requests that are wrong in one way each. Each call has an answer or an error
// of the caller's, never one of ours, and none repeats a secret; afterwards a payment
// opens its channel as if nothing had been.
func TestGarbage(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	tower, err := net.Port()
	require.NoError(t, err)
	settings := map[string]string{
		"joint.enabled": "true", "watchtower.listen": tower, "watchtower.addresses": tower,
		"swaps.enabled": "true", "swaps.max_sat": "5000000", "swaps.l402": "true", "lsp.collect_for": collectFor.String(),
	}
	for _, who := range []string{"address", "wallet", "operator", "unauthenticated"} {
		settings["limits."+who+".per_second"], settings["limits."+who+".burst"] = "100000", "100000"
	}
	rights := append(lnd.GatewayAndSwapsRights(), lnd.JointRights()...)
	s, err := net.StartSluiced(ctx, net.Gateway, rights, devnet.SluicedConfig{Settings: settings})
	require.NoError(t, err)
	sc := &scene{Standard: net, t: t, s: s, op: newOperator(t, s)}
	sc.op.reconcile(ctx)
	x := newTenancy(t, s, net.Gateway)
	acme := x.register(ctx, "acme", tenantv1.TenantKind_TENANT_KIND_SELF_HOSTED, net.Payer)

	seed := uint64(time.Now().UnixNano()) //nolint:gosec // a seed
	t.Logf("seed %d", seed)
	key := mustKey(t, net.Wallet.PubKey)
	g := &matrixtest.Garbage{Rand: rand.New(rand.NewPCG(seed, 0xbad)), NodeKey: key[:], Texts: []string{"acme", "acme-admin", "standard"}}
	audiences, err := matrixtest.Audiences()
	require.NoError(t, err)
	methods, err := matrixtest.Methods(ctx, x.conn)
	require.NoError(t, err)
	wallet := x.login(ctx, net.Wallet)
	op := as(ctx, x.operator)
	openForBusiness := func() {
		_, err := lspv1.NewOperatorServiceClient(x.conn).SetBusiness(op, &lspv1.SetBusinessRequest{Accepting: true})
		require.NoError(t, err)
	}
	by := func(_ string, a matrixtest.Audience) string {
		switch {
		case a.Tenants && g.Rand.IntN(2) == 0:
			return acme
		case a.Public || a.Wallets:
			return wallet
		}
		return x.operator
	}
	answers := make(map[codes.Code]int)
	for range 12 {
		for _, m := range methods {
			name := matrixtest.FullName(m)
			mac := by(name, audiences[name])
			req := dynamicpb.NewMessage(m.Input())
			g.Fill(req)
			code, said := matrixtest.Call(ctx, x.conn, m, mac, req)
			answers[code]++
			// Chance closes the gateway now and then, rightly: then what is good is refused.
			if name == lspv1.OperatorService_SetBusiness_FullMethodName {
				openForBusiness()
			}
			switch code {
			case codes.Internal, codes.Unknown, codes.DataLoss, codes.Unavailable, codes.Canceled:
				t.Errorf("%s answers %s: %s, to %v", name, code, said, req)
			case codes.DeadlineExceeded:
				require.True(t, m.IsStreamingServer() || m.IsStreamingClient(), "%s has no answer, to %v", name, req)
			}
		}
	}
	t.Logf("answers: %v", answers)
	require.Greater(t, answers[codes.OK], len(methods)/2, "hardly a call was good")
	require.Greater(t, answers[codes.InvalidArgument], len(methods))

	tlsConfig, err := selfcert.ClientTLS(s.TLSCert)
	require.NoError(t, err)
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig}}
	defer web.CloseIdleConnections()
	over := &matrixtest.RESTGarbage{
		Root: "..", Base: "https://" + s.REST, Client: web, MaxBytes: rpcserver.DefaultMaxMessageBytes, Macaroon: by, Made: g,
		After: func(method string) {
			if method == lspv1.OperatorService_SetBusiness_FullMethodName {
				openForBusiness()
			}
		},
	}
	wrong, err := over.Walk(ctx, x.conn)
	require.NoError(t, err)
	for _, w := range wrong {
		t.Error(w)
	}
	t.Logf("answers over REST: %v", over.Answers)
	require.Greater(t, over.Answers[http.StatusBadRequest], 2000)

	// What the operator's own calls changed is put right by calls of the operator's.
	openForBusiness()
	_, err = lspsv1.NewLspsOperatorServiceClient(x.conn).ResetMenu(op, &lspsv1.ResetMenuRequest{})
	require.True(t, err == nil || strings.Contains(err.Error(), codes.NotFound.String()), "%v", err)
	w := sc.first(ctx)
	o := w.negotiate(ctx, 100_000_000, offerWish{another: true})
	sc.paid(sc.pay(ctx, w.invoice(ctx, o)), paidWithin)
	w.waitState(ctx, o.PaymentId, "paid")
	sc.op.waitBalanced(ctx)
}
