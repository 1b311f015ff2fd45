package app

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
)

// trustedJobs are those whose funding is withheld.
func trustedJobs() (out []job) {
	for _, j := range jobs() {
		if j.trust {
			out = append(out, j)
		}
	}
	return out
}

// waitOpening waits until the newest open is in a state.
func (r *rig) waitOpening(state string) *lspv1.Opening {
	r.t.Helper()
	for range 400 {
		if s := r.service.Load(); s != nil {
			list, err := s.operator.ListOpenings(r.ctx, &lspv1.ListOpeningsRequest{})
			if err == nil && len(list.Openings) > 0 && list.Openings[0].State == state {
				return list.Openings[0]
			}
		}
		r.pause(r.step / 10)
	}
	r.t.Fatalf("no open is %s\n%s", state, r.stories())
	return nil
}

func (r *rig) leased() int {
	r.t.Helper()
	leases, err := walletrpc.NewWalletKitClient(r.conns[r.gateway]).ListLeases(r.ctx, &walletrpc.ListLeasesRequest{})
	require.NoError(r.t, err)
	return len(leases.LockedUtxos)
}

// leasedUntil is when the first lease ends.
func (r *rig) leasedUntil() uint64 {
	r.t.Helper()
	leases, err := walletrpc.NewWalletKitClient(r.conns[r.gateway]).ListLeases(r.ctx, &walletrpc.ListLeasesRequest{})
	require.NoError(r.t, err)
	require.NotEmpty(r.t, leases.LockedUtxos)
	return leases.LockedUtxos[0].Expiration
}

// The wallet holds its preimage back: nothing is published, the coins stay leased
// over restarts, and the gateway's promise names exactly the channel. It
// claims: the transaction is in the mempool at once. Or the payment goes back: no
// chain fee was paid, the coins are free, and both nodes forget the channel.
func TestTrustedFunding(t *testing.T) {
	for _, claims := range []bool{true, false} {
		t.Run(fmt.Sprintf("claims-%t", claims), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: 1, job: trustedJobs()[0], latency: lndfake.Observed()})
				r.openBooks()
				var a agreement
				var err error
				for range 100 {
					if a, err = r.order(order{hold: true}); err == nil {
						break
					}
					r.pause(r.step)
				}
				require.NoError(t, err)
				paid := r.pay(a.bolt11)
				open := r.waitOpening("withheld")
				r.accepted(a.hash)
				require.Empty(t, r.w.Mempool(), "nothing is published before it is claimed")
				require.Equal(t, 1, r.leased())

				promise, err := r.service.Load().channels.PromiseFunding(r.asWallet(), &lspv1.PromiseFundingRequest{PaymentId: a.id})
				require.NoError(t, err)
				gateway, err := ln.ParsePubKey(r.gateway.PubKey())
				require.NoError(t, err)
				outpoint, err := ln.ParseOutpoint(open.FundingOutpoint)
				require.NoError(t, err)
				want := lsp.FundingPromise{Gateway: gateway, Wallet: r.walletKey, Hash: a.hash, Outpoint: outpoint, CapacitySat: ln.Sat(open.CapacitySat)}
				require.Equal(t, want.Text(), promise.Text)
				signer, err := auth.RecoverSigner(promise.Text, promise.Signature)
				require.NoError(t, err)
				require.Equal(t, gateway, signer)

				// Its lease is renewed while it waits, with sluiced and lnd dying.
				until := r.leasedUntil()
				for range 2 {
					r.pause(15 * time.Minute)
					r.killProcess()
					r.pause(time.Second)
					r.up()
					r.w.Mine(1)
				}
				for i := 0; r.leasedUntil() < until+25*60; i++ {
					require.Less(t, i, 100, "the lease is not renewed")
					r.pause(r.step)
				}
				r.gateway.Kill()
				require.NoError(t, r.gateway.Start())
				r.w.Connect(r.payer, r.gateway)
				r.w.Connect(r.gateway, r.wallet)
				r.up()
				require.Equal(t, 1, r.leased(), "its coin is still its own")
				require.Equal(t, "withheld", r.waitOpening("withheld").State)

				if !claims {
					_, err = invoicesrpc.NewInvoicesClient(r.conns[r.wallet]).CancelInvoice(r.ctx, &invoicesrpc.CancelInvoiceMsg{PaymentHash: a.hash[:]})
					require.NoError(t, err)
					m := r.outcome(paid)
					require.Equal(t, lnrpc.Payment_FAILED, m.Status)
					r.waitOpening("failed")
					require.Empty(t, r.w.Mempool())
					_, err = r.service.Load().channels.PromiseFunding(r.asWallet(), &lspv1.PromiseFundingRequest{PaymentId: a.id})
					require.ErrorContains(t, err, "no channel waits")
					r.await(a.id)
					r.settle()
					require.Zero(t, r.channels(), "both have forgotten it")
					r.check(a, m)
					status, err := r.service.Load().operator.GetStatus(r.ctx, &lspv1.GetStatusRequest{})
					require.NoError(t, err)
					require.Zero(t, status.ChainFeesMsat, "a payment that went back costs no chain fee")
					return
				}
				_, err = invoicesrpc.NewInvoicesClient(r.conns[r.wallet]).SettleInvoice(r.ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: a.preimage.Bytes()})
				require.NoError(t, err)
				r.waitOpening("usable")
				require.Len(t, r.w.Mempool(), 1)
				m := r.outcome(paid)
				require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status)
				r.settle()
				r.check(a, m)
			})
		})
	}
}

// accepted waits until the wallet's node holds the payment.
func (r *rig) accepted(hash ln.Hash) {
	r.t.Helper()
	for range 400 {
		inv, err := r.ln(r.wallet).LookupInvoice(r.ctx, &lnrpc.PaymentHash{RHash: hash[:]})
		if err == nil && inv.State == lnrpc.Invoice_ACCEPTED {
			return
		}
		r.pause(r.step / 10)
	}
	r.t.Fatalf("the payment does not reach the wallet\n%s", r.stories())
}

// A wallet that keeps the payment and is silent. The channel is funded before the
// HTLC expires: only so can the gateway's node take the payment back, on chain.
func TestTrustedFundingBeforeTheHTLCExpires(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: trustedJobs()[0], latency: lndfake.Observed()})
		r.openBooks()
		var a agreement
		var err error
		for range 100 {
			if a, err = r.order(order{hold: true}); err == nil {
				break
			}
			r.pause(r.step)
		}
		require.NoError(t, err)
		paid := r.pay(a.bolt11)
		r.waitOpening("withheld")
		r.accepted(a.hash)
		r.w.Disconnect(r.gateway, r.wallet)
		var m *lnrpc.Payment
		for published := uint32(0); m == nil; {
			r.w.Mine(1)
			select {
			case m = <-paid:
			case <-time.After(time.Minute):
			}
			if len(r.w.Mempool()) > 0 && published == 0 {
				published = r.w.Height()
			}
			require.Less(t, r.w.Height(), uint32(2_000), "the payer is neither paid nor refunded\n%s", r.stories())
		}
		require.Equal(t, lnrpc.Payment_FAILED, m.Status)
		r.w.Connect(r.gateway, r.wallet)
		r.closed = true
		r.await(a.id)
		r.settle()
		r.check(a, m)
	})
}

// What an attack is: channels that are negotiated for payments that nobody claims.
// From a number of them on new clients are asked to trust; who has paid is not, nor
// whom the operator exempts.
func TestUnderAttack(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: job{name: "attack", amountSat: 100_000, parts: 1, opens: true}, configure: func(c *Config) {
			c.LSP.TrustAll, c.LSP.TrustEach = 2, 4
		}})
		r.up()
		s := r.service.Load()
		newcomer := ln.PubKey{2, 9}
		status := func() *lspv1.FundingTrust {
			t.Helper()
			got, err := s.operator.GetStatus(r.ctx, &lspv1.GetStatusRequest{})
			require.NoError(t, err)
			return got.FundingTrust
		}
		// negotiate asks as a wallet that trusts with so much.
		negotiate := func(client ln.PubKey, trust uint64, n byte) (*lspv1.NegotiateResponse, error) {
			t.Helper()
			menu, err := s.channels.GetMenu(asWallet(r, client), &lspv1.GetMenuRequest{})
			require.NoError(t, err)
			hash := ln.Hash{n, client[1]}
			return s.channels.Negotiate(asWallet(r, client), &lspv1.NegotiateRequest{
				PaymentHash: hash[:], AmountMsat: 100_000_000, OpeningFeeParams: menu.OpeningFeeParamsMenu[0], FinalCltvDeltaBlocks: 80,
				Channel:          &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true, TrustMsat: trust},
				InvoiceExpiresMs: time.Now().Add(10 * time.Minute).UnixMilli(),
			})
		}
		for n := range byte(2) {
			got, err := negotiate(newcomer, 0, n)
			require.NoError(t, err, "a quiet day")
			require.False(t, got.ClientTrustsLsp)
			a, err := r.order(order{hold: true})
			require.NoError(t, err)
			paid := r.pay(a.bolt11)
			r.accepted(a.hash)
			_, err = invoicesrpc.NewInvoicesClient(r.conns[r.wallet]).CancelInvoice(r.ctx, &invoicesrpc.CancelInvoiceMsg{PaymentHash: a.hash[:]})
			require.NoError(t, err)
			require.Equal(t, lnrpc.Payment_FAILED, r.outcome(paid).Status)
			r.pause(6 * time.Minute)
			// More than its channel has room for.
			r.job.amountSat *= 9
		}
		require.True(t, status().UnderAttack)
		require.EqualValues(t, 2, status().Unclaimed)

		_, err := negotiate(newcomer, 99_999_999, 10)
		require.ErrorContains(t, err, "must be trusted with 100000 sat")
		got, err := negotiate(newcomer, 100_000_000, 11)
		require.NoError(t, err)
		require.True(t, got.ClientTrustsLsp)
		// The operator exempts one, also over a restart.
		_, err = s.operator.SetClientTrust(r.ctx, &lspv1.SetClientTrustRequest{ClientNodeKey: newcomer[:], Mode: "sometimes"})
		require.ErrorContains(t, err, "none of")
		_, err = s.operator.SetClientTrust(r.ctx, &lspv1.SetClientTrustRequest{ClientNodeKey: newcomer[:], Mode: "never"})
		require.NoError(t, err)
		r.killProcess()
		r.pause(time.Second)
		r.up()
		s = r.service.Load()
		got, err = negotiate(newcomer, 0, 12)
		require.NoError(t, err)
		require.False(t, got.ClientTrustsLsp)
		shown, err := s.operator.ShowClient(r.ctx, &lspv1.ShowClientRequest{ClientNodeKey: newcomer[:]})
		require.NoError(t, err)
		require.Equal(t, "never", shown.Trust)
		_, err = s.operator.SetClientTrust(r.ctx, &lspv1.SetClientTrustRequest{ClientNodeKey: newcomer[:]})
		require.NoError(t, err)
		_, err = negotiate(newcomer, 0, 13)
		require.Error(t, err, "as for all again")

		// LSPS2 says it in its answer.
		raw, err := r.lsps.Call(r.ctx, lsps2.MethodGetInfo, struct{}{})
		require.NoError(t, err)
		menu, err := lsps2.ReadMenu(raw)
		require.NoError(t, err)
		raw, err = r.lsps.Call(r.ctx, lsps2.MethodBuy, lsps2.BuyRequest{Params: menu[0], SizeMsat: 100_000_000, HasSize: true})
		require.NoError(t, err)
		bought, err := lsps2.ReadBuyResult(raw)
		require.NoError(t, err)
		require.True(t, bought.ClientTrustsLSP)

		// An hour later it is over.
		r.pause(time.Hour)
		require.False(t, status().UnderAttack)
		got, err = negotiate(newcomer, 0, 14)
		require.NoError(t, err)
		require.False(t, got.ClientTrustsLsp)
	})
}

// A crash of sluiced between any two commits of a day on which a wallet that
// trusts the gateway lets its payment go back.
func TestTrustedPaymentGoesBackCrashAtEveryCommit(t *testing.T) {
	run := func(t *testing.T, n int64, point storetest.Point) int64 {
		r := newRig(t, rigConfig{seed: 1, job: trustedJobs()[0], latency: lndfake.Observed()})
		r.openBooks()
		var a agreement
		var err error
		for range 100 {
			if a, err = r.order(order{hold: true}); err == nil {
				break
			}
			r.pause(r.step)
		}
		require.NoError(t, err)
		from := r.faults.Commits()
		if n > 0 {
			r.crashAt(n, point)
		}
		r.up()
		paid := r.pay(a.bolt11)
		r.accepted(a.hash)
		_, err = invoicesrpc.NewInvoicesClient(r.conns[r.wallet]).CancelInvoice(r.ctx, &invoicesrpc.CancelInvoiceMsg{PaymentHash: a.hash[:]})
		require.NoError(t, err)
		m := r.outcome(paid)
		r.waitOpening("failed")
		commits := r.faults.Commits() - from
		r.await(a.id)
		r.settle()
		r.calm()
		r.forgetGivenUp()
		require.Equal(t, lnrpc.Payment_FAILED, m.Status)
		require.Zero(t, r.channels())
		r.check(a, m)
		return commits
	}
	var commits int64
	virtual(t, func(t *testing.T) { commits = run(t, 0, 0) })
	for n := int64(1); n <= commits; n++ {
		for _, point := range []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit} {
			t.Run(fmt.Sprintf("%s-%d", point, n), func(t *testing.T) {
				t.Parallel()
				virtual(t, func(t *testing.T) { run(t, n, point) })
			})
		}
	}
}

// A payment comes while lnd is made to forget the channel of one that went back. lnd
// forwards over any channel of a peer: nothing is handed on before the one that nothing
// funds is gone, so that what the wallet was paid is in a channel that is there.
func TestNothingGoesOverAChannelThatIsForgotten(t *testing.T) {
	base := drawnSeed(t)
	for seed := base; seed < base+8; seed++ {
		t.Run(fmt.Sprintf("seed-%d", seed), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: seed, job: trustedJobs()[0], latency: lndfake.Observed()})
				r.openBooks()
				first, err := r.order(order{hold: true})
				require.NoError(t, err)
				paid := r.pay(first.bolt11)
				r.accepted(first.hash)
				// lnd's word that it has forgotten a channel is lost now and then.
				var asked atomic.Int64
				r.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
					if c.Node == r.gateway.Name() && c.Phase == lndfake.BeforeCall && c.Method == "/lnrpc.Lightning/AbandonChannel" && asked.Add(1) == 1 && seed%2 == 0 {
						return lndfake.Lose
					}
					return lndfake.Pass
				})
				second, err := r.order(order{})
				require.NoError(t, err)
				_, err = invoicesrpc.NewInvoicesClient(r.conns[r.wallet]).CancelInvoice(r.ctx, &invoicesrpc.CancelInvoiceMsg{PaymentHash: first.hash[:]})
				require.NoError(t, err)
				require.Equal(t, lnrpc.Payment_FAILED, r.outcome(paid).Status)
				m := r.outcome(r.pay(second.bolt11))
				require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, r.stories())
				r.await(second.id)
				r.w.OnRPC(nil)
				r.settle()
				r.calm()
				r.forgetGivenUp()
				require.Equal(t, 1, r.channels(), "that of the second payment, or that of the first, funded for it")
				r.check(second, m)
			})
		})
	}
}
