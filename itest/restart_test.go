//go:build itest

package itest

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"os"
	"path/filepath"
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
		"open_requests_per_client", "open_requests", "unpaid_per_client_sat", "unpaid_sat", "held_per_client_sat", "held_sat",
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

// TestRestartLnd kills the gateway's lnd with an HTLC held, with one resumed,
// and together with sluiced.
func TestRestartLnd(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
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
	amount := ln.Msat(100_000_000)
	for _, k := range kills {
		t.Run(k.name+" killed while an HTLC is held", func(t *testing.T) {
			amount += 100_000_000
			sc := sc.on(ctx, t)
			w := w.in(sc)
			before := w.channels(ctx)
			o := w.negotiate(ctx, amount, offerWish{another: true})
			bolt11 := w.invoice(ctx, o)
			w.goOffline(ctx)
			done := sc.pay(ctx, bolt11)
			sc.waitMoment(ctx, o.PaymentId, moment{"jit", "collecting"})
			k.kill(sc)
			w.comeOnline(ctx)
			sc.paid(done, afterOutage)
			sc.waitEnd(ctx, o.PaymentId, "paid")
			require.Equal(t, before+1, w.channels(ctx))
		})
		// The HTLC is at the wallet, which has not claimed it. lnd offers it
		// again, and whatever else happens it must not be failed.
		t.Run(k.name+" killed right after the resume", func(t *testing.T) {
			amount += 100_000_000
			sc := sc.on(ctx, t)
			w := w.in(sc)
			before := w.channels(ctx)
			o, bolt11 := w.holdOffer(ctx, amount)
			done := sc.pay(ctx, bolt11)
			w.waitInvoice(ctx, o.preimage.Hash(), lnrpc.Invoice_ACCEPTED)
			k.kill(sc)
			sc.waitActive(ctx, sc.Payer, w.node)
			w.claim(ctx, o)
			sc.paid(done, afterOutage)
			sc.waitEnd(ctx, o.PaymentId, "paid")
			require.Equal(t, before+1, w.channels(ctx))
		})
		// The same with the wallet away when its HTLC is offered again, and the
		// payer's link flapping.
		t.Run(k.name+" killed after the resume, the wallet goes offline, the payer's link flaps", func(t *testing.T) {
			amount += 100_000_000
			sc := sc.on(ctx, t)
			w := w.in(sc)
			o, bolt11 := w.holdOffer(ctx, amount)
			done := sc.pay(ctx, bolt11)
			w.waitInvoice(ctx, o.preimage.Hash(), lnrpc.Invoice_ACCEPTED)
			w.goOffline(ctx)
			k.kill(sc)
			sc.PayerLink.Flap()
			sc.waitActive(ctx, sc.Payer)
			w.comeOnline(ctx)
			sc.waitActive(ctx, w.node)
			w.claim(ctx, o)
			sc.paid(done, afterOutage)
			sc.waitEnd(ctx, o.PaymentId, "paid")
		})
	}
	require.NoError(t, sc.Payer.WaitNoHTLCs(ctx))
	sc.op.waitBalancedInAll(ctx)
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

	amount := ln.Msat(100_000_000)
	held := func(t *testing.T, kill func(sc *scene)) {
		amount += 100_000_000
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before := w.channels(ctx)
		o := w.negotiate(ctx, amount, offerWish{another: true})
		bolt11 := w.invoice(ctx, o)
		w.goOffline(ctx)
		done := sc.pay(ctx, bolt11)
		sc.waitMoment(ctx, o.PaymentId, moment{"jit", "collecting"})
		kill(sc)
		w.comeOnline(ctx)
		sc.paid(done, afterOutage)
		sc.waitEnd(ctx, o.PaymentId, "paid")
		require.Equal(t, before+1, w.channels(ctx))
	}
	t.Run("PostgreSQL killed while an HTLC is held", func(t *testing.T) {
		held(t, func(sc *scene) {
			require.NoError(t, pg.Kill())
			require.NoError(t, pg.Start(ctx))
		})
	})
	t.Run("all killed while an HTLC is held", func(t *testing.T) {
		held(t, func(sc *scene) {
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

	t.Run("the database is locked", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before := w.channels(ctx)
		o := w.negotiate(ctx, 400_000_000, offerWish{another: true})
		bolt11 := w.invoice(ctx, o)
		unlock := lockDatabase(ctx, t, filepath.Join(sc.s.Dir, "sluice.db"))
		locked := time.Now()
		w.forwards(ctx, 1_000_000)
		done := sc.pay(ctx, bolt11)
		waitGauge(ctx, t, sc.s, "sluice_interceptor_degraded", 1)
		t.Logf("the lease was gone %s after the lock", time.Since(locked).Round(time.Millisecond))
		for range 3 {
			w.forwards(ctx, 1_000_000)
		}
		select {
		case o := <-done:
			require.Fail(t, "the payment ended although nothing could be recorded", "%v %v", o.payment, o.err)
		default:
		}
		ends, ok := gauge(ctx, sc.s, "sluice_interceptor_stream_ends_total")
		require.True(t, ok)
		require.Zero(t, ends, "lnd's stream must survive the lock")
		unlock()
		sc.paid(done, afterOutage)
		sc.waitEnd(ctx, o.PaymentId, "paid")
		require.Equal(t, before+1, w.channels(ctx))
	})

	// lnd has offered it, no row says so. Nobody can have resumed it, so the next
	// process holds it, and its payer is paid.
	t.Run("killed before a payment that came was recorded", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before := w.channels(ctx)
		o := w.negotiate(ctx, 600_000_000, offerWish{another: true})
		bolt11 := w.invoice(ctx, o)
		unlock := lockDatabase(ctx, t, filepath.Join(sc.s.Dir, "sluice.db"))
		done := sc.pay(ctx, bolt11)
		waitGauge(ctx, t, sc.s, "sluice_interceptor_unrecorded_htlcs", 1)
		require.NoError(t, sc.s.Kill())
		unlock()
		require.NoError(t, sc.s.Start(ctx))
		sc.paid(done, afterOutage)
		sc.waitEnd(ctx, o.PaymentId, "paid")
		require.Equal(t, before+1, w.channels(ctx))
	})

	// What the copy does not know was sent: a RESUME that is still in flight,
	// and a channel that was opened for it.
	t.Run("an older copy is put back", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		before := w.channels(ctx)
		o, bolt11 := w.holdOffer(ctx, 800_000_000)
		w.goOffline(ctx)
		done := sc.pay(ctx, bolt11)
		sc.waitMoment(ctx, o.PaymentId, moment{"jit", "collecting"})

		// The copy says: one HTLC is held, no channel was opened for it.
		require.NoError(t, sc.s.Stop(ctx))
		copyDatabase(t, sc.s.Dir, sc.s.Dir+".copy")
		require.NoError(t, sc.s.Start(ctx))
		w.comeOnline(ctx)
		w.waitInvoice(ctx, o.preimage.Hash(), lnrpc.Invoice_ACCEPTED)
		sc.waitEnd(ctx, o.PaymentId, "forwarded")

		require.NoError(t, sc.s.Kill())
		copyDatabase(t, sc.s.Dir+".copy", sc.s.Dir)
		require.NoError(t, sc.s.Start(ctx))
		require.Contains(t, readLog(t, sc.s), "the database is an older copy")
		// The HTLC that the database calls held is at the wallet. Flaps and a
		// kill of lnd offer it again; nobody may fail it.
		sc.PayerLink.Flap()
		sc.crashGateway(ctx, sc.Payer, w.node)
		w.claim(ctx, o)
		sc.paid(done, afterOutage)
		sc.waitEnd(ctx, o.PaymentId, "paid")
		require.Equal(t, before+1, w.channels(ctx), "nothing is opened again")

		// And business goes on.
		next := w.negotiate(ctx, 1_000_000_000, offerWish{another: true})
		sc.paid(sc.pay(ctx, w.invoice(ctx, next)), paidWithin)
		sc.waitEnd(ctx, next.PaymentId, "paid")
	})
	require.NoError(t, sc.Payer.WaitNoHTLCs(ctx))
	sc.op.waitBalancedInAll(ctx)
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
