package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/interceptor/api/interceptorv1"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// barCells is how wide the bars of exposures are.
const barCells = 20

// StatusCmd shows the overview once.
type StatusCmd struct{}

// Run implements the command.
func (StatusCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, s.op.GetStatus, &lspv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		text, err := statusText(got, interceptorStatus(w.ctx, s), w.now())
		if err != nil {
			return err
		}
		p := w.printer()
		p.Printf("%s", text)
		return p.Err
	})
}

// WatchCmd shows the overview until interrupted.
type WatchCmd struct {
	Interval time.Duration `default:"2s" help:"How often to ask (${default})."`
	Count    int           `placeholder:"N" help:"End after so many refreshes."`
}

// Run implements the command. An error of one refresh is shown in its place:
// whoever watches wants to see the server come back.
func (c WatchCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		screen := cli.NewScreen(w.stdout)
		ticker := time.NewTicker(max(c.Interval, 100*time.Millisecond))
		defer ticker.Stop()
		for n := 1; ; n++ {
			if err := c.refresh(w, g, s, screen); err != nil {
				return err
			}
			if n == c.Count {
				return nil
			}
			select {
			case <-w.ctx.Done():
				return nil
			case <-ticker.C:
			}
		}
	})
}

func (WatchCmd) refresh(w *world, g *Globals, s *session, screen *cli.Screen) error {
	got, err := call(w.ctx, s, s.op.GetStatus, &lspv1.GetStatusRequest{})
	switch {
	case w.ctx.Err() != nil:
		return nil //nolint:nilerr // interrupted: that is how watching ends
	case err != nil && g.JSON:
		return err
	case err != nil:
		return screen.Show(cli.Clean(err.Error()) + "\n")
	case g.JSON:
		return cli.WriteJSONLine(w.stdout, got)
	}
	text, err := statusText(got, interceptorStatus(w.ctx, s), w.now())
	if err != nil {
		return err
	}
	if !screen.Terminal() {
		// Without a terminal each change is a paragraph of its own.
		text += "\n"
	}
	return screen.Show(text)
}

// business says in words whether new business is accepted.
func business(s *lspv1.GetStatusResponse) string {
	if s.GetAccepting() {
		return "accepting new payments"
	}
	reason := ""
	if s.GetStoppedReason() != "" {
		reason = ": " + cli.Clean(s.GetStoppedReason())
	}
	if s.GetDrained() {
		return "stopped" + reason + " (drained: nothing of it is under way; swaps, joint fundings and payments for offline wallets are not counted)"
	}
	return "stopped" + reason + " (draining: what is under way goes on)"
}

// interceptorStatus asks the interceptor on the same server; nil when it runs
// elsewhere or does not answer, since the overview is worth having without.
func interceptorStatus(ctx context.Context, s *session) *interceptorv1.GetStatusResponse {
	got, err := call(ctx, s, interceptorv1.NewInterceptorClient(s.conn).GetStatus, &interceptorv1.GetStatusRequest{})
	if err != nil {
		return nil
	}
	return got
}

func statusText(s *lspv1.GetStatusResponse, held *interceptorv1.GetStatusResponse, now time.Time) (string, error) {
	var b strings.Builder
	p := &cli.Printer{W: &b}
	facts := cli.NewTable("", "")
	facts.Row("Gateway", cli.Hex(s.GetGatewayNodeKey()))
	facts.Row("Block", cli.Group(uint64(s.GetBlockHeight())))
	facts.Row("Business", business(s))
	if why := s.GetRestoredReason(); why != "" {
		facts.Row("Database", "an older copy was put back, and what it says of before is distrusted until the next start: "+cli.Clean(why))
	}
	if held != nil {
		facts.Row("Interceptor", interceptorWords(held))
		facts.Row("Held", heldWords(held))
	}
	facts.Row("Earned", fmt.Sprintf("%s in opening fees; %s paid in chain fees", cli.MsatAsSat(s.GetFeesEarnedMsat()), cli.MsatAsSat(s.GetChainFeesMsat())))
	facts.Row("Coins", fmt.Sprintf("%s for channels; %s kept to bump fees with", cli.Sat(s.GetUsableCoinsSat()), cli.Sat(s.GetAnchorReserveSat())))
	if pool := s.GetCoinPool(); pool != nil {
		facts.Row("Pool", poolWords(pool))
	}
	if t := s.GetFundingTrust(); t != nil {
		facts.Row("Fundings", trustWords(t))
	}
	priceFacts(facts, s, now)
	p.Table(facts)
	menuTable(p, s.GetMenu())

	if len(s.GetExposures()) > 0 {
		p.Printf("\n")
		p.Table(exposures(s.GetExposures()))
	}
	counts(p, "PAYMENTS", s.GetPaymentsByState())
	counts(p, "CHANNEL OPENS", s.GetOpeningsByState())
	return b.String(), p.Err
}

func exposures(list []*lspv1.Exposure) *cli.Table {
	t := cli.NewTable("EXPOSURE", ">NOW", ">CAP", "UNIT", ">USED", "")
	for _, e := range list {
		limit, used := "none", ""
		if percent, ok := cli.Percent(e.GetUsed(), e.GetCap()); ok {
			limit, used = cli.Group(e.GetCap()), fmt.Sprintf("%d %%", percent)
		}
		t.Row(cli.Words(e.GetKind()), cli.Group(e.GetUsed()), limit, unitWords(e.GetUnit()), used, cli.Bar(e.GetUsed(), e.GetCap(), barCells))
	}
	return t
}

func unitWords(unit string) string {
	switch unit {
	case "sat_blocks":
		return "sat·blocks"
	case "count":
		return ""
	}
	return unit
}

func counts(p *cli.Printer, title string, by map[string]uint64) {
	if len(by) == 0 {
		return
	}
	p.Printf("\n")
	t := cli.NewTable(title, ">COUNT")
	for _, state := range slices.Sorted(maps.Keys(by)) {
		t.Row(cli.Words(state), cli.Group(by[state]))
	}
	p.Table(t)
}

// statusOnce is for commands that poll.
func statusOnce(ctx context.Context, s *session) (*lspv1.GetStatusResponse, error) {
	return call(ctx, s, s.op.GetStatus, &lspv1.GetStatusRequest{})
}

// trustWords is when channels are funded, and what would change that.
func trustWords(t *lspv1.FundingTrust) string {
	unclaimed := fmt.Sprintf("%d channels of late that nobody paid for", t.GetUnclaimed())
	switch {
	case t.GetMode() == "always":
		return "withheld until their payment is claimed, always; " + unclaimed
	case t.GetMode() == "never":
		return "published at once, whatever happens; " + unclaimed
	case t.GetUnderAttack():
		return "UNDER ATTACK: withheld until their payment is claimed, for clients that have not paid yet; " + unclaimed
	case t.GetAttackFrom() > 0:
		return fmt.Sprintf("published at once; %s (an attack from %d)", unclaimed, t.GetAttackFrom())
	}
	return "published at once; " + unclaimed
}

// poolWords is how many channels can be opened now, and what is on its way.
func poolWords(p *lspv1.CoinPool) string {
	text := fmt.Sprintf("%d opens left before a block; %d of %d coins of %s ready", p.GetOpensLeft(), p.GetReady(), p.GetWanted(), cli.Sat(p.GetCoinSat()))
	if n := p.GetComing(); n > 0 {
		text += fmt.Sprintf(", %d with the next blocks", n)
	}
	if n := p.GetPromised(); n > 0 {
		text += fmt.Sprintf("; %d promised", n)
	}
	switch p.GetRefill() {
	case "next_block":
		text += "; full again with the next block"
	case "two_blocks":
		text += "; full again in two blocks, if a coin is large enough to be cut"
	case "cheap_blocks":
		text += "; it waits for cheap blocks to be filled"
	case "fee_rate":
		text += "; not filled while no fee rate can be trusted"
	}
	return text
}
