//go:build itest

package itest

import (
	"context"
	"strings"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// phantoms counts what lnd offered and no longer had, in all lives of sluiced.
func (f *fuzz) phantoms() int {
	return strings.Count(readLog(f.t, f.s), "lnd offered an HTLC that it no longer has")
}

// makePhantom has lnd offer HTLCs that have ended from here on, as TestReplayPhantom
// does: of two that the payer signed in one commitment, the first ends before a restart
// of lnd's, the second after it. Whether they were in one commitment only the phantom
// shows, so it is tried until there is one.
func (f *fuzz) makePhantom(ctx context.Context) {
	f.t.Helper()
	w := f.wallets[0]
	had := f.phantoms()
	for try := 1; try <= 6; try++ {
		// Parts of payments that never become complete: sluiced holds them.
		halves := []half{f.newHalf(ctx, w), f.newHalf(ctx, w)}
		for _, h := range halves {
			go h.send(ctx, f.Payer)
		}
		for i := range halves {
			f.waitMoment(ctx, halves[i].id, moment{"jit", "collecting"})
			halves[i].index = f.incomingIndex(ctx, halves[i].hash)
		}
		first, second := halves[0], halves[1]
		if second.index < first.index {
			first, second = second, first
		}
		f.refuse(ctx, first)
		f.crashGateway(ctx, f.nodes()...)
		f.refuse(ctx, second)
		f.PayerLink.Flap()
		require.NoError(f.t, f.WaitConnected(ctx, f.Payer, f.Gateway))
		f.waitActive(ctx, f.Payer)
		// What lnd offers again it offers once the link is up.
		soon, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := devnet.WaitFor(soon, "a phantom", func(context.Context) (bool, error) { return f.phantoms() > had, nil })
		cancel()
		if err == nil {
			f.t.Logf("lnd has a phantom after %d tries", try)
			return
		}
	}
	require.FailNow(f.t, "lnd offered no phantom", "the HTLCs of each pair came in commitments of their own")
}

// half is one part of a payment that has no other.
type half struct {
	id    string
	hash  ln.Hash
	route *lnrpc.Route
	index uint64
	done  chan *lnrpc.HTLCAttempt
}

func (f *fuzz) newHalf(ctx context.Context, w *person) half {
	f.t.Helper()
	const wholeMsat, halfMsat = 20_000_000, 10_000_000
	o := w.negotiate(ctx, wholeMsat, offerWish{another: true})
	inv, err := w.node.LN.DecodePayReq(ctx, &lnrpc.PayReqString{PayReq: w.invoice(ctx, o)})
	require.NoError(f.t, err)
	height, err := f.Miner().Height(ctx)
	require.NoError(f.t, err)
	hint := o.hints(f.t)[0].HopHints[0]
	fee := int64(hint.FeeBaseMsat) + (halfMsat*int64(hint.FeeProportionalMillionths)+999_999)/1_000_000
	expiry := uint32(height) + 100 //nolint:gosec // a height
	return half{
		id: o.PaymentId, hash: o.preimage.Hash(), done: make(chan *lnrpc.HTLCAttempt, 1),
		route: &lnrpc.Route{
			TotalTimeLock: expiry + hint.CltvExpiryDelta, TotalAmtMsat: halfMsat + fee, TotalFeesMsat: fee,
			Hops: []*lnrpc.Hop{
				{
					ChanId: f.PayerChannel.ChanID, PubKey: f.Gateway.PubKey, AmtToForwardMsat: halfMsat, FeeMsat: fee, Expiry: expiry, TlvPayload: true,
				},
				{
					ChanId: hint.ChanId, PubKey: w.node.PubKey, AmtToForwardMsat: halfMsat, Expiry: expiry, TlvPayload: true,
					MppRecord: &lnrpc.MPPRecord{PaymentAddr: inv.PaymentAddr, TotalAmtMsat: wholeMsat},
				},
			},
		},
	}
}

// send reports nil if its end is not known.
func (h half) send(ctx context.Context, payer *devnet.Node) {
	attempt, _ := payer.Router.SendToRouteV2(ctx, &routerrpc.SendToRouteRequest{PaymentHash: h.hash[:], Route: h.route})
	h.done <- attempt
}

// incomingIndex is an HTLC's place among those of the payer's channel.
func (f *fuzz) incomingIndex(ctx context.Context, hash ln.Hash) uint64 {
	f.t.Helper()
	list, err := f.Gateway.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(f.t, err)
	for _, c := range list.Channels {
		for _, h := range c.PendingHtlcs {
			if h.Incoming && string(h.HashLock) == string(hash[:]) {
				return h.HtlcIndex
			}
		}
	}
	require.FailNow(f.t, "the gateway's lnd does not have an HTLC that sluiced holds")
	return 0
}

// refuse gives the payer its money back, unless it has it already: nobody waits for the
// missing part for long.
func (f *fuzz) refuse(ctx context.Context, h half) {
	f.t.Helper()
	if _, err := f.op.api.WithdrawPayment(ctx, &lspv1.WithdrawPaymentRequest{PaymentId: h.id, Reason: "the other half does not come"}); err != nil {
		f.t.Logf("withdraw: %v", err)
	}
	timer := time.NewTimer(afterOutage)
	defer timer.Stop()
	select {
	case a := <-h.done:
		require.NotNil(f.t, a)
		require.Equal(f.t, lnrpc.HTLCAttempt_FAILED, a.Status)
	case <-timer.C:
		require.FailNow(f.t, "a part that was refused has no end")
	}
	require.NoError(f.t, devnet.WaitFor(ctx, "the HTLC to be gone", func(ctx context.Context) (bool, error) {
		list, err := f.Gateway.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
		if err != nil {
			return false, err
		}
		for _, c := range list.Channels {
			for _, p := range c.PendingHtlcs {
				if p.Incoming && string(p.HashLock) == string(h.hash[:]) {
					return false, nil
				}
			}
		}
		return true, nil
	}))
}
