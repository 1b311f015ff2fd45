package main

import (
	"fmt"
	"strings"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
)

// SwapsCmd is what the operator sees of swaps.
type SwapsCmd struct {
	Status SwapsStatusCmd `cmd:"" help:"What swaps lock, expose to reorgs, and earned."`
	List   SwapsListCmd   `cmd:"" help:"Swaps that are not over, and at which height something is due."`
	Show   SwapsShowCmd   `cmd:"" help:"One swap's whole story."`
}

func swapsOf(s *session) swapsv1.SwapsOperatorServiceClient {
	return swapsv1.NewSwapsOperatorServiceClient(s.conn)
}

// SwapsStatusCmd shows sums.
type SwapsStatusCmd struct{}

// Run implements the command.
func (SwapsStatusCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, swapsOf(s).GetStatus, &swapsv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		t := cli.NewTable("", "")
		for _, d := range []struct {
			name      string
			open, sat uint64
			room      uint64
		}{{"Out", got.GetOpenOut(), got.GetOpenOutSat(), got.GetRoomOutSat()}, {"In", got.GetOpenIn(), got.GetOpenInSat(), got.GetRoomInSat()}} {
			t.Row(d.name, fmt.Sprintf("%s open, %s of %s; room for %s more", cli.Group(d.open), cli.Sat(d.sat), cli.Sat(got.GetMaxOpenSat()), cli.Sat(d.room)))
		}
		t.Row("Own liquidity", fmt.Sprintf("channels can receive %s and send %s; free coins %s", cli.Sat(got.GetInboundSat()), cli.Sat(got.GetOutboundSat()), cli.Sat(got.GetCoinsSat())))
		t.Row("", "a swap out moves coins into what channels can send, a swap in the reverse")
		if got.RefundBlocksLeft != nil {
			t.Row("Refunds under way", fmt.Sprintf("%d blocks left to the first deadline", got.GetRefundBlocksLeft()))
		}
		if got.ClaimBlocksLeft != nil {
			t.Row("Claims under way", fmt.Sprintf("%d blocks left to the first deadline", got.GetClaimBlocksLeft()))
		}
		if got.GetTroubled() > 0 {
			t.Row("Troubled", cli.Group(got.GetTroubled())+": see `sluicectl swaps list`")
		}
		t.Row("Exposed to reorgs", fmt.Sprintf("%s of %s", cli.Sat(got.GetExposedSat()), cli.Sat(got.GetMaxExposedSat())))
		t.Row("Fees earned", cli.SignedMsatAsSat(got.GetFeesMsat()))
		t.Row("Prepays of no-shows", cli.SignedMsatAsSat(got.GetNoShowMsat()))
		t.Row("Paid for routing", cli.SignedMsatAsSat(got.GetRoutingMsat()))
		t.Row("Lost", cli.SignedMsatAsSat(got.GetLossMsat()))
		t.Row("Height", cli.Group(uint64(got.GetHeight())))
		p := w.printer()
		p.Table(t)
		return p.Err
	})
}

// SwapsListCmd lists swaps.
type SwapsListCmd struct {
	Direction string `arg:"" optional:"" enum:"both,out,in" default:"both" help:"out, in or both."`
	All       bool   `help:"Those that are over, too."`
}

// Run implements the command.
func (c SwapsListCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		all := &swapsv1.ListSwapsResponse{}
		for _, d := range []swapsv1.Direction{swapsv1.Direction_DIRECTION_OUT, swapsv1.Direction_DIRECTION_IN} {
			if c.Direction != "both" && c.Direction != direction(d) {
				continue
			}
			for after := ""; ; {
				page, err := call(w.ctx, s, swapsOf(s).ListSwaps, &swapsv1.ListSwapsRequest{Direction: d, Live: !c.All, After: after})
				if err != nil {
					return err
				}
				if len(page.GetSwaps()) == 0 {
					break
				}
				all.Swaps = append(all.Swaps, page.GetSwaps()...)
				after = page.GetSwaps()[len(page.GetSwaps())-1].GetHash()
			}
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, all)
		}
		p := w.printer()
		if len(all.GetSwaps()) == 0 {
			p.Printf("There are none.\n")
			return p.Err
		}
		t := cli.NewTable("HASH", "", "STATE", ">AMOUNT", ">FEE", "SINCE", ">DUE AT", "WHAT IS DUE")
		for _, v := range all.GetSwaps() {
			due := ""
			if v.GetDueHeight() > 0 {
				due = cli.Group(uint64(v.GetDueHeight()))
			}
			text := strings.Trim(v.GetDue()+"; "+v.GetReason(), "; ")
			t.Row(v.GetHash()[:min(16, len(v.GetHash()))], direction(v.GetDirection()), v.GetState(), cli.Sat(v.GetAmountSat()), cli.Sat(v.GetFeeSat()),
				cli.Ago(v.GetCreatedMs(), w.now()), due, text)
		}
		p.Table(t)
		return p.Err
	})
}

func direction(d swapsv1.Direction) string {
	if d == swapsv1.Direction_DIRECTION_IN {
		return "in"
	}
	return "out"
}

// SwapsShowCmd shows one swap.
type SwapsShowCmd struct {
	Hash string `arg:"" help:"The swap's hash."`
}

// Run implements the command.
func (c SwapsShowCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, swapsOf(s).ShowSwap, &swapsv1.ShowSwapRequest{Hash: c.Hash})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		v := got.GetSwap()
		t := cli.NewTable("", "")
		t.Row("Swap "+direction(v.GetDirection()), v.GetHash())
		t.Row("State", strings.TrimSuffix(v.GetState()+": "+v.GetReason(), ": "))
		t.Row("Amount", fmt.Sprintf("%s, fee %s, prepay %s", cli.Sat(v.GetAmountSat()), cli.Sat(v.GetFeeSat()), cli.Sat(v.GetPrepaySat())))
		t.Row("Expires", "at height "+cli.Group(uint64(v.GetExpiryHeight())))
		if v.GetDueHeight() > 0 {
			t.Row("Due", fmt.Sprintf("at height %s %s", cli.Group(uint64(v.GetDueHeight())), v.GetDue()))
		}
		if v.GetOutpoint() != "" {
			t.Row("Output", v.GetOutpoint())
		}
		if v.GetConfirmedHeight() > 0 {
			t.Row("Confirmed", "at height "+cli.Group(uint64(v.GetConfirmedHeight())))
		}
		if v.GetSpent() != "" {
			t.Row("Spent", "by "+v.GetSpent())
		}
		if v.GetRoutingFeeMsat() > 0 {
			t.Row("Paid for routing", cli.SignedMsatAsSat(int64(v.GetRoutingFeeMsat()))) //nolint:gosec // a fee
		}
		for _, tx := range v.GetTransactions() {
			text := fmt.Sprintf("%s, %s of it for this swap", tx.GetTxid(), cli.Sat(tx.GetFeeSat()))
			if tx.GetSpends() {
				text += ", in the chain"
			}
			t.Row("Transaction: "+tx.GetWhat(), text)
		}
		t.Row("Begun", cli.Time(v.GetCreatedMs()))
		t.Row("Client", fmt.Sprintf("%q", v.GetClient()))
		p := w.printer()
		p.Table(t)
		p.Printf("\n")
		t = cli.NewTable("TIME", "EVENT", "STATE", "WHAT IT ASKED FOR")
		for _, step := range got.GetStory() {
			t.Row(cli.Time(step.GetAtMs()), cli.Words(step.GetEvent()), step.GetTo(), strings.Join(step.GetEffects(), ", "))
		}
		p.Table(t)
		return p.Err
	})
}
