package app

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/matrixtest"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/api/lspsv1"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestGarbageAtEveryCall calls every method of the services with requests that
// are nonsense, or nearly right. Each is answered with an error of the caller's,
// never of ours; afterwards a payment goes through as if nothing had been.
func TestGarbageAtEveryCall(t *testing.T) {
	run := func(t *testing.T, calls int, postgres bool) {
		s := drawnSeed(t)
		r := newRig(t, rigConfig{seed: s, job: jobs()[0], latency: lndfake.Observed(), postgres: postgres})
		r.openBooks()
		g := newGarbage(r, s)
		for range calls {
			g.call()
		}
		t.Logf("answers: %v", g.answers)
		require.Greater(t, g.answers[""], calls/20, "hardly a call was good")
		require.Greater(t, g.answers[errkind.Invalid], calls/20)

		operator := r.service.Load().operator
		_, err := operator.SetBusiness(r.ctx, &lspv1.SetBusinessRequest{Accepting: true})
		require.NoError(t, err)
		_, err = r.service.Load().lsps.ResetMenu(r.ctx, &lspsv1.ResetMenuRequest{})
		require.True(t, err == nil || errkind.Of(err) == errkind.NotFound, "%v", err)
		for {
			open, err := operator.FindPayments(r.ctx, &lspv1.FindPaymentsRequest{OpenOnly: true})
			require.NoError(t, err)
			if len(open.Payments) == 0 {
				break
			}
			_, err = operator.WithdrawPayment(r.ctx, &lspv1.WithdrawPaymentRequest{PaymentId: open.Payments[0].PaymentId})
			require.True(t, err == nil || errkind.Of(err) == errkind.Conflict, "%v", err)
			r.pause(r.step)
		}
		a := r.agree()
		m := r.outcome(r.pay(a.bolt11))
		require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
		r.settle()
		r.check(a, m)
		require.EqualValues(t, 1, r.starts.Load(), "sluiced died")
	}
	t.Run("sqlite", func(t *testing.T) {
		virtual(t, func(t *testing.T) { run(t, runs(1500), false) })
	})
	t.Run("postgres", func(t *testing.T) {
		storetest.Postgres(t) // skips where there is none
		run(t, runs(400), true)
	})
}

// garbage makes requests out of edge cases and of what the gateway answered
// before, so that some get past the first check.
type garbage struct {
	r    *rig
	rng  *rand.Rand
	made matrixtest.Garbage
	// ids, params and invoices are real ones.
	ids      []string
	params   []*lspv1.OpeningFeeParams
	invoices []string
	answers  map[errkind.Kind]int
}

func newGarbage(r *rig, seed uint64) *garbage {
	g := &garbage{r: r, rng: rand.New(rand.NewPCG(seed, 0xbad)), answers: make(map[errkind.Kind]int)}
	g.made = matrixtest.Garbage{
		Rand: g.rng, NodeKey: r.walletKey[:],
		Whole: func(m protoreflect.Message) bool {
			p, ok := m.Interface().(*lspv1.OpeningFeeParams)
			if !ok || len(g.params) == 0 || g.rng.IntN(4) == 0 {
				return false
			}
			proto.Merge(p, g.params[g.rng.IntN(len(g.params))])
			return true
		},
		Field: func(f protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
			if f.Name() == "bolt11" && len(g.invoices) > 0 && g.rng.IntN(4) > 0 {
				return protoreflect.ValueOfString(g.invoices[len(g.invoices)-1]), true
			}
			return protoreflect.Value{}, false
		},
	}
	return g
}

func (g *garbage) call() {
	t := g.r.t
	g.invent()
	s := g.r.service.Load()
	require.NotNil(t, s, "sluiced is away")
	desc, impl := lspv1.ChannelsService_ServiceDesc, any(s.channels)
	switch g.rng.IntN(8) {
	case 0, 1:
		desc, impl = lspv1.OperatorService_ServiceDesc, any(s.operator)
	case 2:
		desc, impl = lspsv1.LspsOperatorService_ServiceDesc, any(s.lsps)
	}
	ctx, cancel := context.WithTimeout(g.r.asWallet(), time.Minute)
	defer cancel()
	var request proto.Message
	receive := func(m any) error {
		request = m.(proto.Message)
		g.made.Texts = g.ids
		g.made.Fill(request.ProtoReflect())
		return rpcserver.CheckText(m)
	}
	var answer any
	var err error
	var name string
	if n := g.rng.IntN(len(desc.Methods) + len(desc.Streams)); n < len(desc.Methods) {
		name = desc.Methods[n].MethodName
		answer, err = desc.Methods[n].Handler(impl, ctx, receive, nil)
	} else {
		streams := desc.Streams[n-len(desc.Methods)]
		name = streams.StreamName
		ctx, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
		defer cancel()
		if err = streams.Handler(impl, garbageStream{ctx: ctx, receive: receive}); errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
	}
	kind := errkind.Of(err)
	g.answers[kind]++
	require.NotEqual(t, errkind.Internal, kind, "%s with %v: %v", name, request, err)
	require.NotContains(t, name+errkind.Sentence(err), "does not answer", "%v: %v", request, err)
	if err != nil {
		return
	}
	switch answer := answer.(type) {
	case *lspv1.GetMenuResponse:
		g.params = append(g.params, answer.OpeningFeeParamsMenu...)
	case *lspv1.NegotiateResponse:
		g.ids = append(g.ids, answer.PaymentId)
	case *lspv1.WrapResponse:
		g.ids = append(g.ids, answer.PaymentId)
	}
}

// invent makes an invoice of the wallet now and then.
func (g *garbage) invent() {
	if len(g.invoices) > 0 && g.rng.IntN(8) > 0 {
		return
	}
	in := &lnrpc.Invoice{
		RPreimage: g.made.Bytes(32), ValueMsat: int64(g.made.Amount() % 1_000_000_000), Expiry: int64(g.rng.IntN(3000)),
		CltvExpiry: uint64(18 + g.rng.IntN(200)), Memo: strings.ToValidUTF8(g.made.Text(), "?"),
	}
	if len(g.params) > 0 && g.rng.IntN(2) == 0 {
		// What Wrap wants for a payment of 100,000 sat.
		p := g.params[0]
		in.ValueMsat = 100_000_000 - max(int64(p.MinFeeMsat), (100_000_000*int64(p.ProportionalPpm)+999_999)/1_000_000)
		in.Expiry, in.CltvExpiry = 3600, 80
	}
	if own, err := g.r.ln(g.r.wallet).AddInvoice(g.r.ctx, in); err == nil {
		g.invoices = append(g.invoices, own.PaymentRequest)
	}
}

type garbageStream struct {
	grpc.ServerStream
	ctx     context.Context
	receive func(any) error
}

func (s garbageStream) Context() context.Context   { return s.ctx }
func (s garbageStream) RecvMsg(m any) error        { return s.receive(m) }
func (garbageStream) SetHeader(metadata.MD) error  { return nil }
func (garbageStream) SendHeader(metadata.MD) error { return nil }
func (s garbageStream) SendMsg(any) error          { return nil }
