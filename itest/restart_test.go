//go:build itest

package itest

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // to lock sluiced's database from outside

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// patient keeps gateways of these tests waiting for wallets while something is
// being restarted, and takes off the limits of one client.
func patient() devnet.SluicedConfig {
	return devnet.SluicedConfig{Settings: unlimited(map[string]string{"lsp.collect_for": "2m"})}
}

func unlimited(settings map[string]string) map[string]string {
	for _, limit := range []string{
		"open_requests_per_client", "open_requests", "unpaid_per_client_sat", "unpaid_sat", "unconfirmed_sat", "held_per_client_sat", "held_sat",
		"held_sat_blocks_per_client", "held_sat_blocks",
		"opens_per_hour_per_client", "opens_per_hour",
	} {
		settings["lsp."+limit] = "0"
	}
	return settings
}

// TestRestartSluiced kills sluiced on either side of each call to lnd that moves a
// payment, which opens its channel, and at moments that last. Every payer ends paid,
// over one channel.
func TestRestartSluiced(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	network := devnet.StartStandard(t, devnet.StandardConfig{})
	b := newBarrier(t, network.Gateway)
	config := patient()
	config.Settings["lnd.address"] = b.addr
	sc := newSceneOn(ctx, t, network, config)
	w := sc.first(ctx)
	amount := ln.Msat(200_000_000)

	// More than any channel so far has room left for, so that each opens its own.
	more := func() ln.Msat { amount += 10_000_000; return amount }

	killedAtCalls(ctx, sc, w, b, more)

	t.Run("payer pays, killed once it is at the wallet", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before := w.channels(ctx)
		o, bolt11 := w.holdOffer(ctx, more())
		done := sc.pay(ctx, bolt11)
		sc.waitMoment(ctx, o.PaymentId, moment{"jit", "forwarded"})
		sc.crash(ctx)
		w.waitInvoice(ctx, o.preimage.Hash(), lnrpc.Invoice_ACCEPTED)
		w.claim(ctx, o)
		sc.paid(done, afterOutage)
		sc.waitEnd(ctx, o.PaymentId, "paid")
		require.Equal(t, before+1, w.channels(ctx), "one channel for one payment")
	})

	// The negotiation hangs, because the wallet's host has vanished without a
	// word: the channel is not pending at either node yet.
	t.Run("payer pays, killed while the wallet does not answer", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before := w.channels(ctx)
		o := w.negotiate(ctx, more(), offerWish{another: true})
		bolt11 := w.invoice(ctx, o)
		w.link.Stall()
		done := sc.pay(ctx, bolt11)
		sc.waitMoment(ctx, o.PaymentId, moment{"opening", "leased"})
		sc.crash(ctx)
		w.link.Restore()
		sc.paid(done, afterOutage)
		sc.waitEnd(ctx, o.PaymentId, "paid")
		require.Equal(t, before+1, w.channels(ctx))
	})

	for _, at := range []moment{{"wrap", "accepted"}, {"wrap", "opening"}} {
		t.Run("receiver pays, killed at "+at.String()+" or soon after", func(t *testing.T) {
			sc := sc.on(ctx, t)
			w := w.in(sc)
			before := w.channels(ctx)
			agreed, own := w.receiveReceiverPays(ctx, more(), &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true})
			done := sc.pay(ctx, agreed.Bolt11)
			sc.waitMoment(ctx, agreed.PaymentId, at)
			sc.crash(ctx)
			sc.paid(done, afterOutage)
			sc.waitEnd(ctx, agreed.PaymentId, "settled")
			require.Equal(t, lnrpc.Invoice_SETTLED, w.invoiceState(ctx, own.Hash))
			require.Equal(t, before+1, w.channels(ctx))
		})
	}
	require.NoError(t, sc.Payer.WaitNoHTLCs(ctx))
	sc.op.waitBalanced(ctx)
}

// TestRestartLnd kills the gateway's lnd with HTLCs held, with HTLCs handed on or paid
// for, and together with sluiced.
func TestRestartLnd(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	sc := newScene(ctx, t, devnet.StandardConfig{}, patient())
	w := sc.first(ctx)

	kills := []struct {
		name string
		kill func(sc *scene)
	}{
		{"lnd", func(sc *scene) { sc.crashGateway(ctx, sc.Payer) }},
		{"lnd and sluiced", func(sc *scene) {
			require.NoError(sc.t, sc.s.Kill())
			sc.crashGateway(ctx, sc.Payer)
			require.NoError(sc.t, sc.s.Start(ctx))
		}},
	}
	amount := growing(100_000_000, 20_000_000)
	for _, k := range kills {
		t.Run(k.name+" killed while HTLCs are held", func(t *testing.T) {
			sc := sc.on(ctx, t)
			sc.outlive(ctx, w.in(sc), amount, k.kill)
		})
		// The HTLCs are at the wallet, which has not claimed them. lnd offers the payer's
		// again, and whatever else happens it must not be failed; of the hold invoice lnd
		// alone knows whether the wallet is still being paid.
		t.Run(k.name+" killed with the HTLCs at the wallet", func(t *testing.T) {
			sc := sc.on(ctx, t)
			w := w.in(sc)
			before, channels := w.purse(ctx), w.channels(ctx)
			deals := w.keeps(ctx, amount)
			k.kill(sc)
			sc.waitActive(ctx, sc.Payer, w.node)
			w.gives(ctx, deals)
			require.Equal(t, channels+len(deals), w.channels(ctx))
			before.moved(ctx, deals...)
		})
		// The same with the wallet away when its HTLCs are offered again, and the
		// payer's link flapping.
		t.Run(k.name+" killed with the HTLCs at the wallet, which goes offline; the payer's link flaps", func(t *testing.T) {
			sc := sc.on(ctx, t)
			w := w.in(sc)
			before := w.purse(ctx)
			deals := w.keeps(ctx, amount)
			w.goOffline(ctx)
			k.kill(sc)
			sc.PayerLink.Flap()
			sc.waitActive(ctx, sc.Payer)
			w.comeOnline(ctx)
			sc.waitActive(ctx, w.node)
			w.gives(ctx, deals)
			before.moved(ctx, deals...)
		})
	}

	// The wallet has its money, and the payer's is not collected: sluiced was not there to
	// see it, and lnd dies as well. The payer ends paid.
	t.Run("lnd and sluiced killed when the wallet is paid and the payer's money not collected", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before := w.purse(ctx)
		d := w.agree(ctx, receiverPays(), amount(), dealWish{held: true})
		d.pay(ctx)
		d.waitSent(ctx)
		require.NoError(t, sc.s.Kill())
		d.claim(ctx)
		d.waitGatewayPaid(ctx)
		sc.crashGateway(ctx, sc.Payer, w.node)
		require.Equal(t, lnrpc.Invoice_ACCEPTED, d.heldState(ctx))
		require.NoError(t, sc.s.Start(ctx))
		d.endsPaid(ctx, afterOutage)
		before.moved(ctx, d)
	})

	// lnd has recorded that it pays the wallet, and dies before the HTLC is in any
	// commitment: it waits for its outcome for ever. The payer is refunded, once that HTLC
	// can be in none any more.
	t.Run("lnd killed while it pays, before the HTLC is signed", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before := w.purse(ctx)
		peers := []*devnet.Node{sc.Payer, w.node}
		require.NoError(t, sc.Gateway.Stop(ctx))
		sc.gatewayBack(ctx, peers, "--channel-commit-interval=20s")
		require.NoError(t, sc.s.WaitReady(ctx))
		d := w.agree(ctx, receiverPays(), amount(), dealWish{})
		d.pay(ctx)
		d.waitAttempt(ctx)
		require.NoError(t, sc.Gateway.Kill())
		sc.Gateway.RemoveArg("--channel-commit-interval")
		sc.gatewayBack(ctx, peers)
		for range 10 {
			require.NoError(t, sc.Mine(ctx, 10))
		}
		require.Equal(t, lnrpc.Payment_FAILED, sc.mineUntilEnded(ctx, d.done).payment.Status)
		d.wasRefunded(ctx, "lost the payment to the wallet in a restart")
		require.Equal(t, lnrpc.Payment_IN_FLIGHT, d.gatewayPays(ctx).GetStatus(), "lnd's word for it")
		before.moved(ctx, d)
	})
	require.NoError(t, sc.Payer.WaitNoHTLCs(ctx))
	sc.op.waitBalancedInAll(ctx)
}

// outlive has payments wait for the wallet over an outage: they end paid, each over one
// channel.
func (sc *scene) outlive(ctx context.Context, w *person, amount func() ln.Msat, outage func(sc *scene)) {
	sc.t.Helper()
	before, channels := w.purse(ctx), w.channels(ctx)
	deals := w.agreeBothWays(ctx, amount, dealWish{})
	w.goOffline(ctx)
	for _, d := range deals {
		d.pay(ctx)
		d.waitHeld(ctx)
	}
	outage(sc)
	w.comeOnline(ctx)
	for _, d := range deals {
		d.endsPaid(ctx, afterOutage)
	}
	require.Equal(sc.t, channels+len(deals), w.channels(ctx), "one channel for one payment")
	before.moved(ctx, deals...)
}

// keeps gives the wallet payments that it does not claim yet.
func (p *person) keeps(ctx context.Context, amount func() ln.Msat) []*deal {
	p.t.Helper()
	deals := p.agreeBothWays(ctx, amount, dealWish{held: true})
	for _, d := range deals {
		d.pay(ctx)
		d.waitSent(ctx)
	}
	return deals
}

// gives has the wallet claim them, whose payers end paid.
func (p *person) gives(ctx context.Context, deals []*deal) {
	p.t.Helper()
	for _, d := range deals {
		d.claim(ctx)
	}
	for _, d := range deals {
		d.endsPaid(ctx, afterOutage)
	}
}

// TestRestartPostgres kills PostgreSQL under sluiced, alone and with all the
// others, and shows what ordinary forwards do without it.
func TestRestartPostgres(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	pg := startPostgres(ctx, t, net)
	dsn, err := pg.CreateDatabase(ctx, "sluice")
	require.NoError(t, err)
	config := patient()
	config.DSN = dsn
	sc := newSceneOn(ctx, t, net, config)
	w := sc.first(ctx)

	amount := growing(100_000_000, 100_000_000)
	t.Run("PostgreSQL killed while HTLCs are held", func(t *testing.T) {
		sc := sc.on(ctx, t)
		sc.outlive(ctx, w.in(sc), amount, func(*scene) {
			require.NoError(t, pg.Kill())
			require.NoError(t, pg.Start(ctx))
		})
	})
	// The wallet claims while nothing can be recorded.
	t.Run("PostgreSQL killed with the HTLCs at the wallet", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before := w.purse(ctx)
		deals := w.keeps(ctx, amount)
		require.NoError(t, pg.Kill())
		for _, d := range deals {
			d.claim(ctx)
		}
		require.NoError(t, pg.Start(ctx))
		for _, d := range deals {
			d.endsPaid(ctx, afterOutage)
		}
		before.moved(ctx, deals...)
	})
	t.Run("all killed while HTLCs are held", func(t *testing.T) {
		sc := sc.on(ctx, t)
		sc.outlive(ctx, w.in(sc), amount, func(sc *scene) {
			require.NoError(t, pg.Kill())
			require.NoError(t, sc.Gateway.Kill())
			require.NoError(t, sc.s.Kill())
			require.NoError(t, sc.Gateway.Start(ctx))
			require.NoError(t, pg.Start(ctx))
			require.NoError(t, sc.s.Start(ctx))
			sc.waitActive(ctx, sc.Payer)
		})
	})

	// Law 8 with PostgreSQL: forwards pass while the lease is valid. Then the
	// stream is given up, so that a standby that has the database may take it;
	// until somebody has, lnd fails forwards. With the database back, all is well.
	passed := t.Run("PostgreSQL gone for longer than the lease", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		sc.waitActive(ctx, w.node)
		w.knowsItsChannels(ctx)
		w.forwards(ctx, 1_000_000)
		require.NoError(t, pg.Kill())
		killed := time.Now()
		w.forwards(ctx, 1_000_000)
		waitGauge(ctx, t, sc.s, "sluice_interceptor_active", 0)
		t.Logf("the stream was given up %s after the database had gone", time.Since(killed).Round(time.Millisecond))
		payment, err := w.forward(ctx, 1_000_000)
		require.NoError(t, err)
		require.Equal(t, lnrpc.Payment_FAILED, payment.Status, "nobody may decide without a lease")
		require.NoError(t, pg.Start(ctx))
		back := time.Now()
		waitGauge(ctx, t, sc.s, "sluice_interceptor_connected", 1)
		t.Logf("the stream was back %s after the database", time.Since(back).Round(time.Millisecond))
		forget(ctx, t, w.node)
		w.forwards(ctx, 1_000_000)
	})
	if !passed {
		return
	}

	// A person restores a dump without stopping sluiced, or a replica takes over that had
	// not got everything. What the copy does not know was sent.
	t.Run("an older copy takes its place under sluiced", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		require.NoError(t, sc.s.WaitReady(ctx))
		before, channels := w.purse(ctx), w.channels(ctx)
		deals := w.sentSince(ctx, amount, func() { require.NoError(t, pg.CopyDatabase(ctx, "sluice", "older")) })
		ended := sc.s.Exited()
		require.NoError(t, pg.ReplaceDatabase(ctx, "older", "sluice"))
		replaced := time.Now()
		select {
		case <-ended:
		case <-ctx.Done():
			require.Fail(t, "sluiced goes on with a database that has forgotten what it did")
		}
		t.Logf("sluiced ended %s after it", time.Since(replaced).Round(time.Millisecond))
		require.Contains(t, readLog(t, sc.s), "the database has gone back in time while it was in use")
		require.NoError(t, sc.s.Start(ctx))
		require.Contains(t, sc.op.status(ctx).RestoredReason, "it went back while sluiced used it")
		sc.PayerLink.Flap()
		sc.crashGateway(ctx, sc.Payer, w.node)
		w.gives(ctx, deals)
		require.Equal(t, channels+len(deals), w.channels(ctx), "nothing is opened again")
		before.moved(ctx, deals...)
	})
	require.NoError(t, sc.s.WaitReady(ctx))
	require.NoError(t, sc.Payer.WaitNoHTLCs(ctx))
	sc.op.waitBalancedInAll(ctx)
}

// TestRestartSqlite shows law 8 on SQLite: while the file is locked for longer
// than the lease lives, ordinary forwards pass, what a handler wants is held,
// and all of it is done when the lock is gone. Then an older copy of the
// database is put back.
func TestRestartSqlite(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	sc := newScene(ctx, t, devnet.StandardConfig{}, patient())
	w := sc.first(ctx)
	first := w.negotiate(ctx, 200_000_000, offerWish{})
	sc.paid(sc.pay(ctx, w.invoice(ctx, first)), paidWithin)
	sc.waitEnd(ctx, first.PaymentId, "paid")
	w.knowsItsChannels(ctx)

	amount := growing(300_000_000, 50_000_000)
	t.Run("the database is locked", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		channels := w.channels(ctx)
		deals := w.agreeBothWays(ctx, amount, dealWish{})
		unlock := lockDatabase(ctx, t, filepath.Join(sc.s.Dir, "sluice.db"))
		locked := time.Now()
		w.forwards(ctx, 1_000_000)
		for _, d := range deals {
			d.pay(ctx)
		}
		waitGauge(ctx, t, sc.s, "sluice_interceptor_degraded", 1)
		t.Logf("the lease was gone %s after the lock", time.Since(locked).Round(time.Millisecond))
		for range 3 {
			w.forwards(ctx, 1_000_000)
		}
		for _, d := range deals {
			select {
			case o := <-d.done:
				require.Fail(t, "the payment ended although nothing could be recorded", "%v %v", o.payment, o.err)
			default:
			}
		}
		ends, ok := gauge(ctx, sc.s, "sluice_interceptor_stream_ends_total")
		require.True(t, ok)
		require.Zero(t, ends, "lnd's stream must survive the lock")
		unlock()
		for _, d := range deals {
			d.endsPaid(ctx, afterOutage)
		}
		require.Equal(t, channels+len(deals), w.channels(ctx))
	})

	// lnd has offered the one and accepted the other, no row says so. Nobody can have
	// resumed or paid for them, so the next process holds them, and their payers pay.
	t.Run("killed before payments that came were recorded", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before, channels := w.purse(ctx), w.channels(ctx)
		deals := w.agreeBothWays(ctx, amount, dealWish{})
		unlock := lockDatabase(ctx, t, filepath.Join(sc.s.Dir, "sluice.db"))
		for _, d := range deals {
			d.pay(ctx)
			if d.wrapped {
				d.waitAccepted(ctx)
			}
		}
		waitGauge(ctx, t, sc.s, "sluice_interceptor_unrecorded_htlcs", 1)
		require.NoError(t, sc.s.Kill())
		unlock()
		require.NoError(t, sc.s.Start(ctx))
		for _, d := range deals {
			d.endsPaid(ctx, afterOutage)
		}
		require.Equal(t, channels+len(deals), w.channels(ctx))
		before.moved(ctx, deals...)
	})

	// What the copy does not know was sent: a RESUME that is still in flight, a payment to
	// the wallet that is, and the channels that were opened for them.
	t.Run("an older copy is put back", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before, channels := w.purse(ctx), w.channels(ctx)
		deals := w.sentSince(ctx, amount, func() { copyDatabase(t, sc.s.Dir, sc.s.Dir+".copy") })

		sc.putBack(ctx)
		// The HTLC that the database calls held is at the wallet. Flaps and a
		// kill of lnd offer it again; nobody may fail it, nor give the hold invoice back.
		sc.PayerLink.Flap()
		sc.crashGateway(ctx, sc.Payer, w.node)
		w.gives(ctx, deals)
		require.Equal(t, channels+len(deals), w.channels(ctx), "nothing is opened again")
		before.moved(ctx, deals...)

		// And business goes on.
		next := w.negotiate(ctx, 1_000_000_000, offerWish{another: true})
		sc.paid(sc.pay(ctx, w.invoice(ctx, next)), paidWithin)
		sc.waitEnd(ctx, next.PaymentId, "paid")
	})

	// The copy has never heard of the agreement. The wallet is being paid from a hold
	// invoice that nobody knows; the payer must pay for it.
	t.Run("an older copy is put back that does not know the agreement", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before, channels := w.purse(ctx), w.channels(ctx)
		require.NoError(t, sc.s.Stop(ctx))
		copyDatabase(t, sc.s.Dir, sc.s.Dir+".copy")
		require.NoError(t, sc.s.Start(ctx))
		d := w.agree(ctx, receiverPays(), amount(), dealWish{held: true})
		d.pay(ctx)
		d.waitSent(ctx)
		sc.putBack(ctx)
		d.claim(ctx)
		m := sc.paid(d.done, afterOutage)
		d.spentMsat = ln.Msat(m.ValueMsat + m.FeeMsat) //nolint:gosec // a payment's
		require.Equal(t, channels+1, w.channels(ctx))
		before.moved(ctx, d)
		_, err := sc.op.api.ShowPayment(ctx, &lspv1.ShowPaymentRequest{IdOrHash: d.id})
		requireRefusal(t, err, "no such payment")
		require.Contains(t, readLog(t, sc.s), "which this database does not know: it is settled")
	})

	// As a snapshot of the machine does: what lies beside the database and would betray
	// its age goes back with it. Only lnd knows more.
	t.Run("the whole data directory is put back", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before := w.channels(ctx)
		o, bolt11 := w.holdOffer(ctx, 1_200_000_000)
		w.goOffline(ctx)
		done := sc.pay(ctx, bolt11)
		sc.waitMoment(ctx, o.PaymentId, moment{"jit", "collecting"})
		waitTrusted(ctx, t, sc.s) // after the day before
		require.NoError(t, sc.s.Stop(ctx))
		snapshot := sc.s.Dir + ".snapshot"
		copyDirectory(t, sc.s.Dir, snapshot)
		require.NoError(t, sc.s.Start(ctx))
		require.Empty(t, sc.op.status(ctx).RestoredReason)
		w.comeOnline(ctx)
		w.waitInvoice(ctx, o.preimage.Hash(), lnrpc.Invoice_ACCEPTED)
		sc.waitEnd(ctx, o.PaymentId, "forwarded")
		putBack := func() {
			require.NoError(t, sc.s.Kill())
			require.NoError(t, os.RemoveAll(sc.s.Dir))
			copyDirectory(t, snapshot, sc.s.Dir)
			require.NoError(t, sc.s.Start(ctx))
			require.Contains(t, sc.op.status(ctx).RestoredReason, "opened for "+o.PaymentId+", and the database has no such open")
		}

		// The channel is open, and the HTLC that the database calls held is at the wallet.
		putBack()
		require.Contains(t, sc.op.status(ctx).RestoredReason, "as held, and lnd has forwarded it")
		sc.PayerLink.Flap()
		sc.crashGateway(ctx, sc.Payer, w.node)
		w.claim(ctx, o)
		sc.paid(done, afterOutage)
		sc.waitEnd(ctx, o.PaymentId, "paid")
		require.Equal(t, before+1, w.channels(ctx), "nothing is opened again")

		// What was reconciled is not found again, though the channel still has no open on
		// record.
		waitTrusted(ctx, t, sc.s)
		require.NoError(t, sc.s.Stop(ctx))
		require.NoError(t, sc.s.Start(ctx))
		require.Empty(t, sc.op.status(ctx).RestoredReason)

		// Once more, now that it is over: the copy calls an HTLC held that is settled.
		putBack()
		sc.waitEnd(ctx, o.PaymentId, "paid")
		require.Equal(t, before+1, w.channels(ctx))
		waitTrusted(ctx, t, sc.s)

		next := w.negotiate(ctx, 1_400_000_000, offerWish{another: true})
		sc.paid(sc.pay(ctx, w.invoice(ctx, next)), paidWithin)
		sc.waitEnd(ctx, next.PaymentId, "paid")
	})
	require.NoError(t, sc.Payer.WaitNoHTLCs(ctx))
	sc.op.waitBalancedInAll(ctx)
}

// sentSince are payments of which a copy of the database says that their HTLCs are held
// and that no channel was opened for them. Since then they were sent to the wallet.
func (p *person) sentSince(ctx context.Context, amount func() ln.Msat, copies func()) []*deal {
	p.t.Helper()
	deals := p.agreeBothWays(ctx, amount, dealWish{held: true})
	p.goOffline(ctx)
	for _, d := range deals {
		d.pay(ctx)
		d.waitHeld(ctx)
	}
	require.NoError(p.t, p.sc.s.Stop(ctx))
	copies()
	require.NoError(p.t, p.sc.s.Start(ctx))
	p.comeOnline(ctx)
	for _, d := range deals {
		d.waitSent(ctx)
	}
	return deals
}

// putBack kills sluiced and puts the copy in the place of its database.
func (sc *scene) putBack(ctx context.Context) {
	sc.t.Helper()
	require.NoError(sc.t, sc.s.Kill())
	copyDatabase(sc.t, sc.s.Dir+".copy", sc.s.Dir)
	require.NoError(sc.t, sc.s.Start(ctx))
	require.Contains(sc.t, readLog(sc.t, sc.s), "the database is an older copy")
}

// copyDirectory is a snapshot of a directory that nobody writes to.
func copyDirectory(t *testing.T, from, to string) {
	t.Helper()
	text, err := exec.Command("cp", "-a", from, to).CombinedOutput()
	require.NoError(t, err, "%s", text)
}

// waitTrusted waits until the interceptor has accepted a restored database, in the run
// of sluiced that began last.
func waitTrusted(ctx context.Context, t *testing.T, s *devnet.Sluiced) {
	t.Helper()
	err := devnet.WaitFor(ctx, "the restored database to be trusted", func(context.Context) (bool, error) {
		text := readLog(t, s)
		for line := range strings.Lines(text[max(0, strings.LastIndex(text, "the database is an older copy")):]) {
			if strings.Contains(line, "was reconciled with lnd") && strings.Contains(line, "interceptor") {
				return true, nil
			}
		}
		return false, nil
	})
	require.NoError(t, err)
}

// lockDatabase holds SQLite's write lock, as a backup tool or a person with a
// shell might.
func lockDatabase(ctx context.Context, t *testing.T, path string) (unlock func()) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	require.NoError(t, err)
	conn, err := db.Conn(ctx)
	require.NoError(t, err)
	_, err = conn.ExecContext(ctx, "BEGIN IMMEDIATE")
	require.NoError(t, err)
	return func() {
		_, err := conn.ExecContext(ctx, "ROLLBACK")
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.NoError(t, db.Close())
	}
}

// copyDatabase copies a database that nobody has open, as a person would who
// copies its file and whatever SQLite left beside it.
func copyDatabase(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(to, 0o700))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		name := "sluice.db" + suffix
		if err := os.Remove(filepath.Join(to, name)); err != nil {
			require.ErrorIs(t, err, os.ErrNotExist)
		}
		in, err := os.Open(filepath.Join(from, name))
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err)
		out, err := os.OpenFile(filepath.Join(to, name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		require.NoError(t, err)
		_, err = io.Copy(out, in)
		require.NoError(t, err)
		require.NoError(t, errors.Join(in.Close(), out.Close()))
	}
}

func readLog(t *testing.T, s *devnet.Sluiced) string {
	t.Helper()
	text, err := os.ReadFile(s.LogFile())
	require.NoError(t, err)
	return string(text)
}
