//go:build itest

package itest

import (
	"context"
	"crypto/rand"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// rawWallet is a wallet's lnd that speaks to the gateway without our agent, so
// that tests can also do what a sane agent never would.
type rawWallet struct {
	t    *testing.T
	node *devnet.Node
	lnd  *lnd.Client
	key  ln.PubKey
	api  lspv1.ChannelsServiceClient
	// proposal may change what the wallet answers to a channel proposed to it.
	proposal *atomic.Pointer[func(*ln.AcceptVerdict)]
}

func dialNode(t *testing.T, n *devnet.Node) *lnd.Client {
	t.Helper()
	c, err := lnd.Dial(lnd.Config{
		Address: n.RPCAddr, TLSCertFile: n.TLSCertPath, MacaroonFile: n.AdminMacaroonPath(), Network: "regtest",
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func mustKey(t *testing.T, hex string) ln.PubKey {
	t.Helper()
	k, err := ln.ParsePubKey(hex)
	require.NoError(t, err)
	return k
}

func dialGateway(t *testing.T, s *devnet.Sluiced, gateway *devnet.Node, key ln.PubKey, client *lnd.Client) *grpc.ClientConn {
	t.Helper()
	tlsConfig, err := selfcert.ClientTLS(s.TLSCert)
	require.NoError(t, err)
	conn, _, err := auth.Dial(s.GRPC, credentials.NewTLS(tlsConfig), auth.ClientConfig{
		Server: auth.Server{NodeKey: mustKey(t, gateway.PubKey)}, Node: key, Services: []string{"lsp"}, Now: time.Now,
		Sign: func(ctx context.Context, msg string) (string, error) { return client.SignMessage(ctx, []byte(msg)) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// attachEvery is how often a wallet whose node has gone tries to decide about channels again.
const attachEvery = 50 * time.Millisecond

// newRawWallet attaches to a wallet's lnd, accepting zero-conf channels from
// the gateway when accept is true.
func newRawWallet(ctx context.Context, t *testing.T, s *devnet.Sluiced, gateway, wallet *devnet.Node, accept bool) *rawWallet {
	t.Helper()
	w := &rawWallet{t: t, node: wallet, lnd: dialNode(t, wallet), key: mustKey(t, wallet.PubKey), proposal: &atomic.Pointer[func(*ln.AcceptVerdict)]{}}
	w.api = lspv1.NewChannelsServiceClient(dialGateway(t, s, gateway, w.key, w.lnd))
	acceptCtx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		again := time.NewTicker(attachEvery)
		defer again.Stop()
		for acceptCtx.Err() == nil {
			// It ends with the node, which may come back.
			_ = w.lnd.RunAcceptor(acceptCtx, func(p ln.OpenProposal) ln.AcceptVerdict {
				if !accept {
					return ln.AcceptVerdict{Refusal: "this wallet takes no channels"}
				}
				verdict := ln.AcceptVerdict{Accept: true, ZeroConf: p.WantsZeroConf}
				if f := w.proposal.Load(); f != nil && *f != nil {
					(*f)(&verdict)
				}
				return verdict
			})
			select {
			case <-again.C:
			case <-acceptCtx.Done():
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func (w *rawWallet) menu(ctx context.Context) *lspv1.GetMenuResponse {
	w.t.Helper()
	menu, err := w.api.GetMenu(ctx, &lspv1.GetMenuRequest{})
	require.NoError(w.t, err)
	require.NotEmpty(w.t, menu.OpeningFeeParamsMenu)
	return menu
}

// receivePayerPays negotiates and makes the invoice with the hint.
func (w *rawWallet) receivePayerPays(ctx context.Context, amount ln.Msat, another bool) (*lspv1.NegotiateResponse, string) {
	w.t.Helper()
	var preimage ln.Preimage
	_, err := rand.Read(preimage[:])
	require.NoError(w.t, err)
	hash := preimage.Hash()
	menu := w.menu(ctx)
	agreed, err := w.api.Negotiate(ctx, &lspv1.NegotiateRequest{
		PaymentHash: hash[:], AmountMsat: uint64(amount), OpeningFeeParams: menu.OpeningFeeParamsMenu[0],
		Channel:              &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: another},
		FinalCltvDeltaBlocks: walletFinalCltv, InvoiceExpiresMs: time.Now().Add(10 * time.Minute).UnixMilli(),
	})
	require.NoError(w.t, err)
	return agreed, w.invoiceFor(ctx, preimage, amount, walletFinalCltv, agreed, menu.GatewayNodeKey)
}

func (w *rawWallet) invoiceFor(ctx context.Context, preimage ln.Preimage, amount ln.Msat, finalCltv uint32, agreed *lspv1.NegotiateResponse, gateway []byte) string {
	w.t.Helper()
	scid, err := ln.ParseSCID(agreed.JitScid)
	require.NoError(w.t, err)
	key, err := ln.PubKeyFromBytes(gateway)
	require.NoError(w.t, err)
	inv, err := w.node.LN.AddInvoice(ctx, &lnrpc.Invoice{
		RPreimage: preimage.Bytes(), ValueMsat: int64(amount), Expiry: 600, CltvExpiry: uint64(finalCltv),
		RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
			NodeId: key.String(), ChanId: uint64(scid), FeeBaseMsat: agreed.HintBaseFeeMsat,
			FeeProportionalMillionths: agreed.HintFeePpm, CltvExpiryDelta: agreed.HintCltvDeltaBlocks,
		}}}},
	})
	require.NoError(w.t, err)
	return inv.PaymentRequest
}

// waitState follows a payment until it is in one of the states.
func (w *rawWallet) waitState(ctx context.Context, id string, states ...string) *lspv1.Payment {
	w.t.Helper()
	for {
		stream, err := w.api.WatchPayment(ctx, &lspv1.WatchPaymentRequest{PaymentId: id})
		require.NoError(w.t, err)
		for {
			msg, err := stream.Recv()
			if err != nil {
				require.NoError(w.t, ctx.Err(), "waiting for payment %s to be %v: %v", id, states, err)
				break
			}
			for _, s := range states {
				if msg.Payment.State == s {
					return msg.Payment
				}
			}
			require.False(w.t, msg.Payment.Terminal, "payment %s ended %s (%s), waiting for %v",
				id, msg.Payment.State, msg.Payment.Reason, states)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			require.NoError(w.t, ctx.Err(), "waiting for payment %s to be %v", id, states)
		}
	}
}

// quote is the cheapest offer, and what its fee is for a payment.
func (w *rawWallet) quote(ctx context.Context, amount ln.Msat) (*lspv1.OpeningFeeParams, ln.Msat) {
	w.t.Helper()
	params := w.menu(ctx).OpeningFeeParamsMenu[0]
	return params, max(ln.Msat(params.MinFeeMsat), (amount*ln.Msat(params.ProportionalPpm)+999_999)/1_000_000)
}

// receiveReceiverPays makes the wallet's own invoice and has it wrapped.
func (w *rawWallet) receiveReceiverPays(ctx context.Context, amount ln.Msat, wish *lspv1.ChannelWish) (*lspv1.WrapResponse, ln.Bolt11) {
	w.t.Helper()
	return w.wrap(ctx, amount, wish, func(walletMsat ln.Msat, expiry time.Duration) (string, error) {
		own, _, err := w.lnd.AddInvoice(ctx, ln.InvoiceRequest{AmountMsat: walletMsat, Memo: wrappedMemo, FinalCltvDelta: walletFinalCltv, Expiry: expiry})
		return own, err
	})
}

// What the wallet's own invoices say.
const (
	wrappedMemo     = "a wrapped test"
	walletFinalCltv = 80
)

// wrap has an invoice of the wallet's own wrapped, which invoice makes.
func (w *rawWallet) wrap(ctx context.Context, amount ln.Msat, wish *lspv1.ChannelWish, invoice func(walletMsat ln.Msat, expiry time.Duration) (string, error)) (*lspv1.WrapResponse, ln.Bolt11) {
	w.t.Helper()
	params, fee := w.quote(ctx, amount)
	own, err := invoice(amount-fee, 20*time.Minute+time.Duration(wish.MinConfirmations)*time.Hour)
	require.NoError(w.t, err)
	wrapped, err := w.api.Wrap(ctx, &lspv1.WrapRequest{
		Bolt11: own, AmountMsat: uint64(amount), OpeningFeeParams: params, Channel: wish,
	})
	require.NoError(w.t, err)
	decoded, err := lnd.DecodeBolt11("regtest", own)
	require.NoError(w.t, err)
	return wrapped, decoded
}
