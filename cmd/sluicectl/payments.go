package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// Page are the flags of lists.
type Page struct {
	Limit  uint32 `short:"n" default:"50" help:"At most so many, up to 500 (${default})."`
	Before string `placeholder:"ID" help:"Only those older than this one, for the next page."`
	Open   bool   `help:"Leave out those that are over."`
}

// more says how to get the next page, when there may be one.
func (g Page) more(p *cli.Printer, n int, last string) {
	if n > 0 && uint32(n) >= g.Limit { //nolint:gosec // a page
		p.Printf("There may be more: add --before %s\n", cli.Clean(last))
	}
}

// PaymentsCmd lists payments.
type PaymentsCmd struct {
	Page
	Client string `placeholder:"KEY" help:"Only those of the wallet with this node key (66 hex digits)."`
	State  string `placeholder:"STATE" help:"Only those in this state, such as collecting, accepted, opening, paying, lost; docs/protocol.md lists them."`
	Hash   string `placeholder:"HASH" help:"Only those with this payment hash (64 hex digits)."`
}

func (c PaymentsCmd) request() (*lspv1.FindPaymentsRequest, error) {
	req := &lspv1.FindPaymentsRequest{Limit: c.Limit, BeforeId: c.Before, OpenOnly: c.Open, State: c.State}
	if c.Client != "" {
		key, err := ln.ParsePubKey(c.Client)
		if err != nil {
			return nil, fmt.Errorf("--client: %w", err)
		}
		req.ClientNodeKey = key[:]
	}
	if c.Hash != "" {
		hash, err := ln.ParseHash(c.Hash)
		if err != nil {
			return nil, fmt.Errorf("--hash: %w", err)
		}
		req.PaymentHash = hash[:]
	}
	return req, nil
}

// Validate makes a malformed key or hash a wrong command line.
func (c PaymentsCmd) Validate() error {
	_, err := c.request()
	return err
}

// Run implements the command.
func (c PaymentsCmd) Run(w *world, g *Globals) error {
	req, err := c.request()
	if err != nil {
		return err
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, s.op.FindPayments, req)
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		if len(got.GetPayments()) == 0 {
			p.Printf("No payments match.\n")
			return p.Err
		}
		t := cli.NewTable("PAYMENT", "CLIENT", "HASH", ">AMOUNT", ">FEE", "PAID BY", "STATE", ">BLOCKS LEFT", "UPDATED", "WHY")
		for _, x := range got.GetPayments() {
			t.Row(x.GetPaymentId(), cli.ShortHex(x.GetClientNodeKey()), cli.ShortHex(x.GetPaymentHash()),
				cli.MsatAsSat(x.GetAmountMsat()), cli.MsatAsSat(x.GetFeeMsat()), payerOf(x.GetMode()),
				cli.Words(x.GetState()), blocksLeft(x), cli.Ago(x.GetUpdatedMs(), w.now()), x.GetReason())
		}
		p.Table(t)
		c.more(p, len(got.GetPayments()), got.GetPayments()[len(got.GetPayments())-1].GetPaymentId())
		return p.Err
	})
}

func payerOf(m lspv1.PaymentMode) string {
	switch m {
	case lspv1.PaymentMode_PAYMENT_MODE_PAYER_PAYS:
		return "payer"
	case lspv1.PaymentMode_PAYMENT_MODE_RECEIVER_PAYS:
		return "receiver"
	case lspv1.PaymentMode_PAYMENT_MODE_UNSPECIFIED:
	}
	return "-"
}

func blocksLeft(x *lspv1.Payment) string {
	if x.GetBlocksLeft() == 0 {
		return "-"
	}
	return fmt.Sprint(x.GetBlocksLeft())
}

// PaymentCmd shows one payment.
type PaymentCmd struct {
	ID string `arg:"" name:"id-or-hash" help:"The payment's id, or its payment hash."`
}

// Run implements the command.
func (c PaymentCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, s.op.ShowPayment, &lspv1.ShowPaymentRequest{IdOrHash: strings.TrimSpace(c.ID)})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		p.Table(paymentFacts(got.GetPayment(), w.now()))
		if len(got.GetStory()) > 0 {
			p.Printf("\n")
			p.Table(story(got.GetStory()))
		}
		if len(got.GetOpenings()) > 0 {
			p.Printf("\n")
			p.Table(openings(got.GetOpenings(), w.now()))
		}
		return p.Err
	})
}

func paymentFacts(x *lspv1.Payment, now time.Time) *cli.Table {
	t := cli.NewTable("", "")
	t.Row("Payment", x.GetPaymentId())
	t.Row("Client", cli.Hex(x.GetClientNodeKey()))
	t.Row("Hash", cli.Hex(x.GetPaymentHash()))
	t.Row("State", cli.Words(x.GetState())+over(x.GetTerminal()))
	t.Row("Why", x.GetReason())
	t.Row("Amount", cli.MsatAsSat(x.GetAmountMsat())+" to the wallet")
	fee := cli.MsatAsSat(x.GetFeeMsat())
	if payer := payerOf(x.GetMode()); payer != "-" {
		fee += ", paid by the " + payer
	}
	t.Row("Opening fee", fee)
	if !x.GetTerminal() {
		t.Row("Held now", cli.MsatAsSat(x.GetReceivedMsat())+" from payers")
	}
	t.Row("Agreed", cli.Time(x.GetCreatedMs())+" UTC, "+cli.Ago(x.GetCreatedMs(), now))
	t.Row("Updated", cli.Time(x.GetUpdatedMs())+" UTC, "+cli.Ago(x.GetUpdatedMs(), now))
	t.Row("Lapses", cli.Time(x.GetExpiresMs())+" UTC")
	if x.GetBlocksLeft() != 0 {
		t.Row("Blocks left", fmt.Sprintf("%d until the payer is refunded", x.GetBlocksLeft()))
	}
	if x.GetJitScid() != "" {
		t.Row("Hint's SCID", x.GetJitScid())
	}
	if x.GetFundingOutpoint() != "" {
		t.Row("Channel", x.GetFundingOutpoint())
	}
	return t
}

func over(terminal bool) string {
	if terminal {
		return " (over)"
	}
	return ""
}

// story shows each event with the time since the one before it, so that what
// took long stands out.
func story(events []*lspv1.StoryEvent) *cli.Table {
	t := cli.NewTable("TIME (UTC)", ">AFTER", "WHOSE", "EVENT", "STATE", "WHY")
	var before int64
	for _, e := range events {
		after := ""
		if before != 0 {
			after = cli.Duration(time.Duration(e.GetAtMs()-before) * time.Millisecond)
		}
		before = e.GetAtMs()
		change := cli.Words(e.GetTo())
		if e.GetFrom() != "" && e.GetFrom() != e.GetTo() {
			change = cli.Words(e.GetFrom()) + " -> " + change
		}
		t.Row(cli.Time(e.GetAtMs()), after, cli.Words(e.GetMachine()), cli.Words(e.GetEvent()), change, e.GetReason())
	}
	return t
}

// OpeningsCmd lists channel opens.
type OpeningsCmd struct {
	Page
	Unpaid bool   `help:"Only those that nobody paid for yet: they count against limits."`
	Client string `placeholder:"KEY" help:"Only those for the wallet with this node key (66 hex digits)."`
}

// Run implements the command.
func (c OpeningsCmd) Run(w *world, g *Globals) error {
	req := &lspv1.ListOpeningsRequest{Limit: c.Limit, BeforeId: c.Before, OpenOnly: c.Open, UnpaidOnly: c.Unpaid}
	if c.Client != "" {
		key, err := keyArg("--client", c.Client)
		if err != nil {
			return err
		}
		req.ClientNodeKey = key[:]
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, s.op.ListOpenings, req)
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		if len(got.GetOpenings()) == 0 {
			p.Printf("No channel opens match.\n")
			return p.Err
		}
		p.Table(openings(got.GetOpenings(), w.now()))
		c.more(p, len(got.GetOpenings()), got.GetOpenings()[len(got.GetOpenings())-1].GetOpeningId())
		return p.Err
	})
}

func openings(list []*lspv1.Opening, now time.Time) *cli.Table {
	t := cli.NewTable("CHANNEL OPEN", "PAYMENT", "CLIENT", ">CAPACITY", ">CHAIN FEE", "ZERO-CONF", "STATE", "PAID", "TOOK", "BEGUN", "FUNDING", "WHY")
	for _, o := range list {
		funding := o.GetFundingOutpoint()
		if funding == "" {
			funding = "-"
		}
		t.Row(o.GetOpeningId(), o.GetPaymentId(), cli.ShortHex(o.GetClientNodeKey()), cli.Sat(o.GetCapacitySat()), cli.Sat(o.GetChainFeeSat()),
			cli.YesNo(o.GetZeroConf()), cli.Words(o.GetState())+over(o.GetTerminal()), paidWords(o),
			cli.Duration(time.Duration(o.GetUpdatedMs()-o.GetCreatedMs())*time.Millisecond), cli.Ago(o.GetCreatedMs(), now), funding, o.GetReason())
	}
	return t
}

// paidWords says whether somebody paid for a channel, or why nobody need.
func paidWords(o *lspv1.Opening) string {
	switch {
	case o.GetPaid():
		return "yes"
	case o.GetForgiven():
		return "forgiven"
	case o.GetClosed():
		return "closed"
	case o.GetUnpaid():
		return "not yet"
	}
	return "-"
}

// WithdrawCmd ends a payment.
type WithdrawCmd struct {
	ID     string `arg:"" name:"id" help:"The payment's id."`
	Reason string `required:"" placeholder:"TEXT" help:"Why, for the payment's story; the client reads it too."`
}

// Run implements the command.
func (c WithdrawCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, s.op.WithdrawPayment, &lspv1.WithdrawPaymentRequest{PaymentId: c.ID, Reason: c.Reason})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		p.Table(paymentFacts(got.GetPayment(), w.now()))
		return p.Err
	})
}
