//go:build itest

package itest

import (
	"context"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// TestReplayDeadLink shows what the bug that makes phantoms does to payments
// that end at a node: stock lnd loses the channel's link for good, and nobody
// tells the operator. Sluiced, which connects peers anew whose channels are
// inactive, does. Closing the channel brings all of the money back.
func TestReplayDeadLink(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	// The payer signs two HTLCs in one commitment, also on a machine that is slow
	// to send the second. A small channel's delay is short.
	s := newStreet(ctx, t, devnet.StandardConfig{
		ChannelSat: 2_000_000, PushSat: 500_000,
		Payer: devnet.NodeConfig{ExtraArgs: []string{"--channel-commit-interval=3s"}},
	})
	sc := newSceneOn(ctx, t, s.Standard, devnet.SluicedConfig{Settings: map[string]string{"lsp.reconnect_after": "1s"}})
	before := wealth(ctx, t, s.Gateway)

	gateway := &person{rawWallet: &rawWallet{t: t, node: s.Gateway}}
	var offers []offer
	var done []<-chan *lnrpc.HTLCAttempt
	for range 2 {
		var o offer
		fillPreimage(&o.preimage)
		hash := o.preimage.Hash()
		inv, err := s.Gateway.Invoices.AddHoldInvoice(ctx, &invoicesrpc.AddHoldInvoiceRequest{
			Hash: hash[:], ValueMsat: replayMsat, Expiry: 600, CltvExpiry: replayDelta,
		})
		require.NoError(t, err)
		offers, done = append(offers, o), append(done, s.sendToGateway(ctx, hash[:], inv.PaymentAddr))
	}
	for _, o := range offers {
		gateway.waitInvoice(ctx, o.preimage.Hash(), lnrpc.Invoice_ACCEPTED)
	}
	gateway.claim(ctx, offers[0])
	s.attempt(done[0], lnrpc.HTLCAttempt_SUCCEEDED)
	hash := offers[0].preimage.Hash()
	require.NoError(t, devnet.WaitFor(ctx, "the first HTLC to be gone", func(ctx context.Context) (bool, error) {
		present, _ := s.incoming(ctx, hash[:])
		return !present, nil
	}))
	s.flapPayer(ctx)
	_, err := s.Gateway.WaitChannelActive(ctx, s.PayerChannel.Point)
	require.NoError(t, err)
	gateway.claim(ctx, offers[1])
	s.attempt(done[1], lnrpc.HTLCAttempt_SUCCEEDED)
	s.quiet(ctx)

	// The payer has paid both, nothing is in flight: at the next connection lnd
	// settles the second one again.
	s.flapPayer(ctx)
	require.NoError(t, devnet.WaitFor(ctx, "sluiced to report the dead channel", func(ctx context.Context) (bool, error) {
		v, ok := gauge(ctx, sc.s, "sluice_lsp_dead_channels")
		return ok && v == 1, nil
	}))
	require.EqualValues(t, 2*replayMsat, wealth(ctx, t, s.Gateway)-before)

	closeChannel(ctx, t, sc.Net, s.Gateway, s.PayerChannel, true)
	sc.mineUntilResolved(ctx, func(string) { sc.op.waitBalanced(ctx) })
	require.NoError(t, devnet.WaitFor(ctx, "sluiced to forget the channel", func(ctx context.Context) (bool, error) {
		v, ok := gauge(ctx, sc.s, "sluice_lsp_dead_channels")
		return ok && v == 0, nil
	}))
}

// sendToGateway makes the payer send one HTLC to the gateway, without any retry.
func (s *street) sendToGateway(ctx context.Context, hash, addr []byte) <-chan *lnrpc.HTLCAttempt {
	s.t.Helper()
	height, err := s.Miner().Height(ctx)
	require.NoError(s.t, err)
	expiry := uint32(height) + 100 //nolint:gosec // a height
	return s.sendRoute(ctx, hash, &lnrpc.Route{TotalTimeLock: expiry, TotalAmtMsat: replayMsat, Hops: []*lnrpc.Hop{{
		ChanId: s.PayerChannel.ChanID, PubKey: s.Gateway.PubKey, AmtToForwardMsat: replayMsat, Expiry: expiry, TlvPayload: true,
		MppRecord: &lnrpc.MPPRecord{PaymentAddr: addr, TotalAmtMsat: replayMsat},
	}}})
}

func (s *street) sendRoute(ctx context.Context, hash []byte, route *lnrpc.Route) <-chan *lnrpc.HTLCAttempt {
	done := make(chan *lnrpc.HTLCAttempt, 1)
	go func() {
		attempt, err := s.Payer.Router.SendToRouteV2(ctx, &routerrpc.SendToRouteRequest{PaymentHash: hash, Route: route})
		if err != nil {
			s.t.Logf("send: %v", err)
		}
		done <- attempt
	}()
	return done
}
