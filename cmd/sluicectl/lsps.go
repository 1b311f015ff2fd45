package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lsp/api/lspsv1"
)

// MenusCmd is what channels on demand cost.
type MenusCmd struct {
	List     MenusListCmd     `cmd:"" default:"1" help:"Everybody's menu and those of tokens, as written and as offered now."`
	Set      MenusSetCmd      `cmd:"" help:"Set a menu from a file, from now on."`
	Withdraw MenusWithdrawCmd `cmd:"" help:"Make a token mean nothing."`
	Reset    MenusResetCmd    `cmd:"" help:"Go back to the menu of the configuration."`
}

func lspsOf(s *session) lspsv1.LspsOperatorServiceClient {
	return lspsv1.NewLspsOperatorServiceClient(s.conn)
}

// MenusListCmd lists menus.
type MenusListCmd struct{}

// Run implements the command.
func (MenusListCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, lspsOf(s).ListMenus, &lspsv1.ListMenusRequest{})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		for i, m := range got.GetMenus() {
			if i > 0 {
				p.Printf("\n")
			}
			p.Printf("%s\n", menuTitle(m, w.now()))
			if m.GetRefusal() != "" {
				p.Printf("  nothing is offered: %s\n", cli.Clean(m.GetRefusal()))
			}
			t := cli.NewTable("ITEM", ">LEAST FEE", ">NOW", ">PPM", ">PAYMENTS FROM", ">TO", ">OPEN FOR")
			for n, item := range m.GetItems() {
				now := "-"
				if n < len(m.GetOffered()) && len(m.GetOffered()) == len(m.GetItems()) {
					now = cli.MsatAsSat(m.GetOffered()[n].GetMinFeeMsat())
				}
				t.Row(fmt.Sprint(n+1), cli.MsatAsSat(item.GetMinFeeMsat()), now, cli.Group(uint64(item.GetProportionalPpm())),
					cli.MsatAsSat(item.GetMinPaymentSizeMsat()), cli.MsatAsSat(item.GetMaxPaymentSizeMsat()), cli.Group(uint64(item.GetMinLifetimeBlocks()))+" blocks")
			}
			p.Table(t)
		}
		return p.Err
	})
}

func menuTitle(m *lspsv1.Menu, now time.Time) string {
	title := "Everybody"
	if m.GetToken() != "" {
		title = "Token " + cli.Clean(m.GetToken())
	}
	switch {
	case m.GetWithdrawn():
		return title + ": WITHDRAWN while sluiced runs; the configuration has it"
	case m.GetChanged() && m.GetConfigured():
		title += ": changed while sluiced runs, in place of the configuration's"
	case m.GetChanged():
		title += ": set while sluiced runs"
	default:
		title += ": from the configuration"
	}
	if until := m.GetUntilMs(); until > 0 {
		if t := time.UnixMilli(until); t.After(now) {
			title += ", until " + t.UTC().Format("2006-01-02 15:04 UTC")
		} else {
			title += ", ENDED " + t.UTC().Format("2006-01-02 15:04 UTC")
		}
	}
	return title
}

// MenusSetCmd sets a menu.
type MenusSetCmd struct {
	File  string        `arg:"" type:"existingfile" help:"TOML with one [[menu]] table per item, as in sluiced's configuration."`
	Token string        `placeholder:"TOKEN" help:"The token whose menu it is; everybody's without."`
	For   time.Duration `placeholder:"DURATION" help:"How long the token lasts; for ever without."`
}

// menuFile is the part of sluiced's configuration that a menu is.
type menuFile struct {
	Menu []struct {
		MinFee       uint64 `toml:"min_fee_msat"`
		PPM          uint32 `toml:"proportional_ppm"`
		MinLifetime  uint32 `toml:"min_lifetime_blocks"`
		MaxSelfDelay uint32 `toml:"max_client_to_self_delay_blocks"`
		MinPayment   uint64 `toml:"min_payment_size_msat"`
		MaxPayment   uint64 `toml:"max_payment_size_msat"`
	} `toml:"menu"`
}

// Run implements the command.
func (c MenusSetCmd) Run(w *world, g *Globals) error {
	content, err := os.ReadFile(c.File)
	if err != nil {
		return err
	}
	var file menuFile
	if err := toml.NewDecoder(bytes.NewReader(content)).DisallowUnknownFields().Decode(&file); err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	r := &lspsv1.SetMenuRequest{Token: c.Token}
	for _, m := range file.Menu {
		r.Items = append(r.Items, &lspsv1.MenuItem{
			MinFeeMsat: m.MinFee, ProportionalPpm: m.PPM, MinLifetimeBlocks: m.MinLifetime, MaxClientToSelfDelayBlocks: m.MaxSelfDelay,
			MinPaymentSizeMsat: m.MinPayment, MaxPaymentSizeMsat: m.MaxPayment,
		})
	}
	if c.For > 0 {
		r.UntilMs = w.now().Add(c.For).UnixMilli()
	}
	return g.with(func(s *session) error {
		if _, err := call(w.ctx, s, lspsOf(s).SetMenu, r); err != nil {
			return err
		}
		return menuChanged(w, g, "The menu stands, also after a restart. What was promised before stands until it expires.\n")
	})
}

func menuChanged(w *world, g *Globals, text string) error {
	if g.JSON {
		return cli.WriteJSON(w.stdout, &lspsv1.SetMenuResponse{})
	}
	p := w.printer()
	p.Printf("%s", text)
	return p.Err
}

// MenusWithdrawCmd withdraws a token.
type MenusWithdrawCmd struct {
	Token string `arg:"" help:"The token."`
}

// Run implements the command.
func (c MenusWithdrawCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		if _, err := call(w.ctx, s, lspsOf(s).WithdrawToken, &lspsv1.WithdrawTokenRequest{Token: c.Token}); err != nil {
			return err
		}
		return menuChanged(w, g, "The token means nothing any more. What was promised for it stands until it expires.\n")
	})
}

// MenusResetCmd goes back to the configuration.
type MenusResetCmd struct {
	Token string `arg:"" optional:"" help:"The token; everybody's menu without."`
}

// Run implements the command.
func (c MenusResetCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		if _, err := call(w.ctx, s, lspsOf(s).ResetMenu, &lspsv1.ResetMenuRequest{Token: c.Token}); err != nil {
			return err
		}
		return menuChanged(w, g, "What the configuration has stands.\n")
	})
}

// WebhooksCmd lists the ledger of notifications.
type WebhooksCmd struct {
	Client string `placeholder:"KEY" help:"Only those of one client."`
	Limit  uint32 `default:"50" help:"At most so many (${default})."`
}

// Run implements the command.
func (c WebhooksCmd) Run(w *world, g *Globals) error {
	r := &lspsv1.ListNotificationsRequest{Limit: c.Limit}
	if c.Client != "" {
		key, err := keyArg("--client", c.Client)
		if err != nil {
			return err
		}
		r.ClientNodeKey = key[:]
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, lspsOf(s).ListNotifications, r)
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		t := cli.NewTable("MADE", "CLIENT", "HOST", "METHOD", "STATE", ">ATTEMPTS", "LAST ANSWER")
		for _, n := range got.GetNotifications() {
			t.Row(time.UnixMilli(n.GetMadeMs()).UTC().Format("2006-01-02 15:04:05"), cli.Hex(n.GetClientNodeKey())[:8], cli.Clean(n.GetHost()),
				n.GetMethod(), n.GetState(), fmt.Sprint(n.GetAttempts()), cli.Clean(n.GetOutcome()))
		}
		p := w.printer()
		if len(got.GetNotifications()) == 0 {
			p.Printf("No webhook was told anything.\n")
			return p.Err
		}
		p.Table(t)
		return p.Err
	})
}
