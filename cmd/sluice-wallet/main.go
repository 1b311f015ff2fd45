// Command sluice-wallet runs beside a wallet's own lnd and lets it receive
// before it has a channel: `sluice-wallet run` is the daemon, the other
// commands talk to it over a unix socket.
//
// It promises that a program can rely on its exit codes: 0 done; 1 failed;
// 2 wrong usage; 3 not (yet) so, for `offline`; 4 the payment did not arrive,
// for `receive --wait`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

const (
	exitFailed     = 1
	exitUsage      = 2
	exitNotYet     = 3
	exitNotArrived = 4
)

// exitError carries an exit code; its text may be empty when all was said.
type exitError struct {
	code int
	text string
}

func (e exitError) Error() string { return e.text }

type cli struct {
	DataDir string `type:"path" default:"${data_dir}" env:"SLUICE_WALLET_DATA_DIR" help:"Where the daemon keeps its list of LSPs and its control socket."`
	Control string `type:"path" placeholder:"FILE" help:"The control socket, where it is not wallet.sock in the data directory."`

	Run      runCmd      `cmd:"" help:"Run the daemon beside lnd."`
	Receive  receiveCmd  `cmd:"" help:"Make an invoice, with a channel opened on demand if one is needed."`
	Status   statusCmd   `cmd:"" help:"Show node, LSPs, channels, payments, and whether it is safe to go offline."`
	Offline  offlineCmd  `cmd:"" help:"Say whether it is safe to go offline, or wait until it is."`
	Lsps     lspsCmd     `cmd:"" help:"List, add and leave LSPs."`
	Offers   offersCmd   `cmd:"" help:"Compare what each LSP would charge for an amount."`
	Payments paymentsCmd `cmd:"" help:"List payments agreed with the LSPs."`
	Pay      payCmd      `cmd:"" help:"Pay an invoice."`
	Macaroon macaroonCmd `cmd:"" help:"Print how to bake a macaroon of least rights for the daemon."`
	Config   configCmd   `cmd:"" help:"Print a sample configuration file with every setting."`
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	parser, err := kong.New(&c, kong.Name("sluice-wallet"),
		kong.Description("Receive over Lightning before you have a channel: an LSP of your choice opens one when the payment comes.\n\n"+
			"Start with `sluice-wallet macaroon`, then `sluice-wallet run`, `sluice-wallet lsps add`, `sluice-wallet receive 100000`."),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"data_dir": defaultDataDir()},
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		fmt.Fprintln(os.Stderr, "sluice-wallet:", err)
		return exitUsage
	}
	cmd, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sluice-wallet: %s\n`sluice-wallet --help` shows the commands.\n", err)
		return exitUsage
	}
	return exitCode(cmd.Run(&c))
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[exitError](err); ok {
		if e.text != "" {
			fmt.Fprintln(os.Stderr, e.text)
		}
		return e.code
	}
	text := errkind.Sentence(err)
	if text == "" {
		text = err.Error()
	}
	fmt.Fprintln(os.Stderr, "sluice-wallet:", text)
	if errkind.Of(err) == errkind.Invalid {
		return exitUsage
	}
	return exitFailed
}

func defaultDataDir() string {
	home, err := os.UserHomeDir()
	if err != nil {
		return ".sluice-wallet"
	}
	return filepath.Join(home, ".sluice-wallet")
}
