package app

import (
	"context"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// ear is a wallet's stream, without a wire in between.
type ear struct {
	grpc.ServerStream
	ctx   context.Context //nolint:containedctx // what a stream has
	ready chan struct{}
	words chan *lspv1.WatchWaitingResponse
}

func (e *ear) Context() context.Context     { return e.ctx }
func (e *ear) SendHeader(metadata.MD) error { close(e.ready); return nil }
func (e *ear) Send(m *lspv1.WatchWaitingResponse) error {
	select {
	case e.words <- m:
		return nil
	case <-e.ctx.Done():
		return e.ctx.Err()
	}
}

// listen is a wallet that is logged in while its node may be away. The second
// result tells how its stream ended.
func (r *rig) listen(key ln.PubKey) (*ear, <-chan error) {
	r.t.Helper()
	ctx := auth.WithIdentity(r.ctx, auth.Identity{Kind: auth.KindWallet, NodeKey: key, Services: []string{lspapi.Name}})
	e := &ear{ctx: ctx, ready: make(chan struct{}), words: make(chan *lspv1.WatchWaitingResponse, 10)}
	ended := make(chan error, 1)
	s := r.service.Load()
	r.running.Go(func() { ended <- s.channels.WatchWaiting(&lspv1.WatchWaitingRequest{}, e) })
	<-e.ready
	return e, ended
}

func (r *rig) hears(e *ear) *lspv1.WatchWaitingResponse {
	r.t.Helper()
	select {
	case m := <-e.words:
		return m
	case <-time.After(30 * time.Second):
		r.t.Fatalf("the wallet hears nothing\n%s", r.stories())
		return nil
	}
}

// TestWalletComesBackInTime: the wallet's node is away when its payment
// arrives. Its agent hears of it, connects within the time that the payment is
// held, and is paid. Who listens later hears of it as well, others never, and a
// stream ends with the process, so that the wallet listens to the next one.
func TestWalletComesBackInTime(t *testing.T) {
	for _, j := range jobs()[:4] {
		t.Run(j.name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed()})
				r.openBooks()
				early, _ := r.listen(r.walletKey)
				stranger, _ := r.listen(ln.PubKey{3, 9})
				a := r.agree()
				r.w.Disconnect(r.gateway, r.wallet)
				began := time.Now()
				paid := r.pay(a.bolt11)

				m := r.hears(early)
				require.Equal(t, a.id, m.PaymentId)
				require.Equal(t, a.hash[:], m.PaymentHash)
				require.EqualValues(t, a.walletMsat, m.AmountMsat)
				until := time.UnixMilli(m.UntilMs)
				require.Greater(t, until.Sub(began), time.Minute)
				require.Less(t, until.Sub(began), 2*time.Minute)

				late, _ := r.listen(r.walletKey)
				require.Equal(t, a.id, r.hears(late).PaymentId, "what waited before is heard")

				// sluiced starts anew while the payment is held: the stream ends and
				// the next process tells the same.
				ended := func() <-chan error { _, e := r.listen(r.walletKey); return e }()
				r.killProcess()
				require.Error(t, <-ended)
				r.pause(time.Second)
				r.up()
				again, _ := r.listen(r.walletKey)
				require.Equal(t, a.id, r.hears(again).PaymentId)

				// The last moment but a few seconds.
				r.pause(time.Until(until) - 15*time.Second)
				r.w.Connect(r.gateway, r.wallet)
				require.Equal(t, lnrpc.Payment_SUCCEEDED, r.outcome(paid).Status, r.stories())
				require.Empty(t, stranger.words, "a stranger hears nothing")
				r.settle()
				online, _ := r.listen(r.walletKey)
				require.Empty(t, online.words, "nothing waits any more")
			})
		})
	}
}

// TestWalletComesTooLate: the payer has the money back when the wallet comes.
func TestWalletComesTooLate(t *testing.T) {
	for _, j := range jobs()[:2] {
		t.Run(j.name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: j, latency: lndfake.Observed()})
				r.openBooks()
				a := r.agree()
				r.w.Disconnect(r.gateway, r.wallet)
				// No blocks meanwhile: they would send it back for another reason.
				m := <-r.pay(a.bolt11)
				require.Equal(t, lnrpc.Payment_FAILED, m.Status, r.stories())
				e, _ := r.listen(r.walletKey)
				require.Empty(t, e.words, "it went back: nothing waits")
				shown, err := r.service.Load().operator.ShowPayment(r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: a.id})
				require.NoError(t, err)
				require.Contains(t, shown.Payment.Reason, "did not come online in time")
				r.settle()
				require.Zero(t, r.channels())
			})
		})
	}
}
