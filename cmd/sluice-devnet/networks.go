package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/devnet"
)

type mineCmd struct {
	Blocks int    `arg:"" optional:"" default:"1" help:"How many blocks (default 1)."`
	Net    string `help:"Directory of the network, when several run." type:"existingdir" placeholder:"DIR"`
}

func (c *mineCmd) Run(e *env) error {
	networks, err := devnet.FindNetworks(e.cli.Dir)
	if err != nil {
		return err
	}
	var running []devnet.Description
	for _, d := range networks {
		if d.Alive() && (c.Net == "" || d.Dir == c.Net) {
			running = append(running, d)
		}
	}
	switch {
	case len(running) == 0 && c.Net != "":
		return fmt.Errorf("no network runs in %s (see sluice-devnet ps)", c.Net)
	case len(running) == 0:
		return errors.New("no network runs: start one with sluice-devnet up")
	case len(running) > 1:
		return errors.New("several networks run: choose one with --net=DIR (see sluice-devnet ps)")
	}
	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	hashes, err := devnet.MineOn(ctx, running[0].Btcd, c.Blocks)
	if err != nil {
		return err
	}
	for _, hash := range hashes {
		fmt.Fprintln(e.stdout, hash)
	}
	return nil
}

type psCmd struct {
	JSON bool `name:"json" help:"Print JSON for programs: what network.json says of each, and whether it runs."`
}

// network is the JSON of one.
type network struct {
	devnet.Description
	Alive bool `json:"alive"`
}

func (c psCmd) Run(e *env) error {
	networks, err := devnet.FindNetworks(e.cli.Dir)
	if err != nil {
		return err
	}
	if c.JSON {
		all := make([]network, 0, len(networks))
		for _, d := range networks {
			all = append(all, network{Description: d, Alive: d.Alive()})
		}
		return cli.WriteJSON(e.stdout, all)
	}
	if len(networks) == 0 {
		fmt.Fprintln(e.stdout, "no network runs: start one with sluice-devnet up")
		return nil
	}
	for i, d := range networks {
		if i > 0 {
			fmt.Fprintln(e.stdout)
		}
		if !d.Alive() {
			fmt.Fprintf(e.stdout, "%s: its program (pid %d) is gone; sluice-devnet clean removes the rest\n", d.Dir, d.PID)
			continue
		}
		fmt.Fprintf(e.stdout, "%s: pid %d, up %s\n", d.Dir, d.PID, time.Since(d.Started).Round(time.Second))
		table := tabwriter.NewWriter(e.stdout, 2, 4, 2, ' ', 0)
		fmt.Fprintln(table, "  NAME\tPID\tADDRESS\tLOG")
		for _, p := range d.Procs {
			address := ""
			if p.Name == "btcd" {
				address = d.Btcd.Host
			}
			fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", p.Name, pidOrDown(p.PID), address, p.Log)
		}
		for _, node := range d.Nodes {
			fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", node.Name, pidOrDown(node.PID), node.RPC, node.Log)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func pidOrDown(pid int) string {
	if pid == 0 {
		return "down"
	}
	return fmt.Sprint(pid)
}

type cleanCmd struct{}

func (cleanCmd) Run(e *env) error {
	networks, err := devnet.FindNetworks(e.cli.Dir)
	if err != nil {
		return err
	}
	for _, d := range networks {
		if d.Alive() {
			fmt.Fprintf(e.stdout, "%s still runs (pid %d): left alone\n", d.Dir, d.PID)
			continue
		}
		if err := devnet.RemoveStale(d); err != nil {
			return err
		}
		fmt.Fprintf(e.stdout, "%s removed\n", d.Dir)
	}
	return nil
}
