package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

type upCmd struct {
	NoInterceptor bool `help:"Run the gateway without --requireinterceptor, so that it forwards with no client attached."`
	Postgres      bool `help:"Also start PostgreSQL, and let sluiced use it instead of SQLite."`
	Keep          bool `help:"Leave the network's directory behind at the end, for reading logs."`
}

func (c *upCmd) Help() string {
	return `The network runs until Ctrl-C, then everything is removed. Its directory holds
network.json, which describes all of it for programs: addresses, certificates,
macaroons, process ids and logs.`
}

// startLimit is far above the ten seconds that a network needs.
const startLimit = 3 * time.Minute

func (c *upCmd) Run(e *env) (err error) {
	fmt.Fprintln(e.stdout, "starting btcd, three lnds, sluiced and sluice-wallet (about fifteen seconds)")
	startCtx, cancel := context.WithTimeout(e.ctx, startLimit)
	defer cancel()
	begin := time.Now()
	config := e.config(zap.NewNop())
	config.KeepDir = c.Keep
	s, err := devnet.StartStandardNet(startCtx, devnet.StandardConfig{Net: config, NoInterceptor: c.NoInterceptor})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()

	var pg *devnet.Postgres
	if c.Postgres {
		if pg, err = s.StartPostgres(startCtx); err != nil {
			return err
		}
	}
	var ours *services
	if c.NoInterceptor {
		fmt.Fprintln(e.stdout, "without --requireinterceptor sluiced does not attach: it is left out")
	} else {
		dsn := ""
		if pg != nil {
			if dsn, err = pg.CreateDatabase(startCtx, "sluice"); err != nil {
				return err
			}
		}
		if ours, err = startServices(startCtx, s, dsn); err != nil {
			return err
		}
	}
	file, err := s.WriteDescription()
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "ready after %s\n\n", time.Since(begin).Round(100*time.Millisecond))
	printGuide(e.stdout, s.Describe(), pg, file)
	if ours != nil {
		ours.printGuide(e.stdout)
	}

	select {
	case <-e.ctx.Done():
		fmt.Fprintln(e.stdout, "\nending the network")
		return nil
	case <-s.Miner().Proc().Exited():
		return fmt.Errorf("btcd has ended by itself\n%s", s.Miner().Proc().LogTail(20))
	}
}

func printGuide(out io.Writer, d devnet.Description, pg *devnet.Postgres, file string) {
	roles := map[string]string{
		"gateway": "has many coins; the one that a service provider runs",
		"payer":   "has a large public channel to the gateway",
		"wallet":  "is connected to the gateway and has no channel",
	}
	for _, node := range d.Nodes {
		fmt.Fprintf(out, "%s: %s\n", node.Name, roles[node.Name])
		fmt.Fprintf(out, "  pubkey    %s\n", node.PubKey)
		fmt.Fprintf(out, "  gRPC      %s   Lightning %s\n", node.RPC, node.P2P)
		fmt.Fprintf(out, "  directory %s\n", node.Dir)
		fmt.Fprintf(out, "  log       %s\n", node.Log)
		fmt.Fprintf(out, "  try       %s getinfo\n\n", node.Lncli)
	}
	fmt.Fprintf(out, "btcd: JSON-RPC over TLS on %s, user %s, password %s, certificate %s\n",
		d.Btcd.Host, d.Btcd.User, d.Btcd.Pass, d.Btcd.Cert)
	if pg != nil {
		fmt.Fprintf(out, "PostgreSQL: %s\n", pg.DSN())
	}
	fmt.Fprintf(out, "\nshort names for a shell:\n")
	for _, node := range d.Nodes {
		fmt.Fprintf(out, "  alias %s='%s'\n", node.Name, node.Lncli)
	}
	if self, err := os.Executable(); err == nil {
		fmt.Fprintf(out, "  alias sluice-devnet='%s'\n", self)
	}
	fmt.Fprintf(out, "\nblocks: sluice-devnet mine 6\nall of this as JSON: %s\nCtrl-C ends the network and removes its files.\n", file)
}
