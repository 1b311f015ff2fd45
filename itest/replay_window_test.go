//go:build itest

package itest

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

// window is the time between RESUME and commitment, held open: the gateway's lnd has
// taken an HTLC that it was told to forward, the wallet goes offline before a commitment
// carries it, and until the wallet is back nothing that lnd says tells the HTLC from one
// that nobody has decided about.
type window struct {
	*street
	hash  []byte
	offer offer
	done  <-chan *lnrpc.HTLCAttempt
}

// newWindow opens it; resume has the one whose turn it is tell lnd to forward.
func (s *street) newWindow(ctx context.Context, t *testing.T, resume func(hash []byte)) *window {
	t.Helper()
	w := &window{street: s.on(t)}
	o, addr := w.holdInvoice(ctx)
	hash := o.preimage.Hash()
	w.hash, w.offer = hash[:], o
	eventCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := s.Gateway.Router.SubscribeHtlcEvents(eventCtx, &routerrpc.SubscribeHtlcEventsRequest{})
	require.NoError(t, err)
	first, err := events.Recv()
	require.NoError(t, err)
	require.NotNil(t, first.GetSubscribedEvent())
	w.done = w.send(ctx, hash[:], addr)
	resume(hash[:])
	for {
		ev, err := events.Recv()
		require.NoError(t, err)
		if ev.GetForwardEvent() != nil && ev.OutgoingChannelId == s.onward.ChanID {
			break
		}
	}
	s.WalletLink.Cut()
	require.NoError(t, s.WaitDisconnected(ctx, s.Wallet, s.Gateway))
	w.open(ctx)
	return w
}

// on gives a subtest its own view of the street.
func (s *street) on(t *testing.T) *street {
	return &street{Standard: s.Standard, t: t, onward: s.onward}
}

// open demands that the window is.
func (w *window) open(ctx context.Context) {
	w.t.Helper()
	present, forwarded := w.incoming(ctx, w.hash)
	require.True(w.t, present)
	require.False(w.t, forwarded, "the window is closed: lnd shows that it has forwarded the HTLC")
}

// shut has lnd forward the HTLC after all.
func (w *window) shut(ctx context.Context) {
	w.t.Helper()
	w.WalletLink.Restore()
	w.wallet().waitInvoice(ctx, w.offer.preimage.Hash(), lnrpc.Invoice_ACCEPTED)
}

func (w *window) wallet() *person { return &person{rawWallet: &rawWallet{t: w.t, node: w.Wallet}} }

// TestReplayWindow is the loss between RESUME and commitment: lnd has been told to
// forward and shows no sign of it yet, the payer's link flaps, and the HTLC is offered
// again. Whoever takes it for new and fails it pays for it, once lnd forwards it. A naive
// sidecar that was restarted does. Sluiced does not, nor does it show the HTLC to those
// who would: a program of others that is attached to it, and the wallet server, which
// by then wants what comes for a wallet that is offline. Neither in the process that
// resumed it nor in the next one, after a kill.
func TestReplayWindow(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	// Long enough to cut the wallet off before lnd has committed what it took.
	s := newStreet(ctx, t, devnet.StandardConfig{Gateway: devnet.NodeConfig{ExtraArgs: []string{"--channel-commit-interval=5s"}}})

	t.Run("a naive sidecar loses the amount", func(t *testing.T) {
		before := wealth(ctx, t, s.Gateway)
		first := attachNaive(ctx, t, s.Gateway)
		w := s.newWindow(ctx, t, func(hash []byte) {
			first.answer(first.offered(hash), routerrpc.ResolveHoldForwardAction_RESUME)
		})
		first.dies()
		w.flapPayer(ctx)
		second := attachNaive(ctx, t, s.Gateway)
		q := second.offered(w.hash)
		w.open(ctx)
		// It holds what it takes for new until it gives up on it.
		w.shut(ctx)
		second.answer(q, routerrpc.ResolveHoldForwardAction_FAIL)
		w.attempt(w.done, lnrpc.HTLCAttempt_FAILED)
		w.wallet().claim(ctx, w.offer)
		w.quiet(ctx)
		second.dies()
		require.EqualValues(t, -replayMsat, wealth(ctx, t, s.Gateway)-before, "exactly the amount is lost")
	})

	address, err := s.Port()
	require.NoError(t, err)
	macaroon := filepath.Join(s.Dir(), "program.macaroon")
	require.NoError(t, s.Gateway.Bake(ctx, macaroon, programRights()))
	sc := newSceneOn(ctx, t, s.Standard, devnet.SluicedConfig{
		File:     fmt.Sprintf("[[proxy.programs]]\nname = 'naive'\nmacaroon_file = '%s'\nwhen_slow = 'hold'\n", macaroon),
		Settings: map[string]string{"proxy.listen": address},
	})
	op := newHoldOperator(t, sc.s)

	// The same reflex as above, in a program that shares the interceptor.
	t.Run("sluiced loses nothing: a program of others", func(t *testing.T) {
		p := &rawProgram{t: t, address: address, cert: sc.s.TLSCert, macaroon: macaroon}
		s.replayed(ctx, t, sc, suitor{
			wants: func() {
				if p.conn != nil {
					p.leave()
				}
				p.connect(ctx)
				op.waitAttached(ctx, "naive")
			},
			asked: func() bool { return op.program(ctx, "naive").GetAsked() > 0 },
			fail: func() (failed bool) {
				for {
					select {
					case q := <-p.offers:
						p.reply(answer(q, routerrpc.ResolveHoldForwardAction_FAIL))
						failed = true
					default:
						return failed
					}
				}
			},
		})
		p.leave()
		op.waitAway(ctx, "naive")
	})

	// It would send back at once what is more than the wallet lets wait.
	t.Run("sluiced loses nothing: a wallet whose payments are held", func(t *testing.T) {
		registerHold(ctx, t, s.Standard, sc.s, replayMsat/1000/2)
		s.replayed(ctx, t, sc, suitor{
			wants: func() {
				require.NoError(t, devnet.WaitFor(ctx, "the wallet's channel to be claimed", func(ctx context.Context) (bool, error) {
					n, err := op.routes(ctx)
					return n > 0, err
				}))
			},
			asked: func() bool { return false },
			fail:  func() bool { return false },
		})
	})
	sc.op.waitBalanced(ctx)
}

// suitor is somebody who takes what sluiced gives for new, and fails it.
type suitor struct {
	// wants has it want the HTLC from now on; it is called again after a restart of
	// sluiced's.
	wants func()
	// asked: it has been given one.
	asked func() bool
	// fail has it fail what it was given, and says whether that is anything.
	fail func() bool
}

// replayed has lnd offer sluiced an HTLC again in the window, when somebody wants it: to
// the process that resumed it, and to the one after that was killed.
func (s *street) replayed(ctx context.Context, t *testing.T, sc *scene, v suitor) {
	t.Helper()
	before := wealth(ctx, t, s.Gateway)
	forget(ctx, t, s.Payer)
	w := s.newWindow(ctx, t, func([]byte) {}) // sluiced lets it pass
	// The process that resumed it leaves it: what it is offered again lnd has, or is
	// ending. The next one cannot know, and says so again.
	for _, p := range []struct{ who, judged string }{
		{"the process that resumed it", "sluice_interceptor_left_htlcs"},
		{"the next process", "sluice_interceptor_resume_only_total"},
	} {
		v.wants()
		counted := func() float64 {
			n, ok := gauge(ctx, sc.s, p.judged)
			require.True(t, ok)
			return n
		}
		had := counted()
		w.flapPayer(ctx)
		require.NoError(t, devnet.WaitFor(ctx, "sluiced to judge what lnd offers again", func(context.Context) (bool, error) {
			return counted() > had || v.asked() || len(w.done) > 0, nil
		}))
		require.Empty(t, w.done, "the payer has its money back, and lnd was told to forward it")
		w.open(ctx)
		t.Logf("%s was offered it again while lnd showed no sign of the RESUME", p.who)
		if v.asked() {
			break // it fails it below, and what that costs is looked at
		}
		if p.who != "the next process" {
			require.NoError(t, sc.s.Kill())
			require.NoError(t, sc.s.Start(ctx))
		}
	}
	w.shut(ctx)
	if v.fail() {
		w.attempt(w.done, lnrpc.HTLCAttempt_FAILED)
	}
	w.wallet().claim(ctx, w.offer)
	w.quiet(ctx)
	require.EqualValues(t, before, wealth(ctx, t, s.Gateway), "the gateway must not pay for it")
	require.False(t, v.asked(), "nobody may be asked about what may have been resumed")
	w.attempt(w.done, lnrpc.HTLCAttempt_SUCCEEDED)
	rows, err := newHoldOperator(t, sc.s).rowsOf(ctx, w.hash)
	require.NoError(t, err)
	require.Empty(t, rows, "it has no row: nothing was decided about it")
}

// registerHold has sluiced hold payments for the standard network's wallet while it is
// offline, up to so much.
func registerHold(ctx context.Context, t *testing.T, net *devnet.Standard, s *devnet.Sluiced, maxSat uint64) {
	t.Helper()
	tlsConfig, err := selfcert.ClientTLS(s.TLSCert)
	require.NoError(t, err)
	client := dialNode(t, net.Wallet)
	conn, _, err := auth.Dial(s.GRPC, credentials.NewTLS(tlsConfig), auth.ClientConfig{
		Server: auth.Server{NodeKey: mustKey(t, net.Gateway.PubKey)}, Node: mustKey(t, net.Wallet.PubKey), Services: []string{"lws"}, Now: time.Now,
		Sign: func(ctx context.Context, msg string) (string, error) { return client.SignMessage(ctx, []byte(msg)) },
	})
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = lwsv1.NewHoldsServiceClient(conn).SetHold(ctx, &lwsv1.SetHoldRequest{Hold: &lwsv1.Hold{
		HoldForSeconds: 3600, MaxHtlcs: 10, MaxSat: maxSat, FinalCltvDeltaBlocks: 80,
	}}, grpc.WaitForReady(true))
	require.NoError(t, err)
}
