//go:build itest

package itest

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// rawProgram is a program that is written against lnd's API alone: a connection, a
// macaroon, a stream. It knows nothing of Sluice.
type rawProgram struct {
	t        *testing.T
	address  string
	cert     string
	macaroon string

	conn   *grpc.ClientConn
	ctx    context.Context
	cancel context.CancelFunc
	stream routerrpc.Router_HtlcInterceptorClient
	offers chan *routerrpc.ForwardHtlcInterceptRequest
	ended  chan error
	send   sync.Mutex
	// decide answers a question by itself; nil leaves it to the test.
	decide func(*routerrpc.ForwardHtlcInterceptRequest) *routerrpc.ForwardHtlcInterceptResponse
}

// programRights is what a program that intercepts needs.
func programRights() []string {
	return []string{
		"uri:/routerrpc.Router/HtlcInterceptor", "uri:/lnrpc.Lightning/ChannelAcceptor",
		"uri:/lnrpc.Lightning/GetInfo", "uri:/verrpc.Versioner/GetVersion",
	}
}

// connect attaches. The server may be starting.
func (p *rawProgram) connect(ctx context.Context) {
	p.t.Helper()
	creds, err := credentials.NewClientTLSFromFile(p.cert, "")
	require.NoError(p.t, err)
	raw, err := os.ReadFile(p.macaroon)
	require.NoError(p.t, err)
	p.conn, err = grpc.NewClient(p.address, grpc.WithTransportCredentials(creds))
	require.NoError(p.t, err)
	ctx, p.cancel = context.WithCancel(metadata.AppendToOutgoingContext(ctx, "macaroon", hex.EncodeToString(raw)))
	p.ctx = ctx
	p.stream, err = routerrpc.NewRouterClient(p.conn).HtlcInterceptor(ctx, grpc.WaitForReady(true))
	require.NoError(p.t, err)
	p.offers, p.ended = make(chan *routerrpc.ForwardHtlcInterceptRequest, 10_000), make(chan error, 1)
	stream, offers, ended := p.stream, p.offers, p.ended
	go func() {
		for {
			o, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			if p.decide != nil {
				if m := p.decide(o); m != nil {
					p.reply(m)
					continue
				}
			}
			offers <- o
		}
	}()
	conn, cancel := p.conn, p.cancel
	p.t.Cleanup(func() { cancel(); _ = conn.Close() })
}

func (p *rawProgram) leave() {
	p.cancel()
	_ = p.conn.Close()
}

func (p *rawProgram) reply(m *routerrpc.ForwardHtlcInterceptResponse) {
	p.send.Lock()
	defer p.send.Unlock()
	_ = p.stream.Send(m)
}

func answer(o *routerrpc.ForwardHtlcInterceptRequest, action routerrpc.ResolveHoldForwardAction) *routerrpc.ForwardHtlcInterceptResponse {
	return &routerrpc.ForwardHtlcInterceptResponse{IncomingCircuitKey: o.IncomingCircuitKey, Action: action}
}

func (p *rawProgram) next() *routerrpc.ForwardHtlcInterceptRequest {
	p.t.Helper()
	select {
	case o := <-p.offers:
		return o
	case err := <-p.ended:
		require.NoError(p.t, err, "the program was to be asked")
	case <-time.After(time.Minute):
		require.Fail(p.t, "the program was not asked")
	}
	return nil
}

// paying is one payment on its way.
type paying struct {
	t    *testing.T
	hash []byte
	done chan *lnrpc.Payment
}

// startPayment pays the wallet over the gateway in one part.
func startPayment(ctx context.Context, t *testing.T, net *devnet.Standard, amountMsat int64) *paying {
	t.Helper()
	_, err := net.Payer.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
	require.NoError(t, err)
	inv, err := net.Wallet.Invoice(ctx, amountMsat)
	require.NoError(t, err)
	return sendPayment(ctx, t, net, inv.PaymentRequest, inv.RHash)
}

func sendPayment(ctx context.Context, t *testing.T, net *devnet.Standard, bolt11 string, hash []byte) *paying {
	t.Helper()
	return sendRequest(ctx, t, net, hash, &routerrpc.SendPaymentRequest{
		PaymentRequest: bolt11, MaxParts: 1, TimeoutSeconds: 240, FeeLimitMsat: 10_000_000,
	})
}

func sendRequest(ctx context.Context, t *testing.T, net *devnet.Standard, hash []byte, r *routerrpc.SendPaymentRequest) *paying {
	t.Helper()
	p := &paying{t: t, hash: hash, done: make(chan *lnrpc.Payment, 1)}
	go func() {
		m, err := net.Payer.Send(ctx, r)
		if err != nil {
			m = &lnrpc.Payment{FailureReason: lnrpc.PaymentFailureReason_FAILURE_REASON_ERROR}
		}
		p.done <- m
	}()
	return p
}

func (p *paying) ends(status lnrpc.Payment_PaymentStatus) *lnrpc.Payment {
	p.t.Helper()
	select {
	case m := <-p.done:
		require.Equal(p.t, status, m.Status, "%s", m.FailureReason)
		return m
	case <-time.After(2 * time.Minute):
		require.Fail(p.t, "the payment does not end")
	}
	return nil
}

// lndclientProgram runs the program on lndclient and gives its process.
func lndclientProgram(ctx context.Context, t *testing.T, net *devnet.Standard, address, cert, macaroon string, failMsat, minChannelSat int64) *devnet.Proc {
	t.Helper()
	bin, err := devnet.FindPeers()
	require.NoError(t, err)
	var proc *devnet.Proc
	proc = net.NewProc(devnet.Command{
		Name: "lndclientprogram", Path: filepath.Join(bin, "lndclientprogram"),
		Args: []string{
			"--lnd", address, "--tls", cert, "--macaroon", macaroon,
			"--fail-msat", fmt.Sprint(failMsat), "--min-channel-sat", fmt.Sprint(minChannelSat),
		},
		Ready: func(ctx context.Context) error {
			return devnet.WaitFor(ctx, "the program on lndclient", func(context.Context) (bool, error) {
				return strings.Contains(proc.LogTail(5), "connected to"), nil
			})
		},
	})
	require.NoError(t, proc.Start(ctx))
	return proc
}
