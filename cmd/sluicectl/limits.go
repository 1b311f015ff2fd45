package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lsp/api/lspsv1"
)

// LimitsCmd is what business is held against.
type LimitsCmd struct {
	List  LimitsListCmd  `cmd:"" default:"1" help:"Limits and inventory as they stand."`
	Set   LimitsSetCmd   `cmd:"" help:"Set limits from now on, also after a restart."`
	Reset LimitsResetCmd `cmd:"" help:"Go back to the limits of the configuration."`
}

// LimitsListCmd lists.
type LimitsListCmd struct{}

// Run implements the command.
func (LimitsListCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, lspsOf(s).ListLimits, &lspsv1.ListLimitsRequest{})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		t := cli.NewTable("LIMIT", ">VALUE", ">CONFIGURED", "")
		for _, l := range got.GetLimits() {
			note := ""
			if l.GetChanged() {
				note = "changed while sluiced runs"
			}
			t.Row(l.GetName(), cli.Group(l.GetValue()), cli.Group(l.GetConfigured()), note)
		}
		p := w.printer()
		p.Table(t)
		return p.Err
	})
}

// LimitsSetCmd sets.
type LimitsSetCmd struct {
	Values []string `arg:"" sep:"none" help:"NAME=VALUE, under the names of section lsp in sluiced's configuration; 0 means no limit where it does there."`
}

// Run implements the command.
func (c LimitsSetCmd) Run(w *world, g *Globals) error {
	r := &lspsv1.SetLimitsRequest{Values: map[string]uint64{}}
	for _, text := range c.Values {
		name, value, ok := strings.Cut(text, "=")
		n, err := strconv.ParseUint(strings.ReplaceAll(value, "_", ""), 10, 64)
		if !ok || err != nil {
			return cli.Usagef("%q: want NAME=VALUE, such as open_requests=500", cli.Clean(text))
		}
		if _, twice := r.Values[name]; twice {
			return cli.Usagef("%s stands twice", cli.Clean(name))
		}
		r.Values[name] = n
	}
	return g.with(func(s *session) error {
		if _, err := call(w.ctx, s, lspsOf(s).SetLimits, r); err != nil {
			return err
		}
		return limitsChanged(w, g, fmt.Sprintf("%d limit(s) stand, also after a restart. What was admitted before stands.\n", len(r.Values)))
	})
}

func limitsChanged(w *world, g *Globals, text string) error {
	if g.JSON {
		return cli.WriteJSON(w.stdout, &lspsv1.SetLimitsResponse{})
	}
	p := w.printer()
	p.Printf("%s", text)
	return p.Err
}

// LimitsResetCmd goes back to the configuration.
type LimitsResetCmd struct {
	Names []string `arg:"" optional:"" help:"Limits; all without."`
}

// Run implements the command.
func (c LimitsResetCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		if _, err := call(w.ctx, s, lspsOf(s).ResetLimits, &lspsv1.ResetLimitsRequest{Names: c.Names}); err != nil {
			return err
		}
		return limitsChanged(w, g, "What the configuration has stands.\n")
	})
}
