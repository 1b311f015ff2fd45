package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sluice-lsp/sluice/interceptor/api/interceptorv1"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// HeldCmd lists what the interceptor holds.
type HeldCmd struct {
	Interceptor string `env:"SLUICECTL_INTERCEPTOR" placeholder:"HOST:PORT" help:"The interceptor's gRPC address, when it runs as a process of its own (as --server)."`
	All         bool   `short:"a" help:"Also those that are decided but that lnd still has."`
}

// heldPage is how many rows one call asks for.
const heldPage = 1000

// Run implements the command.
func (c HeldCmd) Run(w *world, g *Globals) error {
	at := *g
	if c.Interceptor != "" {
		at.Server = c.Interceptor
	}
	return at.with(func(s *session) error {
		api := interceptorv1.NewInterceptorClient(s.conn)
		status, err := call(w.ctx, s, api.GetStatus, &interceptorv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		rows, err := c.rows(w.ctx, s, api)
		if err != nil {
			return err
		}
		urgentFirst(rows)
		if g.JSON {
			return heldJSON(w, status, rows)
		}
		return printHeld(w, status, rows)
	})
}

// rows asks page by page. Undecided rows are asked for by their states, since
// far more may be resumed and still in flight.
func (c HeldCmd) rows(ctx context.Context, s *session, api interceptorv1.InterceptorClient) ([]*interceptorv1.Row, error) {
	states := []string{"held", "paying"}
	if c.All {
		states = []string{""}
	}
	var out []*interceptorv1.Row
	for _, state := range states {
		for after := int64(0); ; {
			page, err := call(ctx, s, api.ListRows, &interceptorv1.ListRowsRequest{State: state, OpenOnly: true, After: after, Limit: heldPage})
			if err != nil {
				return nil, err
			}
			out = append(out, page.GetRows()...)
			if len(page.GetRows()) < heldPage {
				break
			}
			after = page.GetRows()[len(page.GetRows())-1].GetId()
		}
	}
	return out, nil
}

// urgentFirst sorts by the height at which the interceptor fails the HTLC;
// what is decided comes after what is not.
func urgentFirst(rows []*interceptorv1.Row) {
	slices.SortStableFunc(rows, func(a, b *interceptorv1.Row) int {
		if da, db := decided(a), decided(b); da != db {
			if da {
				return 1
			}
			return -1
		}
		if a.GetFailHeight() != b.GetFailHeight() {
			return int(a.GetFailHeight()) - int(b.GetFailHeight())
		}
		return int(a.GetId() - b.GetId())
	})
}

func decided(r *interceptorv1.Row) bool { return r.GetState() != "held" && r.GetState() != "paying" }

func heldJSON(w *world, status *interceptorv1.GetStatusResponse, rows []*interceptorv1.Row) error {
	out := struct {
		Status json.RawMessage   `json:"status"`
		Rows   []json.RawMessage `json:"rows"`
	}{Rows: []json.RawMessage{}}
	var err error
	if out.Status, err = cli.Raw(status); err != nil {
		return err
	}
	for _, r := range rows {
		raw, err := cli.Raw(r)
		if err != nil {
			return err
		}
		out.Rows = append(out.Rows, raw)
	}
	return cli.WriteJSON(w.stdout, out)
}

func printHeld(w *world, status *interceptorv1.GetStatusResponse, rows []*interceptorv1.Row) error {
	p := w.printer()
	facts := cli.NewTable("", "")
	facts.Row("Interceptor", interceptorWords(status))
	facts.Row("Held", heldWords(status))
	if status.GetUnrecorded() > 0 {
		facts.Row("Waiting", fmt.Sprintf("%d new HTLCs wait for the database", status.GetUnrecorded()))
	}
	if status.GetAsked() > 0 {
		facts.Row("Asked", fmt.Sprintf("programs have yet to answer about %d forwards", status.GetAsked()))
	}
	if status.GetStreamEnds() > 0 {
		facts.Row("Stream", fmt.Sprintf("lost %s since start, the last time because: %s", times(status.GetStreamEnds()), status.GetLastStreamEnd()))
	}
	p.Table(facts)
	if len(rows) > 0 {
		p.Printf("\n")
		t := cli.NewTable("HTLC", "HASH", ">AMOUNT", ">BLOCKS LEFT", "FOR", "STATE", "HELD SINCE", "WHY")
		for _, r := range rows {
			key := ln.CircuitKey{ChanID: ln.SCID(r.GetKey().GetChanId()), HtlcID: r.GetKey().GetHtlcId()}
			t.Row(key.String(), cli.ShortHex(r.GetPaymentHash()), cli.MsatAsSat(r.GetIncomingMsat()), rowBlocksLeft(status, r),
				r.GetHandler(), rowState(r), cli.Ago(r.GetOfferedMs(), w.now()), r.GetReason())
		}
		p.Table(t)
	}
	if len(status.GetHandlers()) > 0 {
		p.Printf("\n")
		t := cli.NewTable("HANDLER", "ATTACHED", "WHILE AWAY", ">ROUTES", ">HELD")
		for _, h := range status.GetHandlers() {
			t.Row(h.GetName(), cli.YesNo(h.GetAttached()), h.GetOnAbsent(), fmt.Sprint(h.GetRoutes()), fmt.Sprint(h.GetHeld()))
		}
		p.Table(t)
	}
	if len(status.GetPrograms()) > 0 {
		p.Printf("\n")
		p.Table(programs(status.GetPrograms()))
	}
	return p.Err
}

// programs are those of others that share lnd's interceptor.
func programs(list []*interceptorv1.ProgramStatus) *cli.Table {
	t := cli.NewTable("PROGRAM", "ATTACHED", "WHILE AWAY", "WHEN SLOW", ">WAITING", ">ASKED", ">FAILED", ">SETTLED", ">SLOW", ">REFUSED", "LAST REFUSAL")
	for _, p := range list {
		attached := "no"
		switch {
		case p.GetHtlcs() && p.GetChannels():
			attached = "forwards, channels"
		case p.GetHtlcs():
			attached = "forwards"
		case p.GetChannels():
			attached = "channels"
		}
		t.Row(p.GetName(), attached, p.GetWhileAway(), p.GetWhenSlow(), fmt.Sprint(p.GetWaiting()), cli.Group(p.GetAsked()),
			cli.Group(p.GetFailed()), cli.Group(p.GetSettled()), cli.Group(p.GetLate()), cli.Group(p.GetRefused()), p.GetLastRefusal())
	}
	return t
}

// interceptorWords says whether the laws hold now, the worst first.
func interceptorWords(s *interceptorv1.GetStatusResponse) string {
	switch {
	case s.GetDegraded():
		return "DEGRADED: without its database or lease; only ordinary forwards pass"
	case !s.GetActive():
		return "standby: another process owns the lease"
	case !s.GetConnected():
		return "NOT CONNECTED to lnd: nothing is forwarded until it is"
	}
	return "attached to lnd"
}

func heldWords(s *interceptorv1.GetStatusResponse) string {
	if s.GetHeldHtlcs() == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%d HTLCs with %s; the most urgent has %d blocks left", s.GetHeldHtlcs(), cli.MsatAsSat(s.GetHeldMsat()), s.GetMinBlocksLeft())
}

// rowBlocksLeft counts to where the interceptor fails the HTLC; it is unknown
// before the first block and without meaning once that is decided.
func rowBlocksLeft(s *interceptorv1.GetStatusResponse, r *interceptorv1.Row) string {
	if s.GetHeight() == 0 || decided(r) {
		return "-"
	}
	return fmt.Sprint(int64(r.GetFailHeight()) - int64(s.GetHeight()))
}

func rowState(r *interceptorv1.Row) string {
	state := cli.Words(r.GetState())
	if r.GetOnChain() {
		state += ", on chain"
	}
	return state
}

func times(n uint64) string {
	if n == 1 {
		return "once"
	}
	return cli.Group(n) + " times"
}
