package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// BusinessCmd is the one switch for new business: agreements with wallets, channel
// orders, and swaps that open a channel. Other services have none.
type BusinessCmd struct {
	Stop  StopCmd  `cmd:"" help:"Refuse new agreements, channel orders and swaps that open a channel; what is under way goes on, and so do other services."`
	Start StartCmd `cmd:"" help:"Accept new business again."`
}

// StopCmd refuses new business.
type StopCmd struct {
	Reason string `required:"" placeholder:"TEXT" help:"Why; clients read it."`
}

// StartCmd accepts new business.
type StartCmd struct {
	Reason string `placeholder:"TEXT" help:"Why, for the log."`
}

// Run implements the command.
func (c StopCmd) Run(w *world, g *Globals) error { return setBusiness(w, g, false, c.Reason) }

// Run implements the command.
func (c StartCmd) Run(w *world, g *Globals) error { return setBusiness(w, g, true, c.Reason) }

func setBusiness(w *world, g *Globals, accepting bool, reason string) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, s.op.SetBusiness, &lspv1.SetBusinessRequest{Accepting: accepting, Reason: reason})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		if got.GetAccepting() {
			p.Printf("New business is accepted.\n")
		} else {
			p.Printf("New business is refused: agreements, channel orders, swaps that open a channel. What is under way goes on; \"sluicectl drain --wait\" waits for its end.\n" +
				"Other swaps, joint fundings, payments for offline wallets and sales of the watchtower are not stopped.\n")
		}
		return p.Err
	})
}

// maxPage is the longest page that the server gives.
const maxPage = 500

// DrainCmd stops new business and waits for the end of what the switch covers.
type DrainCmd struct {
	Reason   string        `default:"The gateway is being drained for maintenance." placeholder:"TEXT" help:"Why; clients read it."`
	Wait     bool          `help:"Wait until no payment of an agreement is held, no order waits and no channel is being opened. Swaps, joint fundings, payments for offline wallets and HTLCs of programs are not waited for."`
	Interval time.Duration `default:"1s" help:"How often to ask while waiting (${default})."`
	For      time.Duration `placeholder:"DURATION" help:"Give up waiting after this long, with exit code 1; business stays stopped."`
}

// Run implements the command.
func (c DrainCmd) Run(w *world, g *Globals) error {
	if !c.Wait {
		return setBusiness(w, g, false, c.Reason)
	}
	return g.with(func(s *session) error {
		if _, err := call(w.ctx, s, s.op.SetBusiness, &lspv1.SetBusinessRequest{Reason: c.Reason}); err != nil {
			return err
		}
		return c.wait(w, g, s)
	})
}

func (c DrainCmd) wait(w *world, g *Globals, s *session) error {
	// Progress goes to standard error: with --json standard output holds the
	// final status only.
	screen := cli.NewScreen(w.stderr)
	ticker := time.NewTicker(max(c.Interval, 100*time.Millisecond))
	defer ticker.Stop()
	var late <-chan time.Time
	if c.For > 0 {
		timer := time.NewTimer(c.For)
		defer timer.Stop()
		late = timer.C
	}
	for {
		got, err := statusOnce(w.ctx, s)
		var text string
		switch {
		case w.ctx.Err() != nil:
			return errStillStopped("interrupted")
		case err != nil:
			// The server may be restarting; whoever waits decides how long.
			text = "waiting: " + cli.Clean(err.Error()) + "\n"
		case got.GetAccepting():
			return fmt.Errorf("somebody started new business again, so the gateway does not drain: agree with them and run this again")
		case got.GetDrained():
			if g.JSON {
				return cli.WriteJSON(w.stdout, got)
			}
			p := w.printer()
			p.Printf("%s", drained)
			return p.Err
		default:
			left, err := underWay(w.ctx, s)
			if err != nil {
				left = cli.Clean(err.Error())
			}
			text = "draining: " + left + "\n"
		}
		if err := screen.Show(text); err != nil {
			return err
		}
		select {
		case <-w.ctx.Done():
			return errStillStopped("interrupted")
		case <-late:
			return errStillStopped("not drained after " + cli.Duration(c.For))
		case <-ticker.C:
		}
	}
}

// drained is what the server's word covers (GetStatusResponse.drained), and where the
// rest is shown.
const drained = `Drained: no payment of an agreement is held, no order waits, and no channel is being opened.
Not counted are swaps, joint fundings, payments for offline wallets and HTLCs of programs:
see "sluicectl swaps list", "sluicectl fundings --open", "sluicectl holds", "sluicectl held".
sluiced may be stopped; with any of those under way only for as long as a restart takes: swaps have deadlines on chain.
`

func errStillStopped(why string) error {
	return fmt.Errorf("%s; new business stays stopped (\"sluicectl business start\" accepts it again, \"sluicectl payments --open\" lists what is under way)", why)
}

// underWay counts what still has to end, by state.
func underWay(ctx context.Context, s *session) (string, error) {
	payments, err := call(ctx, s, s.op.FindPayments, &lspv1.FindPaymentsRequest{OpenOnly: true, Limit: maxPage})
	if err != nil {
		return "", err
	}
	opens, err := call(ctx, s, s.op.ListOpenings, &lspv1.ListOpeningsRequest{OpenOnly: true, Limit: maxPage})
	if err != nil {
		return "", err
	}
	byState := map[string]int{}
	for _, p := range payments.GetPayments() {
		byState["payments "+cli.Words(p.GetState())]++
	}
	for _, o := range opens.GetOpenings() {
		byState["channel opens "+cli.Words(o.GetState())]++
	}
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(byState)) {
		parts = append(parts, fmt.Sprintf("%s: %d", what, byState[what]))
	}
	if len(parts) == 0 {
		return "nothing is listed any more, the server is finishing", nil
	}
	return strings.Join(parts, ", "), nil
}

// ReconcileCmd compares the books with lnd.
type ReconcileCmd struct{}

// Run implements the command.
func (ReconcileCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := reconcile(w, s)
		if err != nil {
			return err
		}
		if g.JSON {
			err = cli.WriteJSON(w.stdout, got)
		} else {
			err = printReconciliation(w.printer(), got)
		}
		if err == nil && !got.GetBalanced() {
			return exitCode(1)
		}
		return err
	})
}

// quiet is how long a reconciliation may take before it says what it does.
const quiet = 2 * time.Second

// reconcile asks for the comparison. lnd's history may be long the first time:
// what is being read goes to standard error meanwhile.
func reconcile(w *world, s *session) (*lspv1.ReconcileResponse, error) {
	done := make(chan struct{})
	var showing sync.WaitGroup
	showing.Go(func() {
		screen := cli.NewScreen(w.stderr)
		timer := time.NewTimer(quiet)
		defer timer.Stop()
		for {
			select {
			case <-done:
				return
			case <-timer.C:
				timer.Reset(time.Second)
			}
			p, err := call(w.ctx, s, s.op.GetReconcileProgress, &lspv1.GetReconcileProgressRequest{})
			if err == nil && p.GetStep() != "" {
				_ = screen.Show(fmt.Sprintf("reconciling: %s, %d entries\n", cli.Clean(p.GetStep()), p.GetEntries()))
			}
		}
	})
	defer showing.Wait()
	defer close(done)
	return callFor(w.ctx, s, reconcileFor, s.op.Reconcile, &lspv1.ReconcileRequest{})
}

// reconcileFor is long enough to read years of history.
const reconcileFor = time.Hour

func printReconciliation(p *cli.Printer, got *lspv1.ReconcileResponse) error {
	t := cli.NewTable("ACCOUNT", ">BOOKS", ">LND", ">DIFFERENCE", "NOTE")
	for _, l := range got.GetLines() {
		difference := "0"
		if l.GetDifferenceMsat() != 0 {
			difference = cli.SignedMsatAsSat(l.GetDifferenceMsat())
		}
		t.Row(l.GetAccount(), cli.SignedMsatAsSat(l.GetBooksMsat()), cli.SignedMsatAsSat(l.GetLndMsat()), difference, l.GetNote())
	}
	p.Table(t)
	if len(got.GetDetails()) > 0 {
		p.Printf("\nWhere it differs, as far as lnd's records tell:\n\n")
		details := cli.NewTable("ACCOUNT", ">BOOKS", ">LND", ">DIFFERENCE", "ABOUT", "NOTE")
		for _, d := range got.GetDetails() {
			details.Row(d.GetAccount(), cli.SignedMsatAsSat(d.GetBooksMsat()), cli.SignedMsatAsSat(d.GetLndMsat()),
				cli.SignedMsatAsSat(d.GetDifferenceMsat()), d.GetReference(), d.GetNote())
		}
		p.Table(details)
	}
	switch {
	case got.GetBalanced():
		p.Printf("\nThe books equal lnd to the sat.\n")
	case got.GetInFlight():
		p.Printf("\nThe books differ from lnd, but something was in flight: run this again in a moment, or after \"sluicectl drain --wait\".\n")
	default:
		p.Printf("\nThe books differ from lnd and nothing was in flight. Stop new business (sluicectl business stop) and find out why before you go on.\n")
	}
	return p.Err
}
