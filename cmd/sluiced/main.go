// Command sluiced is the daemon that an operator runs beside an unpatched lnd:
// it opens channels on demand, holds payments, and serves wallets.
//
// It promises to exit 0 after an orderly stop, 1 when it could not do what was
// asked, and 2 when the command line is wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/sluice-lsp/sluice/internal/app"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/obs"
)

const description = `Sluice turns an unpatched lnd gateway into a Lightning service provider.

A first start:

  sluiced config sample > sluiced.toml     every setting with its default
  sluiced config check -c sluiced.toml     is everything understood?
  sluiced macaroon -c sluiced.toml         how to bake the macaroon that sluiced needs at lnd
  sluiced run -c sluiced.toml              serve

Then 'sluicectl doctor' looks at lnd's settings and names the fix for each that
would cost money, and 'sluicectl status' shows how business stands.`

type commandLine struct {
	Run      runCmd      `cmd:"" help:"Serve until stopped."`
	Migrate  migrateCmd  `cmd:"" help:"Bring the database up to date and stop."`
	Config   configCmd   `cmd:"" help:"Look at the configuration."`
	Macaroon macaroonCmd `cmd:"" help:"Print how to bake the macaroon with the least rights."`

	Completion completionCmd `cmd:"" help:"Print the script that completes this command in a shell."`
	Version    versionCmd    `cmd:"" help:"Print the version."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`
}

// env is what every command is given from outside.
type env struct {
	ctx    context.Context //nolint:containedctx // the process's own, made in main
	stdout io.Writer
	stderr io.Writer
	vars   []string
	model  *kong.Node
}

func main() {
	// The first signal asks for an orderly stop, which fails nothing that is
	// held; the second, with the handler gone, ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(&env{ctx: ctx, stdout: os.Stdout, stderr: os.Stderr, vars: os.Environ()}, os.Args[1:]))
}

func run(e *env, args []string) int {
	var c commandLine
	exited := false
	parser, err := kong.New(&c, kong.Name("sluiced"), kong.Description(description), kong.Writers(e.stdout, e.stderr),
		kong.Vars{"version": cli.BuildVersion().Line("sluiced"), "root_key": fmt.Sprint(lnd.GatewayRootKeyID)},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.Exit(func(int) { exited = true }))
	if err != nil {
		_, _ = fmt.Fprintln(e.stderr, "sluiced:", err)
		return 1
	}
	e.model = parser.Model.Node
	parsed, err := parser.Parse(args)
	if exited {
		// Help or the version was asked for and printed.
		return 0
	}
	if err != nil {
		_, _ = fmt.Fprintln(e.stderr, cli.Wrong("sluiced", err))
		return cli.ExitUsage
	}
	if err := parsed.Run(e); err != nil {
		_, _ = fmt.Fprintln(e.stderr, "sluiced: "+err.Error())
		return cli.ExitCode(err)
	}
	return 0
}

func load(e *env, f config.Flags) (app.Config, error) {
	cfg := app.DefaultConfig()
	source := f.Source(e.vars)
	// What the repository's own harness reads is nobody's setting.
	source.NotSettings = append(source.NotSettings, "SLUICE_BIN", "SLUICE_PEERS", "SLUICE_TEST_FULL", "SLUICE_DEVNET_KEEP", "SLUICE_SKIP_POSTGRES", "SLUICE_SEED", "SLUICE_RUNS", "SLUICE_REPLAY_SECONDS", "SLUICE_ITEST", "SLUICE_SOAK_MINUTES", "SLUICE_SOAK_SEED")
	if err := config.Load(source, &cfg); err != nil {
		return cfg, fmt.Errorf("%w\n`sluiced config sample` prints every setting with its default", err)
	}
	return cfg, nil
}

type runCmd struct {
	config.Flags
	Services []string `arg:"" optional:"" help:"Which services: interceptor, lsp, backups, swaps, watchtower. None means all that are enabled."`
}

func (c *runCmd) Help() string {
	return `The interceptor can run as a process of its own, small and rarely changed, so that
upgrading the services never drops lnd's stream:

  sluiced run interceptor -c interceptor.toml
  sluiced run lsp -c lsp.toml                   with interceptor.address set

The watchtower belongs on a machine of its own, beside another lnd than its clients'
peer's; there it needs neither the gateway nor requireinterceptor:

  sluiced run watchtower -c tower.toml          with watchtower.listen and addresses set

Each has a data directory of its own. Several of the same kind that share one
PostgreSQL database are one owner and its standbys.`
}

func (c *runCmd) Run(e *env) error {
	roles, err := rolesOf(c.Services)
	if err != nil {
		return err
	}
	cfg, err := load(e, c.Flags)
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
	cfg, err := load(e, c.Flags)
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
	cfg, err := load(e, c.Flags)
	if err != nil {
		return err
	}
	if c.Config == "" {
		if _, err := fmt.Fprintln(e.stdout, "No file was named (-c FILE): these are the defaults, with what the environment and --set change."); err != nil {
			return err
		}
	}
	// Not an error: it may be checked on another machine, or before the macaroon
	// is baked.
	for _, missing := range cfg.MissingFiles() {
		_, _ = fmt.Fprintln(e.stderr, "sluiced does not start here yet: "+missing)
	}
	_, err = fmt.Fprintln(e.stdout, "The configuration is understood.")
	return err
}

type configSampleCmd struct{}

func (c *configSampleCmd) Run(e *env) error { return app.WriteSample(e.stdout) }

type macaroonCmd struct {
	config.Flags
	RootKey  uint64   `name:"root-key-id" default:"${root_key}" placeholder:"N" help:"The number of the root key at lnd that it is made under (${default}). To replace a macaroon, take another one and delete the old one's afterwards; lnd never deletes 0."`
	Services []string `arg:"" optional:"" help:"What the process will run: watchtower alone needs far fewer rights."`
}

func (c *macaroonCmd) Run(e *env) error {
	roles, err := rolesOf(c.Services)
	if err != nil {
		return err
	}
	if c.RootKey == 0 {
		return cli.Usage{Err: errors.New("--root-key-id 0: lnd never deletes that one, so that a stolen macaroon could not be ended; choose another number")}
	}
	cfg, err := load(e, c.Flags)
	if err != nil {
		return err
	}
	_, err = io.WriteString(e.stdout, app.MacaroonRecipe(cfg, roles, c.RootKey))
	return err
}

// rolesOf reads the services of a command line.
func rolesOf(services []string) (app.Roles, error) {
	roles, err := app.ParseRoles(services)
	if err != nil {
		return roles, cli.Usage{Err: err}
	}
	return roles, nil
}

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (c *completionCmd) Run(e *env) error {
	script, err := cli.Completion(c.Shell, e.model)
	if err != nil {
		return err
	}
	_, err = io.WriteString(e.stdout, script)
	return err
}

type versionCmd struct {
	JSON bool `name:"json" help:"Print JSON for programs."`
}

func (c *versionCmd) Run(e *env) error {
	v := cli.BuildVersion()
	if c.JSON {
		return cli.WriteJSON(e.stdout, v)
	}
	_, err := fmt.Fprintln(e.stdout, v.Line("sluiced"))
	return err
}
