//go:build itest

package itest

import (
	"context"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// takeOverWithin is far below the 80 s that a frozen owner kept lnd's stream
// for without pings, and above the lease and lnd's pings (2 s and 4 s) together.
const takeOverWithin = 15 * time.Second

// replica is one of two sluiceds that share a database.
type replica struct {
	*devnet.Sluiced
	database *devnet.Link
	sc       *scene
	w        *person
}

// TestStandbyTakesOver has two sluiceds on one PostgreSQL. The owner is killed,
// frozen, and cut off from the database, each time with an HTLC held; the
// standby completes the payment, and the former owner decides nothing.
func TestStandbyTakesOver(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	pg := startPostgres(ctx, t, net)
	dsn, err := pg.CreateDatabase(ctx, "sluice")
	require.NoError(t, err)

	start := func(name string) *replica {
		at, err := url.Parse(dsn)
		require.NoError(t, err)
		link, err := devnet.NewLink(at.Host)
		require.NoError(t, err)
		net.OnClose(link.Close)
		at.Host = link.Addr()
		config := patient()
		config.Name, config.DSN, config.NoWait = name, at.String(), true
		config.Settings["interceptor.lease_for"] = "3s"
		s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), config)
		require.NoError(t, err)
		return &replica{Sluiced: s, database: link}
	}
	attach := func(r *replica) {
		require.NoError(t, devnet.WaitFor(ctx, r.Name()+" to serve", func(context.Context) (bool, error) {
			_, err := os.Stat(r.Macaroon)
			return err == nil, err
		}))
		r.sc = &scene{Standard: net, t: t, s: r.Sluiced, op: newOperator(t, r.Sluiced)}
		r.w = r.sc.first(ctx)
	}
	owner := start("sluiced-a")
	require.NoError(t, owner.WaitReady(ctx))
	attach(owner)
	owner.sc.op.reconcile(ctx)
	standby := start("sluiced-b")
	waitGauge(ctx, t, standby.Sluiced, "sluice_interceptor_active", 0)
	attach(standby)

	amount := ln.Msat(100_000_000)
	for _, outage := range []struct {
		name        string
		begin, heal func(r *replica)
	}{
		{
			"killed",
			func(r *replica) { require.NoError(t, r.Kill()) },
			func(r *replica) { require.NoError(t, r.Start(ctx)) },
		},
		{
			"frozen",
			func(r *replica) { require.NoError(t, r.Freeze()) },
			func(r *replica) { require.NoError(t, r.Thaw()) },
		},
		{
			"cut off from the database",
			func(r *replica) { r.database.Stall() },
			func(r *replica) { r.database.Restore() },
		},
		{
			"stopped in an orderly way",
			func(r *replica) { require.NoError(t, r.Stop(ctx)) },
			func(r *replica) { require.NoError(t, r.Start(ctx)) },
		},
	} {
		ok := t.Run("owner "+outage.name, func(t *testing.T) {
			amount += 100_000_000
			before, after := owner.sc.on(ctx, t), standby.sc.on(ctx, t)
			w := owner.w.in(before)
			channels := w.channels(ctx)
			o := w.negotiate(ctx, amount, offerWish{another: true})
			bolt11 := w.invoice(ctx, o)
			w.goOffline(ctx)
			done := before.pay(ctx, bolt11)
			before.waitMoment(ctx, o.PaymentId, moment{"jit", "collecting"})

			outage.begin(owner)
			began := time.Now()
			waitGauge(ctx, t, standby.Sluiced, "sluice_interceptor_active", 1)
			lease := time.Since(began)
			waitGauge(ctx, t, standby.Sluiced, "sluice_interceptor_connected", 1)
			stream := time.Since(began)
			require.NoError(t, standby.WaitReady(ctx))
			t.Logf("owner %s: the standby had the lease after %s, lnd's stream after %s, and did business after %s", outage.name,
				lease.Round(time.Millisecond), stream.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
			require.Less(t, stream, takeOverWithin)

			// The former owner comes back while the payment is still held, so
			// that both could decide.
			outage.heal(owner)
			waitGauge(ctx, t, owner.Sluiced, "sluice_interceptor_active", 0)
			require.False(t, ready(ctx, owner.Sluiced))
			w.comeOnline(ctx)
			after.paid(done, afterOutage)
			after.waitEnd(ctx, o.PaymentId, "paid")
			require.Equal(t, channels+1, w.channels(ctx))
			connected, ok := gauge(ctx, standby.Sluiced, "sluice_interceptor_connected")
			require.True(t, ok)
			require.EqualValues(t, 1, connected)
			require.False(t, ready(ctx, owner.Sluiced))

			// The standby does business of its own.
			amount += 100_000_000
			own := standby.w.in(after)
			next := own.negotiate(ctx, amount, offerWish{another: true})
			after.paid(after.pay(ctx, own.invoice(ctx, next)), paidWithin)
			owner, standby = standby, owner
		})
		if !ok {
			return
		}
	}
	require.NoError(t, net.Payer.WaitNoHTLCs(ctx))
	owner.sc.op.waitBalanced(ctx)
}

// TestStandbyInterceptorApart runs the interceptor as a process of its own.
// Whatever happens to the services, lnd's stream stays.
func TestStandbyInterceptorApart(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	hold, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{
		Name: "interceptor", Services: []string{"interceptor"},
	})
	require.NoError(t, err)
	config := patient()
	config.Name, config.Services = "lsp", []string{"lsp"}
	for key, value := range map[string]string{"address": hold.GRPC, "tls_cert": hold.TLSCert, "macaroon_file": hold.Macaroon} {
		config.Settings["interceptor."+key] = value
	}
	sc := newSceneOn(ctx, t, net, config)
	w := sc.first(ctx)

	t.Run("a payment opens its channel", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		o := w.negotiate(ctx, 200_000_000, offerWish{})
		sc.paid(sc.pay(ctx, w.invoice(ctx, o)), paidWithin)
		sc.waitEnd(ctx, o.PaymentId, "paid")
	})
	t.Run("lsp killed while an HTLC is held", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		o := w.negotiate(ctx, 400_000_000, offerWish{another: true})
		bolt11 := w.invoice(ctx, o)
		w.goOffline(ctx)
		done := sc.pay(ctx, bolt11)
		sc.waitMoment(ctx, o.PaymentId, moment{"jit", "collecting"})
		sc.crash(ctx)
		w.comeOnline(ctx)
		sc.paid(done, afterOutage)
		sc.waitEnd(ctx, o.PaymentId, "paid")
	})
	t.Run("lsp away when an HTLC comes: forwards pass, the HTLC waits", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		o := w.negotiate(ctx, 800_000_000, offerWish{another: true})
		bolt11 := w.invoice(ctx, o)
		w.knowsItsChannels(ctx)
		require.NoError(t, sc.s.Kill())
		done := sc.pay(ctx, bolt11)
		waitGauge(ctx, t, hold, "sluice_interceptor_held_htlcs", 1)
		w.forwards(ctx, 1_000_000)
		require.NoError(t, sc.s.Start(ctx))
		sc.paid(done, afterOutage)
		sc.waitEnd(ctx, o.PaymentId, "paid")
	})
	ends, ok := gauge(ctx, hold, "sluice_interceptor_stream_ends_total")
	require.True(t, ok)
	require.Zero(t, ends, "lnd's stream must survive the services")

	t.Run("interceptor killed while an HTLC is held", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		o := w.negotiate(ctx, 1_200_000_000, offerWish{another: true})
		bolt11 := w.invoice(ctx, o)
		w.goOffline(ctx)
		done := sc.pay(ctx, bolt11)
		sc.waitMoment(ctx, o.PaymentId, moment{"jit", "collecting"})
		require.NoError(t, hold.Kill())
		require.NoError(t, hold.Start(ctx))
		w.comeOnline(ctx)
		sc.paid(done, afterOutage)
		sc.waitEnd(ctx, o.PaymentId, "paid")
	})
	require.NoError(t, net.Payer.WaitNoHTLCs(ctx))
	sc.op.waitBalanced(ctx)
}
