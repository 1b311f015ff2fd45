package lndfake

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// channelToWallet opens a channel without fees from the gateway that fakeSCID maps to.
func (r *rig) channelToWallet() string {
	r.t.Helper()
	point, err := r.w.OpenChannel(r.g, r.c, 1_500_000, 0)
	require.NoError(r.t, err)
	r.w.do(func() {
		s := r.w.channels[len(r.w.channels)-1].sides[0]
		s.graph.baseMsat, s.graph.ratePPM = 0, 0
		s.link = *s.graph
		r.g.aliases[fakeSCID] = s
	})
	return point
}

// resumeAlways is the sidecar that never fails anything: it reconnects and resumes whatever is offered.
func (r *rig) resumeAlways() {
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan struct{})
	r.t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			s, err := r.router(r.g).HtlcInterceptor(ctx)
			for err == nil {
				var q *routerrpc.ForwardHtlcInterceptRequest
				if q, err = s.Recv(); err == nil {
					err = s.Send(&routerrpc.ForwardHtlcInterceptResponse{
						IncomingCircuitKey: q.IncomingCircuitKey, Action: routerrpc.ResolveHoldForwardAction_RESUME,
					})
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
}

// TestChaos throws flaps, kills, freezes and lost streams at payments in flight. Whatever happens money is neither
// made nor lost, nothing stays stuck, and who paid is who lost.
func TestChaos(t *testing.T) {
	seeds := []uint64{}
	if s := os.Getenv("LNDFAKE_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
		seeds = append(seeds, seed)
	} else {
		for i := range 40 {
			seeds = append(seeds, uint64(i))
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("LNDFAKE_SEED=%d", seed), func(t *testing.T) {
			virtual(t, func(t *testing.T) { chaos(t, seed) })
		})
	}
}

func chaos(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	lat := Observed()
	if rnd.IntN(2) == 0 {
		lat.Commit = 2 * time.Second
	}
	r := newRig(t, Config{Seed: seed, Latency: lat}, NodeConfig{RequireInterceptor: true})
	r.channelToWallet()
	r.resumeAlways()
	time.Sleep(time.Second)
	before := map[*Node]int64{}
	for _, n := range []*Node{r.p, r.g, r.c} {
		before[n] = r.w.Wealth(n).TotalMsat()
	}
	var pays []<-chan *lnrpc.Payment
	for range 30 {
		switch rnd.IntN(8) {
		case 0, 1, 2:
			inv, err := r.ln(r.c).AddInvoice(r.ctx, &lnrpc.Invoice{
				Value: 10_000 + rnd.Int64N(10_000), RouteHints: r.hint(fakeSCID, 0),
			})
			require.NoError(t, err)
			_, err = r.router(r.p).ResetMissionControl(r.ctx, &routerrpc.ResetMissionControlRequest{})
			require.NoError(t, err)
			pays = append(pays, r.pay(inv.PaymentRequest))
		case 3:
			r.w.Flap(r.p, r.g)
		case 4:
			r.w.Flap(r.c, r.g)
		case 5:
			require.NoError(t, r.g.Restart())
		case 6:
			r.c.Freeze()
			time.Sleep(time.Duration(rnd.IntN(500)) * time.Millisecond)
			r.c.Thaw()
		case 7:
			release := r.w.HoldCommits(r.g, r.c)
			time.Sleep(time.Duration(rnd.IntN(500)) * time.Millisecond)
			release()
		}
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
	}
	time.Sleep(5 * time.Minute)
	var paid int64
	for _, p := range pays {
		select {
		case m := <-p:
			if m.Status == lnrpc.Payment_SUCCEEDED {
				paid += m.ValueMsat
			}
		default:
			t.Fatal("a payment never ended")
		}
	}
	for _, n := range []*Node{r.p, r.g, r.c} {
		require.Zero(t, r.w.Wealth(n).InFlightMsat, "%s has HTLCs in flight", n.Name())
	}
	require.Equal(t, paid, before[r.p]-r.w.Wealth(r.p).TotalMsat(), "the payer")
	require.NoError(t, r.w.Err())
	// A sidecar that only resumes loses by phantoms alone; then what the gateway lost the wallet has.
	require.Equal(t, r.w.Wealth(r.c).TotalMsat()-before[r.c]-paid, before[r.g]-r.w.Wealth(r.g).TotalMsat())
}

func TestLostAnswers(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, Config{Seed: 3}, NodeConfig{})
		var mu sync.Mutex
		at := BeforeCall
		r.w.OnRPC(func(c Call) Verdict {
			mu.Lock()
			defer mu.Unlock()
			if c.Method == "/lnrpc.Lightning/AddInvoice" && c.Phase == at {
				return Lose
			}
			return Pass
		})
		count := func() int {
			l, err := r.ln(r.c).ListInvoices(r.ctx, &lnrpc.ListInvoiceRequest{})
			require.NoError(t, err)
			return len(l.Invoices)
		}
		_, err := r.ln(r.c).AddInvoice(r.ctx, &lnrpc.Invoice{Value: 1})
		require.Equal(t, codes.Unavailable, status.Code(err))
		require.Zero(t, count(), "not executed")
		mu.Lock()
		at = AfterCall
		mu.Unlock()
		_, err = r.ln(r.c).AddInvoice(r.ctx, &lnrpc.Invoice{Value: 1})
		require.Equal(t, codes.Unavailable, status.Code(err))
		require.Equal(t, 1, count(), "executed, the answer lost")
	})
}

func TestKillWithinACall(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, Config{Seed: 4}, NodeConfig{})
		var once sync.Once
		r.w.OnRPC(func(c Call) Verdict {
			if c.Phase == AfterCall {
				once.Do(func() { r.c.Kill() })
			}
			return Pass
		})
		_, err := r.ln(r.c).AddInvoice(r.ctx, &lnrpc.Invoice{Value: 1})
		require.Equal(t, codes.Unavailable, status.Code(err))
		require.False(t, r.c.Up())
		require.NoError(t, r.c.Start())
		require.Eventually(t, func() bool {
			l, err := r.ln(r.c).ListInvoices(r.ctx, &lnrpc.ListInvoiceRequest{})
			return err == nil && len(l.Invoices) == 1
		}, time.Minute, 10*time.Millisecond)
	})
}

func TestMempoolRefusesWhatABackendRefuses(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, Config{Seed: 5}, NodeConfig{})
		kit := walletrpc.NewWalletKitClient(r.conns[r.g])
		addr, err := r.ln(r.c).NewAddress(r.ctx, &lnrpc.NewAddressRequest{})
		require.NoError(t, err)
		fund := func() *walletrpc.FundPsbtResponse {
			f, err := kit.FundPsbt(r.ctx, &walletrpc.FundPsbtRequest{
				Template: &walletrpc.FundPsbtRequest_Raw{Raw: &walletrpc.TxTemplate{Outputs: map[string]uint64{addr.Address: 50_000}}},
				Fees:     &walletrpc.FundPsbtRequest_SatPerVbyte{SatPerVbyte: 2}, MinConfs: 1,
			})
			require.NoError(t, err)
			return f
		}
		f := fund()
		p, err := decodePSBT(f.FundedPsbt)
		require.NoError(t, err)
		publish := func(raw []byte) error {
			_, err := kit.PublishTransaction(r.ctx, &walletrpc.Transaction{TxHex: raw})
			return err
		}
		require.ErrorContains(t, publish(encodeTx(p.UnsignedTx)), "script", "unsigned")
		fin, err := kit.FinalizePsbt(r.ctx, &walletrpc.FinalizePsbtRequest{FundedPsbt: f.FundedPsbt})
		require.NoError(t, err)
		tx, err := decodeTx(fin.RawFinalTx)
		require.NoError(t, err)
		stolen := tx.Copy()
		stolen.TxOut[0].Value--
		require.ErrorContains(t, publish(encodeTx(stolen)), "script", "signed for something else")
		require.NoError(t, publish(fin.RawFinalTx))
		require.NoError(t, publish(fin.RawFinalTx), "twice is no error")

		again := wire.NewMsgTx(2)
		again.AddTxIn(&wire.TxIn{PreviousOutPoint: tx.TxIn[0].PreviousOutPoint})
		again.AddTxOut(wire.NewTxOut(10_000, tx.TxOut[0].PkScript))
		require.ErrorContains(t, publish(encodeTx(again)), "script", "it pays enough to take the other's place, and is not signed")
		require.Len(t, r.w.Mempool(), 1)
		cheap := tx.Copy()
		cheap.TxOut[0].Value--
		require.ErrorContains(t, publish(encodeTx(cheap)), "insufficient fee")
		again.TxIn[0].PreviousOutPoint.Hash = chainhash.Hash{1}
		require.ErrorContains(t, publish(encodeTx(again)), "missing")
		r.w.Mine(1)
		require.EqualValues(t, 50_000_000, r.w.Wealth(r.c).OnChainMsat)

		r.w.Reorg(1, false)
		require.Len(t, r.w.Mempool(), 1, "back in the mempool")
		r.w.DropFromMempool(tx.TxHash())
		require.Zero(t, r.w.Wealth(r.c).OnChainMsat)
		require.NoError(t, r.w.Err())

		r.w.RejectPublications(errors.New("-26: mempool full"))
		require.ErrorContains(t, publish(fin.RawFinalTx), "mempool full")
	})
}

func TestReorgUnconfirmsAZeroConfChannel(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, Config{Seed: 6}, NodeConfig{})
		r.acceptZeroConf()
		s, err := r.ln(r.g).OpenChannel(r.ctx, &lnrpc.OpenChannelRequest{
			NodePubkey: r.c.key.PubKey().SerializeCompressed(), LocalFundingAmount: 200_000, Private: true, ZeroConf: true,
			CommitmentType: lnrpc.CommitmentType_ANCHORS, MinConfs: 1,
		})
		require.NoError(t, err)
		_, err = s.Recv()
		require.NoError(t, err)
		confirmed := func() bool {
			l, err := r.ln(r.g).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{PrivateOnly: true})
			require.NoError(t, err)
			require.Len(t, l.Channels, 1)
			require.True(t, l.Channels[0].Active)
			return l.Channels[0].ZeroConfConfirmedScid != 0
		}
		require.False(t, confirmed())
		r.w.Mine(3)
		require.True(t, confirmed())
		r.w.Reorg(3, false)
		require.False(t, confirmed())
		r.w.Mine(6)
		require.True(t, confirmed())
		require.NoError(t, r.w.Err())
	})
}

// TestForceCloseResolvesHTLCs: who knows the preimage claims, who does not is timed out, and nothing is lost but fees.
func TestForceCloseResolvesHTLCs(t *testing.T) {
	for _, claims := range []bool{true, false} {
		t.Run(fmt.Sprint(claims), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, Config{Seed: 8}, NodeConfig{})
				point := r.channelToWallet()
				req := holdInvoice(t, r)
				paid := r.pay(req.PaymentRequest)
				synctest.Wait()
				wallet := r.w.Wealth(r.c).TotalMsat()
				require.NoError(t, r.w.ForceClose(r.g, point))
				if claims {
					settleHold(t, r)
				}
				for range 100 {
					r.w.Mine(1)
					synctest.Wait()
				}
				m := <-paid
				got := r.w.Wealth(r.c).TotalMsat() - wallet
				if claims {
					require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status)
					require.EqualValues(t, 100_000_000-claimFeeSat*1000, got)
				} else {
					require.Equal(t, lnrpc.Payment_FAILED, m.Status)
					require.Zero(t, got)
				}
				require.NoError(t, r.w.Err())
			})
		})
	}
}

var holdPreimage = [32]byte{42}

func holdInvoice(t *testing.T, r *rig) *invoicesrpc.AddHoldInvoiceResp {
	t.Helper()
	h := sha(holdPreimage)
	resp, err := invoicesrpc.NewInvoicesClient(r.conns[r.c]).AddHoldInvoice(r.ctx, &invoicesrpc.AddHoldInvoiceRequest{
		Hash: h[:], Value: 100_000, RouteHints: r.hint(fakeSCID, 0),
	})
	require.NoError(t, err)
	return resp
}

func settleHold(t *testing.T, r *rig) {
	t.Helper()
	_, err := invoicesrpc.NewInvoicesClient(r.conns[r.c]).SettleInvoice(r.ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: holdPreimage[:]})
	require.NoError(t, err)
}
