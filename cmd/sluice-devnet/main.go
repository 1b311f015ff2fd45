// Command sluice-devnet runs a real Lightning network on this machine: btcd in
// regtest mode, a gateway, a payer and a wallet, each an unpatched lnd. It
// promises to leave nothing behind, neither processes nor files, however it ends.
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
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/devnet"
)

const description = `A real Lightning network on this machine, for trying Sluice and for working on it.

It runs btcd in regtest mode (blocks exist when you ask for them), and three
unpatched lnds: a gateway with many coins, a payer with a large channel to the
gateway, and a wallet that is connected to the gateway and has no channel.

Start with:

  sluice-devnet up           in one terminal: starts it and says how to talk to it
  sluice-devnet mine 6       in another: six blocks
  sluice-devnet ps           what runs, and where the logs are
  sluice-devnet demo         or let it play the main job by itself

btcd and lnd come from "make peers" in the repository, or from the directory in
SLUICE_PEERS.`

type commandLine struct {
	Peers string `help:"Directory of btcd and lnd (default: .build/peers of the repository)." env:"SLUICE_PEERS" type:"existingdir" placeholder:"DIR"`
	Dir   string `help:"Parent of the network's directory (default: the system's temporary directory)." type:"existingdir" placeholder:"DIR"`

	Up    upCmd    `cmd:"" help:"Start the network, print how to talk to it, and keep it running until Ctrl-C."`
	Demo  demoCmd  `cmd:"" help:"Start a network, play the main job on it step by step, and end it."`
	Mine  mineCmd  `cmd:"" help:"Mine blocks on a running network."`
	Ps    psCmd    `cmd:"" help:"List the networks of this machine, their processes and logs."`
	Clean cleanCmd `cmd:"" help:"Remove what networks whose program was killed left behind."`

	Completion completionCmd `cmd:"" help:"Print the script that completes this command in a shell."`
	Version    versionCmd    `cmd:"" help:"Print the version."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`
}

// env is what every command gets.
type env struct {
	ctx    context.Context // ends on the first Ctrl-C or SIGTERM
	stdout io.Writer
	stderr io.Writer
	cli    *commandLine
	model  *kong.Node
}

func (e *env) config(log *zap.Logger) devnet.Config {
	return devnet.Config{Dir: e.cli.Dir, PeersDir: e.cli.Peers, Log: log}
}

// exitInterrupted is what shells expect of a program that Ctrl-C ended.
const exitInterrupted = 130

func main() {
	// The first signal asks for an orderly end; the second one, with the
	// handler gone, ends the program, and the kernel ends its children.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)

	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "sluice-devnet: interrupted; everything is cleaned up")
		os.Exit(exitInterrupted)
	default:
		if wrong, ok := errors.AsType[wrongUsage](err); ok {
			fmt.Fprintln(os.Stderr, wrong)
			os.Exit(cli.ExitUsage)
		}
		fmt.Fprintln(os.Stderr, "sluice-devnet:", err)
		os.Exit(1)
	}
}

// wrongUsage is what to say about a wrong command line.
type wrongUsage string

func (w wrongUsage) Error() string { return string(w) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c commandLine
	parser, err := kong.New(&c,
		kong.Name("sluice-devnet"), kong.Description(description),
		kong.Writers(stdout, stderr), kong.Vars{"version": cli.BuildVersion().Line("sluice-devnet")},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if err != nil {
		return wrongUsage(cli.Wrong("sluice-devnet", err))
	}
	return command.Run(&env{ctx: ctx, stdout: stdout, stderr: stderr, cli: &c, model: parser.Model.Node})
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

type versionCmd struct{}

func (versionCmd) Run(e *env) error {
	_, err := fmt.Fprintln(e.stdout, cli.BuildVersion().Line("sluice-devnet"))
	return err
}
