package main

import (
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// ClientCmd shows one client.
type ClientCmd struct {
	Key string `arg:"" name:"node-key" help:"The wallet's node key (66 hex digits)."`
}

// Run implements the command.
func (c ClientCmd) Run(w *world, g *Globals) error {
	key, err := keyArg("node-key", c.Key)
	if err != nil {
		return err
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, s.op.ShowClient, &lspv1.ShowClientRequest{ClientNodeKey: key[:]})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		facts := cli.NewTable("", "")
		facts.Row("Client", cli.Hex(got.GetClientNodeKey()))
		known := "has paid for a channel"
		if got.GetNewcomer() {
			known = "new: has not paid for a channel yet, and shares the newcomers' part of the limits"
		}
		facts.Row("History", known)
		trust := "as for all (lsp.trust)"
		if got.GetTrust() != "" {
			trust = cli.Clean(got.GetTrust())
		}
		facts.Row("Fundings withheld", trust)
		facts.Row("Unclaimed of late", cli.Group(uint64(got.GetUnclaimed())))
		p.Table(facts)
		p.Printf("\n")
		p.Table(exposures(got.GetExposures()))
		return p.Err
	})
}

// TrustCmd sets when a client's fundings are withheld.
type TrustCmd struct {
	Key  string `arg:"" name:"node-key" help:"The wallet's node key (66 hex digits)."`
	Mode string `arg:"" enum:"never,under_attack,always,default" help:"When the funding of its channels on demand is published only once their payment is claimed: never, under_attack, always, or default for what holds for all (lsp.trust)."`
}

// Run implements the command.
func (c TrustCmd) Run(w *world, g *Globals) error {
	key, err := keyArg("node-key", c.Key)
	if err != nil {
		return err
	}
	mode := c.Mode
	if mode == "default" {
		mode = ""
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, s.op.SetClientTrust, &lspv1.SetClientTrustRequest{ClientNodeKey: key[:], Mode: mode})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		p.Printf("Set for this client: %s. What was agreed before stands.\n", c.Mode)
		return p.Err
	})
}

// ForgiveCmd forgives a client.
type ForgiveCmd struct {
	Key    string `arg:"" name:"node-key" help:"The wallet's node key (66 hex digits)."`
	Reason string `required:"" placeholder:"TEXT" help:"Why, for the log."`
}

// Run implements the command.
func (c ForgiveCmd) Run(w *world, g *Globals) error {
	key, err := keyArg("node-key", c.Key)
	if err != nil {
		return err
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, s.op.ForgiveClient, &lspv1.ForgiveClientRequest{ClientNodeKey: key[:], Reason: c.Reason})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		p.Printf("Forgiven: %s in %d channel(s) no longer count as unpaid. The channels stay open.\n",
			cli.Sat(got.GetCapacitySat()), got.GetChannels())
		return p.Err
	})
}
