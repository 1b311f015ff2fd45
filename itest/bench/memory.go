package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

const (
	aimIdleMiB = 60
	aimReadyS  = 2
	// restarts of each kind are measured, and their median told.
	restarts = 3
)

func runMemory(ctx context.Context, b *bench) (_ result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 14*time.Minute)
	defer cancel()
	b.say("starting btcd and three lnds")
	net, err := devnet.StartStandardNet(ctx, devnet.StandardConfig{Net: devnet.Config{KeepDir: b.keep}, GatewayCoins: 10})
	if err != nil {
		return nil, err
	}
	defer func() { err = b.finish(&nodes{Net: net.Net}, err) }()
	s, err := startSluice(ctx, net.Net, net.Gateway, net.Wallet)
	if err != nil {
		return nil, err
	}
	defer s.hangUp()
	idle, err := settledMemory(ctx, s)
	if err != nil {
		return nil, err
	}
	b.say("idle: %s", idle)

	finished, open, err := playOnePayment(ctx, b, net, s)
	if err != nil {
		return nil, err
	}
	if err := s.daemon.Stop(ctx); err != nil {
		return nil, err
	}
	database := filepath.Join(s.daemon.Dir, "sluice.db")
	// One in twenty waits for its payer: what unfinished business costs counts too.
	waiting := b.stored / 20
	if err := multiply(ctx, database, finished, b.stored-waiting-1); err != nil {
		return nil, err
	}
	if err := multiply(ctx, database, open, waiting-1); err != nil {
		return nil, err
	}
	b.say("the database holds %d payments, %d of which wait for their payer", b.stored, waiting)

	cold, err := coldStarts(ctx, s)
	if err != nil {
		return nil, err
	}
	loaded, err := settledMemory(ctx, s)
	if err != nil {
		return nil, err
	}
	b.say("loaded: %s", loaded)
	count, err := listAll(ctx, s)
	if err != nil {
		return nil, err
	}
	if count != b.stored {
		return nil, fmt.Errorf("sluiced lists %d payments, %d were stored", count, b.stored)
	}
	listed, err := settledMemory(ctx, s)
	if err != nil {
		return nil, err
	}
	b.say("after an operator listed them all: %s", listed)
	warm, err := lndRestarts(ctx, b, net.Gateway, s)
	if err != nil {
		return nil, err
	}
	return memoryReport(b, [3]memory{idle, loaded, listed}, cold, warm)
}

// playOnePayment plays one payment to its end, its channel buried, and agrees
// on another; it returns what there is to multiply.
func playOnePayment(ctx context.Context, b *bench, net *devnet.Standard, s *sluice) (finished, open model, err error) {
	streams, stop := context.WithCancel(ctx)
	defer stop()
	acceptZeroConf(streams, s.wallet)
	n := &nodes{Net: net.Net, first: net.Gateway, payer: net.Payer, receiver: net.Wallet}
	paid, _, err := paySluice(ctx, n, s)
	if err != nil {
		return finished, open, err
	}
	if err := net.Mine(ctx, 8); err != nil {
		return finished, open, err
	}
	mined := time.Now()
	err = devnet.WaitFor(ctx, "the payment and its open to end", func(ctx context.Context) (bool, error) {
		// On a busy machine the transaction may have come after the first of those blocks.
		if time.Since(mined) > 2*time.Second {
			mined = time.Now()
			if err := net.Mine(ctx, 1); err != nil {
				return false, err
			}
		}
		shown, err := s.operator.ShowPayment(ctx, &lspv1.ShowPaymentRequest{IdOrHash: paid.paymentID})
		if err != nil {
			return false, err
		}
		done := shown.Payment.Terminal
		for _, o := range shown.Openings {
			done = done && o.Terminal
			if !o.Terminal {
				err = fmt.Errorf("the open is %s", o.State)
			}
		}
		return done, err
	})
	if err != nil {
		return finished, open, err
	}
	shown, err := s.operator.ShowPayment(ctx, &lspv1.ShowPaymentRequest{IdOrHash: paid.paymentID})
	if err != nil {
		return finished, open, err
	}
	secret, err := newSecret()
	if err != nil {
		return finished, open, err
	}
	agreed, err := s.negotiate(ctx, secret.hash, jitAmountMsat)
	if err != nil {
		return finished, open, err
	}
	b.say("one payment was played to its end, another agreed on")
	if finished, err = modelOf(paid.paymentID, paid.hash, shown.Payment.JitScid); err != nil {
		return finished, open, err
	}
	open, err = modelOf(agreed.PaymentId, secret.hash, agreed.JitScid)
	return finished, open, err
}

func modelOf(id string, hash ln.Hash, scid string) (model, error) {
	parsed, err := ln.ParseSCID(scid)
	return model{id: id, hash: hash, scid: parsed}, err
}

// listAll pages through every payment, as an operator's tool does.
func listAll(ctx context.Context, s *sluice) (int, error) {
	count, before := 0, ""
	for {
		page, err := s.operator.FindPayments(ctx, &lspv1.FindPaymentsRequest{Limit: 500, BeforeId: before})
		if err != nil {
			return count, fmt.Errorf("list payments: %w", err)
		}
		if len(page.Payments) == 0 {
			return count, nil
		}
		count += len(page.Payments)
		before = page.Payments[len(page.Payments)-1].PaymentId
	}
}

// coldStarts are the seconds from sluiced's start to ready, lnd running.
func coldStarts(ctx context.Context, s *sluice) ([]float64, error) {
	var took []float64
	for range restarts {
		if err := s.daemon.Stop(ctx); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := s.daemon.Start(ctx); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began).Seconds())
	}
	return took, nil
}

// lndRestarts are the seconds from lnd serving every call to sluiced doing
// business again, sluiced running all the while: attached to lnd's interceptor
// and calling itself ready.
func lndRestarts(ctx context.Context, b *bench, gateway *devnet.Node, s *sluice) ([]float64, error) {
	var took []float64
	for i := range restarts {
		if err := gateway.Stop(ctx); err != nil {
			return nil, err
		}
		if err := waitAttached(ctx, s, false); err != nil {
			return nil, err
		}
		if err := gateway.Start(ctx); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := errors.Join(waitAttached(ctx, s, true), s.daemon.WaitReady(ctx)); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began).Seconds())
		b.say("lnd restart %d of %d: sluiced ready %.2f s after lnd", i+1, restarts, took[i])
	}
	return took, nil
}

// waitAttached waits until sluiced's own gauge says that it is attached, or is not.
func waitAttached(ctx context.Context, s *sluice, attached bool) error {
	want := "sluice_interceptor_connected 0"
	if attached {
		want = "sluice_interceptor_connected 1"
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return devnet.WaitFor(ctx, "the metric "+want, func(ctx context.Context) (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.daemon.Admin+"/metrics", nil)
		if err != nil {
			return false, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, err
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		return strings.Contains(string(text), want), err
	})
}

// memory is what the kernel says of a process, in MiB.
type memory struct {
	residentMiB, anonMiB float64 // VmRSS, and its part that is no file's
}

func (m memory) String() string {
	return fmt.Sprintf("%.1f MiB resident, %.1f of it anonymous", m.residentMiB, m.anonMiB)
}

func memoryOf(pid int) (m memory, err error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return m, fmt.Errorf("memory of sluiced (needs Linux): %w", err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		kib, _, _ := strings.Cut(strings.TrimSpace(value), " ")
		n, err := strconv.ParseFloat(kib, 64)
		switch {
		case err != nil:
		case name == "VmRSS":
			m.residentMiB = n / 1024
		case name == "RssAnon":
			m.anonMiB = n / 1024
		}
	}
	return m, nil
}

// settledMemory reads once per second until it has not moved by half a MiB for
// five readings; a process that never settles within 45 s is taken at its most.
func settledMemory(ctx context.Context, s *sluice) (memory, error) {
	const calm, most = 5, 45
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var base, highest memory
	same := 0
	for range most {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return base, ctx.Err()
		}
		now, err := memoryOf(s.daemon.PID())
		if err != nil {
			return base, err
		}
		if now.residentMiB > highest.residentMiB {
			highest = now
		}
		if math.Abs(now.residentMiB-base.residentMiB) > 0.5 {
			base, same = now, 0
			continue
		}
		if same++; same == calm {
			return now, nil
		}
	}
	return highest, nil
}

func memoryReport(b *bench, m [3]memory, cold, warm []float64) (result, error) {
	fmt.Fprintln(b.out)
	table := tabwriter.NewWriter(b.out, 2, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "sluiced\tresident MiB\tanonymous MiB\t")
	for i, name := range []string{"idle, no payment stored", fmt.Sprintf("%d payments stored", b.stored), "and all listed once"} {
		fmt.Fprintf(table, "%s\t%.1f\t%.1f\t\n", name, m[i].residentMiB, m[i].anonMiB)
	}
	fmt.Fprintln(table, "\t\t\t")
	fmt.Fprintln(table, "ready after\tp50 s\tworst s\t")
	fmt.Fprintf(table, "lnd's restart\t%.2f\t%.2f\t\n", median(warm), quantile(warm, 1))
	fmt.Fprintf(table, "its own start\t%.2f\t%.2f\t\n", median(cold), quantile(cold, 1))
	if err := table.Flush(); err != nil {
		return nil, err
	}
	fmt.Fprintf(b.out, "\naims: under %d MiB idle, ready within %d s; no gate\n\n", aimIdleMiB, aimReadyS)
	var r result
	r.add("idle_mib", "%.1f", m[0].residentMiB)
	r.add("loaded_mib", "%.1f", m[1].residentMiB)
	r.add("ready_s", "%.2f", median(warm))
	r.add("listed_mib", "%.1f", m[2].residentMiB)
	r.add("idle_anon_mib", "%.1f", m[0].anonMiB)
	r.add("loaded_anon_mib", "%.1f", m[1].anonMiB)
	r.add("cold_start_s", "%.2f", median(cold))
	r.add("payments", "%d", b.stored)
	return r, nil
}
