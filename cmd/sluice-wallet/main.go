// Command sluice-wallet runs beside a wallet's own lnd and lets it receive
// before it has a channel: `sluice-wallet run` is the daemon, the other
// commands talk to it over a unix socket.
//
// It promises that a program can rely on its exit codes: 0 done; 1 failed;
// 2 wrong usage, or an answer of an LSP's that is invalid; 3 not (yet) so, for
// `offline`; 4 the payment did not arrive, for `receive --wait`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

const (
	exitFailed     = 1
	exitUsage      = cli.ExitUsage
	exitNotYet     = 3
	exitNotArrived = 4
)

// exitCode ends the program when all was said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// CLI is the command line.
type CLI struct {
	Globals

	Run        runCmd        `cmd:"" help:"Run the daemon beside lnd."`
	Receive    receiveCmd    `cmd:"" help:"Make an invoice, with a channel opened on demand if one is needed."`
	Status     statusCmd     `cmd:"" help:"Show node, LSPs, channels, payments, and whether it is safe to go offline."`
	Offline    offlineCmd    `cmd:"" help:"Say whether it is safe to go offline, or wait until it is."`
	Lsps       lspsCmd       `cmd:"" help:"List, add and leave LSPs."`
	Offers     offersCmd     `cmd:"" help:"Compare what each LSP would charge for an amount."`
	Fund       fundCmd       `cmd:"" help:"Open a channel with coins of your own and of an LSP in one transaction."`
	Holds      holdsCmd      `cmd:"" help:"Payments that gateways hold while this wallet is offline: ask for it, see what waits, make invoices that can wait long."`
	Order      orderCmd      `cmd:"" help:"Buy a channel outright, of any LSP that speaks LSPS1."`
	Webhooks   webhooksCmd   `cmd:"" help:"URLs that an LSP calls when a payment waits for this wallet (LSPS5)."`
	Swap       swapCmd       `cmd:"" help:"Bring bitcoin from Lightning to the chain and back, with your loopd, or into a channel that an LSP opens."`
	Towers     towersCmd     `cmd:"" help:"Watchtowers: add them, and check that they hold what lnd sent."`
	Payments   paymentsCmd   `cmd:"" help:"List payments agreed with the LSPs."`
	Pay        payCmd        `cmd:"" help:"Pay an invoice."`
	Backup     backupCmd     `cmd:"" help:"Keep the channels' backup at several providers, encrypted, and bring it back."`
	Macaroon   macaroonCmd   `cmd:"" help:"Print how to bake a macaroon of least rights for the daemon."`
	Config     configCmd     `cmd:"" help:"Print a sample configuration file with every setting."`
	Completion completionCmd `cmd:"" help:"Print the script that completes this command in a shell."`
	Version    versionCmd    `cmd:"" help:"Print the version."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`
}

// Globals are the flags of every command.
type Globals struct {
	DataDir string `type:"path" default:"${data_dir}" env:"SLUICE_WALLET_DATA_DIR" help:"Where the daemon keeps its list of LSPs and its control socket."`
	Control string `type:"path" placeholder:"FILE" help:"The control socket, where it is not wallet.sock in the data directory."`
	JSON    bool   `name:"json" help:"Print JSON for programs, and nothing else on standard output."`
}

// world is what the program is given from outside.
type world struct {
	ctx    context.Context //nolint:containedctx // the process's own, made in main
	stdin  *os.File        // nil when nobody can be asked
	stdout io.Writer
	stderr io.Writer
	env    []string
	home   string
	model  *kong.Node
}

func (w *world) printer() *cli.Printer { return &cli.Printer{W: w.stdout} }

// terminal says that a person looks at standard output.
func (w *world) terminal() bool { return cli.NewScreen(w.stdout).Terminal() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	code := run(&world{ctx: ctx, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: os.Environ(), home: home}, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(w *world, args []string) int {
	var root CLI
	exited := false
	parser, err := kong.New(&root, kong.Name("sluice-wallet"),
		kong.Description("Receive over Lightning before you have a channel: an LSP of your choice opens one when the payment comes.\n\n"+
			"Start with `sluice-wallet macaroon`, then `sluice-wallet run`, `sluice-wallet lsps add`, `sluice-wallet receive 100000`."),
		kong.Vars{"data_dir": filepath.Join(w.home, ".sluice-wallet"), "loop_dir": filepath.Join(w.home, ".loop", "mainnet"), "version": cli.BuildVersion().Line("sluice-wallet")},
		kong.Writers(w.stdout, w.stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 110}),
		kong.UsageOnError(),
		kong.Exit(func(int) { exited = true }),
	)
	if err != nil {
		_, _ = fmt.Fprintln(w.stderr, "sluice-wallet:", err)
		return exitFailed
	}
	w.model = parser.Model.Node
	parsed, err := parser.Parse(args)
	if exited {
		// Help was asked for and printed.
		return 0
	}
	if err != nil {
		_, _ = fmt.Fprintln(w.stderr, cli.Wrong("sluice-wallet", err))
		return exitUsage
	}
	err = parsed.Run(w, &root.Globals)
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	text := errkind.Sentence(err)
	if text == "" {
		text = err.Error()
	}
	// Several LSPs may each have said a sentence: they keep their lines.
	for i, line := range strings.Split(text, "\n") {
		prefix := "sluice-wallet: "
		if i > 0 {
			prefix = "  "
		}
		_, _ = fmt.Fprintln(w.stderr, prefix+cli.Stop(cli.Clean(line)))
	}
	if errkind.Of(err) == errkind.Invalid {
		return exitUsage
	}
	return exitFailed
}

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run prints the script.
func (c completionCmd) Run(w *world) error {
	script, err := cli.Completion(c.Shell, w.model)
	if err != nil {
		return err
	}
	p := w.printer()
	p.Printf("%s", script)
	return p.Err
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(w *world, g *Globals) error {
	v := cli.BuildVersion()
	if g.JSON {
		return cli.WriteJSON(w.stdout, v)
	}
	p := w.printer()
	p.Printf("%s\n", v.Line("sluice-wallet"))
	return p.Err
}
