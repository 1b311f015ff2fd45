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

const description = `Watch and steer a Sluice gateway.

Something wrong? Look with status, held, payments --open and doctor; docs/runbook.md says what to do.`

// CLI is the command line. Its commands stand in the order of the help.
type CLI struct {
	Globals

	Status    StatusCmd    `cmd:"" group:"What goes on:" help:"Exposure against its caps, fees, coins and what is under way."`
	Watch     WatchCmd     `cmd:"" group:"What goes on:" help:"What status shows, refreshed until interrupted."`
	Held      HeldCmd      `cmd:"" group:"What goes on:" help:"HTLCs that the interceptor holds, most urgent first."`
	Holds     HoldsCmd     `cmd:"" group:"What goes on:" help:"Payments that wait for wallets that are offline."`
	Payments  PaymentsCmd  `cmd:"" group:"What goes on:" help:"List payments, newest first."`
	Payment   PaymentCmd   `cmd:"" group:"What goes on:" help:"One payment's whole story, with times and reasons."`
	Doctor    DoctorCmd    `cmd:"" group:"What goes on:" help:"Check the gateway's lnd and name each fix; exit code 1 when something must be fixed."`
	Reconcile ReconcileCmd `cmd:"" group:"What goes on:" help:"Compare the books with lnd to the sat; exit code 1 when they differ."`

	Openings OpeningsCmd `cmd:"" group:"Channels:" help:"List channel opens, newest first."`
	Orders   OrdersCmd   `cmd:"" group:"Channels:" help:"List channel orders (LSPS1), newest first."`
	Order    OrderCmd    `cmd:"" group:"Channels:" help:"One order's whole story, with its refunds; or end it."`
	Batches  BatchesCmd  `cmd:"" group:"Channels:" help:"List funding transactions that several orders share, newest first, and what waits for the next."`
	Fundings FundingsCmd `cmd:"" group:"Channels:" help:"List channels that wallets fund together with the gateway, newest first."`
	Funding  FundingCmd  `cmd:"" group:"Channels:" help:"One jointly funded channel's whole story; or end it."`

	Business BusinessCmd `cmd:"" group:"Steering:" help:"Stop or start new business: agreements with wallets, channel orders, swaps that open a channel."`
	Drain    DrainCmd    `cmd:"" group:"Steering:" help:"Stop new business and, with --wait, wait until nothing of it is under way (other swaps and joint fundings are not waited for)."`
	Withdraw WithdrawCmd `cmd:"" group:"Steering:" help:"End a payment where that is safe; its payer is refunded."`
	Menus    MenusCmd    `cmd:"" group:"Steering:" help:"What channels cost, for everybody and by token; change it while sluiced runs."`
	Limits   LimitsCmd   `cmd:"" group:"Steering:" help:"Limits and inventory; change them while sluiced runs."`

	Client   ClientCmd   `cmd:"" group:"Clients:" help:"What one client has in use of its limits."`
	Trust    TrustCmd    `cmd:"" group:"Clients:" help:"Set for one client when the funding of its channels waits until their payment is claimed."`
	Forgive  ForgiveCmd  `cmd:"" group:"Clients:" help:"Take the channels that a client has not paid for off its account."`
	Spend    SpendCmd    `cmd:"" group:"Clients:" help:"What a wallet may spend over a channel that it funded together with the gateway before that is buried; or set it."`
	Webhooks WebhooksCmd `cmd:"" group:"Clients:" help:"What wallets' webhooks were told, newest first."`

	Backups BackupsCmd `cmd:"" group:"Other services:" help:"Who stores backups here, how much, and what they may."`
	Swaps   SwapsCmd   `cmd:"" group:"Other services:" help:"Swaps: what they lock, expose and earned, and one swap's story."`
	Towers  TowersCmd  `cmd:"" group:"Other services:" help:"The watchtower: who it watches for, what it stores, and the breaches it found."`

	Tenant TenantCmd `cmd:"" group:"Tenants:" help:"Tenants: who is registered, with what rights, and what was changed."`
	Signer SignerCmd `cmd:"" group:"Tenants:" help:"For tenants: prepare the signer of a watch-only node, write its bundle, revoke its macaroon."`
	My     MyCmd     `cmd:"" group:"Tenants:" help:"For tenants: the own registration, users and macaroons (--macaroon names the tenant's)."`

	Completion CompletionCmd `cmd:"" group:"This program:" help:"Print the script that completes this command in a shell."`
	Version    VersionCmd    `cmd:"" group:"This program:" help:"Print the version."`

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
		kong.Description(description),
		kong.Vars{"server": DefaultServer, "data_dir": filepath.Join(w.home, ".sluice"), "lnd_dir": filepath.Join(w.home, ".lnd"), "version": cli.BuildVersion().Line("sluicectl")},
		kong.Vars(doctorVars()),
		kong.Writers(w.stdout, w.stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 110}),
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
	return cli.ExitCode(err)
}
