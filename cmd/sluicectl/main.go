// Command sluicectl is the operator's tool: what Sluice holds, opens and
// earns, one payment's whole story, the switch that stops new business, and
// the doctor of the gateway's lnd.
//
// It promises to exit 0 when all is well, 1 when a call failed or what was
// asked for is not so (doctor, reconcile), and 2 when the command line is
// wrong; with --json it prints JSON and nothing else on standard output.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/sluice-lsp/sluice/internal/cli"
)

// CLI is the command line.
type CLI struct {
	Globals

	Status     StatusCmd     `cmd:"" help:"Exposure against its caps, fees, coins and what is under way."`
	Watch      WatchCmd      `cmd:"" help:"The same, refreshed until interrupted."`
	Payments   PaymentsCmd   `cmd:"" help:"List payments, newest first."`
	Payment    PaymentCmd    `cmd:"" help:"One payment's whole story, with times and reasons."`
	Orders     OrdersCmd     `cmd:"" help:"List channel orders (LSPS1), newest first."`
	Order      OrderCmd      `cmd:"" help:"One order's whole story, with its refunds; or end it."`
	Openings   OpeningsCmd   `cmd:"" help:"List channel opens, newest first."`
	Batches    BatchesCmd    `cmd:"" help:"List funding transactions that several orders share, newest first, and what waits for the next."`
	Fundings   FundingsCmd   `cmd:"" help:"List channels that wallets fund together with the gateway, newest first."`
	Funding    FundingCmd    `cmd:"" help:"One such funding's whole story; or end it."`
	Spend      SpendCmd      `cmd:"" help:"What a wallet may spend over a channel that it funded together with the gateway before that is buried; or set it."`
	Client     ClientCmd     `cmd:"" help:"What one client has in use of its limits."`
	Trust      TrustCmd      `cmd:"" help:"Set for one client when the funding of its channels waits until their payment is claimed."`
	Forgive    ForgiveCmd    `cmd:"" help:"Take the channels that a client has not paid for off its account."`
	Held       HeldCmd       `cmd:"" help:"HTLCs that the interceptor holds, most urgent first."`
	Holds      HoldsCmd      `cmd:"" help:"Payments that wait for wallets that are offline."`
	Withdraw   WithdrawCmd   `cmd:"" help:"End a payment where that is safe; its payer is refunded."`
	Business   BusinessCmd   `cmd:"" help:"Stop or start new business. What is under way goes on."`
	Drain      DrainCmd      `cmd:"" help:"Stop new business and, with --wait, wait until nothing is under way."`
	Menus      MenusCmd      `cmd:"" help:"What channels cost, for everybody and by token; change it while sluiced runs."`
	Limits     LimitsCmd     `cmd:"" help:"Limits and inventory; change them while sluiced runs."`
	Webhooks   WebhooksCmd   `cmd:"" help:"What wallets' webhooks were told, newest first."`
	Backups    BackupsCmd    `cmd:"" help:"Who stores backups here, how much, and what they may."`
	Swaps      SwapsCmd      `cmd:"" help:"Swaps: what they lock, expose and earned, and one swap's story."`
	Towers     TowersCmd     `cmd:"" help:"The watchtower: who it watches for, what it stores, and the breaches it found."`
	Tenant     TenantCmd     `cmd:"" help:"Tenants: who is registered, with what rights, and what was changed."`
	Signer     SignerCmd     `cmd:"" help:"For tenants: prepare the signer of a watch-only node, write its bundle, revoke its macaroon."`
	My         MyCmd         `cmd:"" help:"For tenants: the own registration, users and macaroons (--macaroon names the tenant's)."`
	Reconcile  ReconcileCmd  `cmd:"" help:"Compare the books with lnd to the sat; exit code 1 when they differ."`
	Doctor     DoctorCmd     `cmd:"" help:"Check the gateway's lnd and name each fix; exit code 1 when something must be fixed."`
	Completion CompletionCmd `cmd:"" help:"Print the script that completes this command in a shell."`
	Version    VersionCmd    `cmd:"" help:"Print the version."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`
}

// world is what the program is given from outside.
type world struct {
	ctx    context.Context //nolint:containedctx // the process's own, made in main
	stdout io.Writer
	stderr io.Writer
	now    func() time.Time
	// home is where the data directories are unless they are named.
	home  string
	model *kong.Node
}

func (w *world) printer() *cli.Printer { return &cli.Printer{W: w.stdout} }

// exitCode ends the program without a further message.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// $HOME, as sluiced takes it, and not the user database: a service's user may
	// have another one there.
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	code := run(&world{ctx: ctx, stdout: os.Stdout, stderr: os.Stderr, now: time.Now, home: home}, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(w *world, args []string) int {
	var root CLI
	exited := false
	parser, err := kong.New(&root,
		kong.Name("sluicectl"),
		kong.Description("Watch and steer a Sluice gateway."),
		kong.Vars{"server": DefaultServer, "data_dir": filepath.Join(w.home, ".sluice"), "lnd_dir": filepath.Join(w.home, ".lnd"), "version": cli.BuildVersion().Line("sluicectl")},
		kong.Vars(doctorVars()),
		kong.Writers(w.stdout, w.stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.Exit(func(int) { exited = true }),
	)
	if err != nil {
		_, _ = fmt.Fprintln(w.stderr, "sluicectl:", err)
		return 1
	}
	w.model = parser.Model.Node
	parsed, err := parser.Parse(args)
	if exited {
		// Help was asked for and printed.
		return 0
	}
	if err != nil {
		_, _ = fmt.Fprintln(w.stderr, cli.Wrong("sluicectl", err))
		return cli.ExitUsage
	}
	err = parsed.Run(w, &root.Globals)
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	_, _ = fmt.Fprintln(w.stderr, "sluicectl: "+cli.Stop(cli.Clean(err.Error())))
	return 1
}
