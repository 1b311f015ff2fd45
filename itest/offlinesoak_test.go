//go:build itest

package itest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/lws/agent"
)

// soakProgram is a program of somebody else's that shares the gateway's interceptor: slow
// at times, away at times, and in nobody's way.
func soakProgram(ctx context.Context, t *testing.T, net *devnet.Standard, config *devnet.SluicedConfig) *rawProgram {
	t.Helper()
	address, err := net.Port()
	require.NoError(t, err)
	macaroon := filepath.Join(net.Dir(), "program.macaroon")
	require.NoError(t, net.Gateway.Bake(ctx, macaroon, programRights()))
	config.File += fmt.Sprintf("[[proxy.programs]]\nname = 'watcher'\nmacaroon_file = '%s'\n", macaroon)
	config.Settings["proxy.listen"] = address
	return &rawProgram{t: t, address: address, macaroon: macaroon, decide: func(o *routerrpc.ForwardHtlcInterceptRequest) *routerrpc.ForwardHtlcInterceptResponse {
		if o.IncomingCircuitKey.HtlcId%7 == 3 {
			time.Sleep(time.Second)
		}
		return answer(o, routerrpc.ResolveHoldForwardAction_RESUME)
	}}
}

// attach connects the program where it is not.
func (p *rawProgram) attach(ctx context.Context) {
	if p.conn != nil {
		select {
		case <-p.ended:
			p.leave()
		default:
			return
		}
	}
	p.connect(ctx)
}

// detach takes it away, where it is there.
func (p *rawProgram) detach() {
	if p.conn != nil {
		p.leave()
		p.conn = nil
	}
}

// TestOfflineSoak: for SLUICE_SOAK_MINUTES a wallet comes and goes, payments of three kinds
// (ordinary, signed anew, wrapped) come in one part and in several, links flap, blocks come
// in bursts, sluiced and the gateway's lnd are killed, and a program of somebody else's
// shares the interceptor, comes and goes. Everybody has what is theirs, to the
// millisatoshi, and no channel is closed.
func TestOfflineSoak(t *testing.T) {
	minutes, _ := strconv.Atoi(os.Getenv("SLUICE_SOAK_MINUTES"))
	if minutes <= 0 {
		t.Skip("it runs with make soak")
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SLUICE_SOAK_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("%d minutes, seed %d", minutes, seed)
	rng := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // repeatable
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(minutes)*time.Minute+20*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	config := holding()
	program := soakProgram(ctx, t, net, &config)
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), config)
	require.NoError(t, err)
	program.cert = s.TLSCert
	w := newSleeper(ctx, t, net, s, newHoldOperator(t, s))
	_, err = w.agent.Say(ctx, agent.Said{Enabled: true, HoldFor: "24h"})
	require.NoError(t, err)
	require.NoError(t, net.Wallet.WaitNoHTLCs(ctx))
	balance := func(n *devnet.Node) uint64 {
		b, err := n.LN.ChannelBalance(ctx, &lnrpc.ChannelBalanceRequest{})
		require.NoError(t, err)
		return b.LocalBalance.Msat
	}
	before := balance(net.Wallet)
	var paid, failed, rounds int
	var received uint64
	for until := time.Now().Add(time.Duration(minutes) * time.Minute); time.Now().Before(until); rounds++ {
		var payments []*paying
		amounts := make(map[*paying]uint64)
		// Invoices are made while the wallet is there; payments come once it sleeps.
		type ready struct {
			bolt11  string
			hash    []byte
			msat    uint64
			wrapped bool
		}
		var invoices []ready
		for range 1 + rng.IntN(8) {
			msat := 1_000_000 + rng.Uint64N(2_000_000)
			switch rng.IntN(3) {
			case 0:
				inv := w.longInvoice(ctx, ln.Msat(msat), 20*time.Hour)
				invoices = append(invoices, ready{inv.Bolt11, inv.Hash[:], msat, false})
			case 1:
				inv := w.wrapped(ctx, msat/1000)
				invoices = append(invoices, ready{inv.bolt11, inv.hash, inv.sat * 1000, true})
			case 2:
				inv := w.invoice(ctx, int64(msat)) //nolint:gosec // small
				invoices = append(invoices, ready{inv.PaymentRequest, inv.RHash, msat, false})
			}
		}
		if rng.IntN(3) == 0 {
			program.detach()
		} else {
			program.attach(ctx)
		}
		w.sleep(ctx)
		_, err := net.Payer.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
		require.NoError(t, err)
		for _, inv := range invoices {
			parts := uint64(1 + rng.IntN(3))
			if inv.wrapped {
				parts = 1
			}
			p := sendInParts(ctx, t, net, inv.bolt11, inv.hash, inv.msat/parts+1)
			payments, amounts[p] = append(payments, p), inv.msat
			if !inv.wrapped {
				continue
			}
			// Of two HTLCs of one commitment that end at the gateway lnd 0.21.2 settles one twice
			// if its link restarts in between, and gives the channel up for good (runbook.md, "A
			// channel stays inactive"). So each has its own.
			require.NoError(t, devnet.WaitFor(ctx, "the wrapped payment to be held", func(ctx context.Context) (bool, error) {
				held, err := net.Gateway.LN.LookupInvoice(ctx, &lnrpc.PaymentHash{RHash: inv.hash})
				return err == nil && held.State == lnrpc.Invoice_ACCEPTED, err
			}), "seed %d", seed)
		}
		time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
		for range rng.IntN(4) {
			switch rng.IntN(6) {
			case 0:
				net.PayerLink.Flap()
			case 1:
				require.NoError(t, s.Kill())
				require.NoError(t, s.Start(ctx))
			case 2:
				require.NoError(t, net.Gateway.Kill())
				require.NoError(t, net.Gateway.Start(ctx))
			case 3:
				require.NoError(t, net.Mine(ctx, 1+rng.IntN(6)))
			case 4:
				w.wakeUp(ctx)
				time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
				require.NoError(t, net.Wallet.Kill())
			case 5:
				time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
			}
		}
		if rng.IntN(3) == 0 {
			require.NoError(t, net.Mine(ctx, 20))
		}
		w.wakeUp(ctx)
		_, err = net.Gateway.WaitChannelActive(ctx, w.point.Point)
		require.NoError(t, err)
		for _, p := range payments {
			select {
			case m := <-p.done:
				if m.Status == lnrpc.Payment_SUCCEEDED {
					paid++
					received += amounts[p]
				} else {
					failed++
				}
			case <-time.After(6 * time.Minute):
				require.Fail(t, "a payment does not end", "seed %d", seed)
			}
		}
		for _, n := range []*devnet.Node{net.Payer, net.Gateway, net.Wallet} {
			require.NoError(t, n.WaitNoHTLCs(ctx))
			pending, err := n.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
			require.NoError(t, err)
			require.Empty(t, pending.PendingForceClosingChannels, "%s, seed %d", n.Name, seed)
			require.Empty(t, pending.WaitingCloseChannels, "%s, seed %d", n.Name, seed)
		}
		require.Equal(t, before+received, balance(net.Wallet), "seed %d", seed)
		if received > 900_000_000 {
			// The wallet gives it back, so that there is room.
			inv, err := net.Payer.Invoice(ctx, int64(received/2)) //nolint:gosec // small
			require.NoError(t, err)
			back, err := net.Wallet.Pay(ctx, inv.PaymentRequest)
			require.NoError(t, err)
			require.Equal(t, lnrpc.Payment_SUCCEEDED, back.Status)
			require.NoError(t, net.Wallet.WaitNoHTLCs(ctx))
			before, received = balance(net.Wallet), 0
		}
	}
	w.waitWaiting(ctx, 0)
	t.Logf("%d rounds, %d payments arrived, %d went back", rounds, paid, failed)
	require.Positive(t, paid)
}
