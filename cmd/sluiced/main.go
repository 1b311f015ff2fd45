// Command sluiced is the daemon that an operator runs beside an unpatched lnd:
// it opens channels on demand, holds payments, and serves wallets.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/sluice-lsp/sluice/internal/app"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/obs"
)

const description = `Sluice turns an unpatched lnd gateway into a Lightning service provider.

A first start:

  sluiced config sample > sluiced.toml     every setting with its default
  sluiced macaroon                         how to bake the macaroon that sluiced needs
  sluiced config check -c sluiced.toml     is everything understood?
  sluiced run -c sluiced.toml              serve

Then 'sluicectl doctor' looks at lnd's settings and names the fix for each that
would cost money, and 'sluicectl status' shows how business stands.`

type cli struct {
	Run      runCmd      `cmd:"" help:"Serve until stopped."`
	Migrate  migrateCmd  `cmd:"" help:"Bring the database up to date and stop."`
	Config   configCmd   `cmd:"" help:"Look at the configuration."`
	Macaroon macaroonCmd `cmd:"" help:"Print how to bake the macaroon with the least rights."`
	Version  versionCmd  `cmd:"" help:"Print the version."`
}

type env struct {
	ctx    context.Context
	stdout io.Writer
}

func main() {
	// The first signal asks for an orderly stop, which fails nothing that is
	// held; the second, with the handler gone, ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sluiced: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	var c cli
	parser, err := kong.New(&c, kong.Name("sluiced"), kong.Description(description), kong.UsageOnError())
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return err
	}
	return parsed.Run(&env{ctx: ctx, stdout: stdout})
}

func load(f config.Flags) (app.Config, error) {
	cfg := app.DefaultConfig()
	source := f.Source(os.Environ())
	// What the repository's own harness reads is nobody's setting.
	source.NotSettings = append(source.NotSettings, "SLUICE_BIN", "SLUICE_PEERS", "SLUICE_TEST_FULL", "SLUICE_DEVNET_KEEP", "SLUICE_SKIP_POSTGRES", "SLUICE_SEED", "SLUICE_RUNS", "SLUICE_REPLAY_SECONDS", "SLUICE_ITEST")
	if err := config.Load(source, &cfg); err != nil {
		return cfg, fmt.Errorf("%w\n`sluiced config sample` prints every setting with its default", err)
	}
	return cfg, nil
}

type runCmd struct {
	config.Flags
	Services []string `arg:"" optional:"" help:"Which services: interceptor, lsp. None means all."`
}

func (c *runCmd) Help() string {
	return `The interceptor can run as a process of its own, small and rarely changed, so that
upgrading the services never drops lnd's stream:

  sluiced run interceptor -c interceptor.toml
  sluiced run lsp -c lsp.toml                   with interceptor.address set

Each has a data directory of its own. Several of the same kind that share one
PostgreSQL database are one owner and its standbys.`
}

func (c *runCmd) Run(e *env) error {
	roles, err := app.ParseRoles(c.Services)
	if err != nil {
		return err
	}
	cfg, err := load(c.Flags)
	if err != nil {
		return err
	}
	log, flush, err := obs.NewLogger(cfg.Log)
	if err != nil {
		return err
	}
	err = app.Run(e.ctx, cfg, roles, log)
	return errors.Join(err, flush())
}

type migrateCmd struct {
	config.Flags
}

func (c *migrateCmd) Run(e *env) error {
	cfg, err := load(c.Flags)
	if err != nil {
		return err
	}
	log, flush, err := obs.NewLogger(cfg.Log)
	if err != nil {
		return err
	}
	if err := errors.Join(app.Migrate(e.ctx, cfg, log), flush()); err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, "The database is up to date.")
	return err
}

type configCmd struct {
	Check  configCheckCmd  `cmd:"" help:"Read the configuration and name everything that is wrong."`
	Sample configSampleCmd `cmd:"" help:"Print a configuration file with every setting and its default."`
}

type configCheckCmd struct {
	config.Flags
}

func (c *configCheckCmd) Run(e *env) error {
	if _, err := load(c.Flags); err != nil {
		return err
	}
	_, err := fmt.Fprintln(e.stdout, "The configuration is understood.")
	return err
}

type configSampleCmd struct{}

func (c *configSampleCmd) Run(e *env) error { return app.WriteSample(e.stdout) }

type macaroonCmd struct{}

func (c *macaroonCmd) Run(e *env) error {
	_, err := io.WriteString(e.stdout, app.MacaroonRecipe())
	return err
}

type versionCmd struct{}

func (c *versionCmd) Run(e *env) error {
	version := "development"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	_, err := fmt.Fprintln(e.stdout, "sluiced "+version)
	return err
}
