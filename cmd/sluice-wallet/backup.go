package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/backupsvc/agent"
	"github.com/sluice-lsp/sluice/backupsvc/agent/backupagentv1"
	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

type backupCmd struct {
	Status   backupStatusCmd   `cmd:"" default:"1" help:"Show what is backed up where; exit code 3 if it is not backed up as you asked."`
	Now      backupNowCmd      `cmd:"" help:"Write a new version of the backup, and wait until enough providers have it."`
	Drill    backupDrillCmd    `cmd:"" help:"Prove now that what is stored opens."`
	Forgive  backupForgiveCmd  `cmd:"" help:"End the alarm about a provider."`
	Key      backupKeyCmd      `cmd:"" help:"Make the backup's key: of lnd's seed, or of a passphrase."`
	Add      backupAddCmd      `cmd:"" help:"Add a provider that keeps backups."`
	Remove   backupRemoveCmd   `cmd:"" help:"Remove a provider. What it stores stays there."`
	Require  backupRequireCmd  `cmd:"" help:"Set at how many providers each version must be."`
	Include  backupIncludeCmd  `cmd:"" help:"Back up a file of another program as well, a swap program's records for example."`
	Exclude  backupExcludeCmd  `cmd:"" help:"Back up a file of another program no more. What is stored of it stays there."`
	Alarm    backupAlarmCmd    `cmd:"" help:"Set the program that is called when something is wrong with the backups."`
	Restore  backupRestoreCmd  `cmd:"" help:"On a new machine: bring the channels' money back."`
	Progress backupProgressCmd `cmd:"" help:"After a restore: show what comes back when, and what it depends on."`
	Export   backupExportCmd   `cmd:"" help:"Write the channels' backup into one file."`
	Import   backupImportCmd   `cmd:"" help:"Restore the channels' backup from a file that export wrote."`
	Verify   backupVerifyCmd   `cmd:"" help:"Check evidence against a provider; needs no wallet."`
}

// loadKey reads the backup's key; fs.ErrNotExist is in the chain if there is none.
func loadKey(dir string) (seal.Secret, error) {
	path := filepath.Join(dir, agent.KeyFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return seal.Secret{}, errkind.Wrap(errkind.Invalid, err, "there is no backup key: make it with `sluice-wallet backup key`")
	}
	secret, err := seal.DecodeSecret(string(text))
	if err != nil {
		return secret, fmt.Errorf("%s: %w", path, err)
	}
	return secret, nil
}

// newBackups is the daemon's backup agent; nil without a key.
func newBackups(dir string, client *lnd.Client, log *zap.Logger) (*agent.Agent, error) {
	secret, err := loadKey(dir)
	if errors.Is(err, os.ErrNotExist) {
		log.Warn("the channels are not backed up: `sluice-wallet backup key` makes the key, `sluice-wallet backup add` adds a provider; then start again")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return backupAgent(dir, secret, client, log)
}

func backupAgent(dir string, secret seal.Secret, client *lnd.Client, log *zap.Logger) (*agent.Agent, error) {
	cfg := agent.DefaultConfig()
	cfg.DataDir, cfg.Secret = dir, secret
	sign := func(ctx context.Context, msg string) (string, error) { return client.SignMessage(ctx, []byte(msg)) }
	return agent.New(cfg, agent.Ports{
		Backups: client, Channels: client, Open: agent.Opener(secret, sign, time.Now), Extras: extras(dir, client, time.Now), ReadFile: newFiles(dir).read, Log: log.Named("backup"),
	})
}

// backups calls the daemon.
func (g *Globals) backups(ctx context.Context, call func(context.Context, backupagentv1.WalletBackupsClient) error) error {
	return g.control(ctx, func(ctx context.Context, d *daemon) error {
		err := call(ctx, d.backups)
		if status.Code(err) == codes.Unimplemented {
			return errkind.New(errkind.Unavailable, "the daemon runs without a backup key: make it with `sluice-wallet backup key`, and start the daemon again")
		}
		return err
	})
}

type backupStatusCmd struct{}

// Run shows.
func (c *backupStatusCmd) Run(w *world, g *Globals) error {
	return g.backups(w.ctx, func(ctx context.Context, b backupagentv1.WalletBackupsClient) error {
		r, err := b.GetBackups(ctx, &backupagentv1.GetBackupsRequest{})
		if err != nil {
			return err
		}
		return showBackups(w, g, r.GetBackups())
	})
}

func showBackups(w *world, g *Globals, s *backupagentv1.Backups) error {
	if g.JSON {
		if err := cli.WriteJSON(w.stdout, s); err != nil {
			return err
		}
	} else if err := printBackups(w, s); err != nil {
		return err
	}
	if !s.GetBackedUp() {
		return exitCode(exitNotYet)
	}
	return nil
}

func printBackups(w *world, s *backupagentv1.Backups) error {
	p, now := w.printer(), time.Now()
	word := "NOT BACKED UP"
	if s.GetBackedUp() {
		word = "Backed up"
	}
	p.Printf("%s: version %d with %d channel(s), made %s, is at %d provider(s); you want it at %d.\n\n",
		word, s.GetNumber(), s.GetChannels(), cli.Ago(s.GetMadeMs(), now), s.GetGood(), s.GetRequire())
	t := cli.NewTable("PROVIDER", "KIND", ">VERSION", "WRITTEN", "LAST SEEN", ">BYTES", "RECEIPTS", "LAST DRILL", "COUNTS")
	for _, v := range s.GetProviders() {
		receipts := "none"
		if v.GetReceipts() {
			receipts = "signed"
			if !v.GetBound() {
				receipts = "signed, not by its node"
			}
		}
		t.Row(v.GetName(), v.GetKind(), cli.Group(v.GetNumber()), cli.Ago(v.GetAcknowledgedMs(), now), cli.Ago(v.GetConfirmedMs(), now),
			cli.Group(uint64(max(0, v.GetBytes()))), receipts, cli.Ago(v.GetDrilledMs(), now), cli.YesNo(v.GetGood()))
	}
	if t.Len() == 0 {
		p.Printf("No provider is configured: `sluice-wallet backup add` adds one.\n")
	} else {
		p.Table(t)
	}
	if len(s.GetThings()) > 0 && len(s.GetProviders()) > 0 {
		others := cli.NewTable("BESIDES THE CHANNELS", ">VERSION", "MADE", ">BYTES", ">PROVIDERS", "BACKED UP")
		for _, v := range s.GetThings() {
			others.Row(v.GetName(), cli.Group(v.GetNumber()), cli.Ago(v.GetMadeMs(), now), cli.Group(uint64(max(0, v.GetBytes()))),
				fmt.Sprintf("%d of %d", v.GetGood(), s.GetRequire()), cli.YesNo(v.GetBackedUp()))
		}
		p.Printf("\n")
		p.Table(others)
	}
	for _, v := range s.GetProviders() {
		if v.GetProblem() != "" {
			p.Printf("  ! %s: %s\n", v.GetName(), cli.Clean(v.GetProblem()))
		}
	}
	for _, a := range s.GetAlarms() {
		p.Printf("  ! %s\n", cli.Clean(a))
	}
	if s.GetHeldBack() != "" {
		p.Printf("  ! %s\n", cli.Clean(s.GetHeldBack()))
	}
	return p.Err
}

type backupNowCmd struct {
	Wait    time.Duration `default:"1m" help:"How long to wait for the providers."`
	Abandon bool          `help:"Replace stored backups although they know channels that this node does not. The money in those channels is given up."`
}

// Run writes.
func (c *backupNowCmd) Run(w *world, g *Globals) error {
	if c.Wait < time.Second || c.Wait > time.Hour {
		return errkind.New(errkind.Invalid, "--wait must be between 1s and 1h")
	}
	return g.backups(w.ctx, func(ctx context.Context, b backupagentv1.WalletBackupsClient) error {
		r, err := b.BackUpNow(ctx, &backupagentv1.BackUpNowRequest{Abandon: c.Abandon, WaitSeconds: int32(c.Wait / time.Second)}) //nolint:gosec // bounded above
		if err != nil {
			return err
		}
		return showBackups(w, g, r.GetBackups())
	})
}

type backupDrillCmd struct{}

// Run drills.
func (c *backupDrillCmd) Run(w *world, g *Globals) error {
	return g.backups(w.ctx, func(ctx context.Context, b backupagentv1.WalletBackupsClient) error {
		r, err := b.Drill(ctx, &backupagentv1.DrillRequest{})
		if err != nil {
			return err
		}
		return showBackups(w, g, r.GetBackups())
	})
}

type backupForgiveCmd struct {
	Name string `arg:"" help:"The provider's name."`
}

// Run forgives.
func (c *backupForgiveCmd) Run(w *world, g *Globals) error {
	return g.backups(w.ctx, func(ctx context.Context, b backupagentv1.WalletBackupsClient) error {
		r, err := b.Forgive(ctx, &backupagentv1.ForgiveRequest{Name: c.Name})
		if err != nil {
			return err
		}
		return showBackups(w, g, r.GetBackups())
	})
}
