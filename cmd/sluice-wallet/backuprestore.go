package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/backupsvc/agent"
	"github.com/sluice-lsp/sluice/backupsvc/recovery"
	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

type backupRestoreCmd struct {
	adminFlags
	Look  bool `help:"Only show what the providers have."`
	Older bool `help:"Restore although a newer version exists, or may, of the channels or of anything else. The money of channels opened since is not asked for."`
	Yes   bool `short:"y" help:"Don't ask."`
	Watch bool `short:"w" help:"Show what comes back until all has."`
}

// Run restores.
func (c *backupRestoreCmd) Run(w *world, g *Globals) error {
	client, err := c.dial(w, g)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	secret, err := c.secret(w, g, client)
	if err != nil {
		return err
	}
	a, err := backupAgent(g.DataDir, secret, client, zap.NewNop())
	if err != nil {
		return err
	}
	s, err := a.Look(w.ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := saveEvidence(g.DataDir, s); err != nil {
		return err
	}
	p := w.printer()
	if g.JSON && c.Look {
		return cli.WriteJSON(w.stdout, surveyJSON(s))
	}
	printSurvey(p, s)
	if c.Look || p.Err != nil {
		return p.Err
	}
	if s.Choice.Best >= 0 && !c.Yes {
		if err := c.ask(w, p, s); err != nil {
			return err
		}
	}
	r, err := a.Restore(w.ctx, s, c.Older, client)
	if err != nil {
		return err
	}
	p.Printf("lnd took version %d of %s with %d channel(s), and asks each peer to close.\n", r.Number, r.Provider, len(r.Channels))
	if err := restoreFiles(w.ctx, p, g.DataDir, a, s, c.Older); err != nil {
		return err
	}
	return follow(w, g, a, r, c.Watch)
}

// secret is the key of this machine, or made anew of the seed.
func (c *backupRestoreCmd) secret(w *world, g *Globals, client *lnd.Client) (seal.Secret, error) {
	secret, err := loadKey(g.DataDir)
	if !errors.Is(err, os.ErrNotExist) {
		return secret, err
	}
	info, err := client.Info(w.ctx)
	if err != nil {
		return secret, err
	}
	if secret, err = seedSecret(w, client, info.Network); err != nil {
		return secret, err
	}
	if err := warnOfHost(w, client, secret); err != nil {
		_, _ = fmt.Fprintf(w.stderr, "Whether a remote signer has this node's keys is not known: %v\n", err)
	}
	if err := os.MkdirAll(g.DataDir, 0o700); err != nil {
		return secret, err
	}
	return secret, durable.WriteFile(filepath.Join(g.DataDir, agent.KeyFile), []byte(secret.Encode()), 0o600)
}

func (c *backupRestoreCmd) ask(w *world, p *cli.Printer, s agent.Survey) error {
	n := len(s.Findings[s.Choice.Best].Snapshot.Channels)
	p.Printf("\nRestoring closes all %d channel(s): each peer is asked to close by force. If the old node can still run, use it instead,\nand never start it again afterwards. Continue? (yes/no) ", n)
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if strings.TrimSpace(line) != "yes" {
		return errkind.Wrap(errkind.Denied, errors.Join(err, errors.New("not confirmed")), "nothing was restored: answer yes, or say --yes")
	}
	return p.Err
}

// saveEvidence keeps what convicts a provider.
func saveEvidence(dir string, s agent.Survey) error {
	for _, f := range s.Findings {
		if f.Evidence == nil {
			continue
		}
		raw, err := json.MarshalIndent(f.Evidence, "", " ")
		if err != nil {
			return err
		}
		if err := durable.WriteFile(evidenceFile(dir, f), append(raw, '\n'), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func evidenceFile(dir string, f agent.Finding) string {
	return filepath.Join(dir, fmt.Sprintf("evidence-%s-%d.json", f.Name, f.Evidence.Shown.AtMs))
}

func printSurvey(p *cli.Printer, s agent.Survey) {
	t := cli.NewTable("PROVIDER", ">VERSION", "MADE (THAT MACHINE'S CLOCK)", ">CHANNELS", "ITS LOG", "")
	for i, f := range s.Findings {
		version, made, channels, note := "-", "-", "-", s.Choice.Notes[f.Place]
		if f.Snapshot != nil {
			version, made, channels = cli.Group(f.Snapshot.Number), cli.Time(f.Snapshot.MadeMs), cli.Group(uint64(len(f.Snapshot.Channels)))
		}
		switch {
		case f.Err != "":
			note = "did not answer: " + f.Err
		case f.Damaged != "":
			note = f.Damaged
		case note == "" && i == s.Choice.Best:
			note = "this one"
		}
		verdict := string(f.Verdict)
		if f.Shown != nil && verdict == "" {
			verdict = "nothing known of it"
		}
		t.Row(f.Name, version, made, channels, cli.Words(verdict), note)
	}
	p.Table(t)
	for _, f := range s.Findings {
		if f.Evidence != nil {
			p.Printf("  ! %s contradicts itself: evidence-%s-%d.json in the data directory proves it to others\n", f.Name, f.Name, f.Evidence.Shown.AtMs)
		}
	}
	for _, why := range s.Choice.Against {
		p.Printf("  ! %s\n", cli.Clean(why))
	}
}

func surveyJSON(s agent.Survey) map[string]any {
	var list []map[string]any
	for i, f := range s.Findings {
		m := map[string]any{"provider": f.Name, "place": f.Place, "chosen": i == s.Choice.Best}
		if f.Snapshot != nil {
			m["version"], m["made_ms"], m["channels"] = f.Snapshot.Number, f.Snapshot.MadeMs, f.Snapshot.Channels
		}
		for name, text := range map[string]string{"error": f.Err, "damaged": f.Damaged, "verdict": string(f.Verdict), "note": s.Choice.Notes[f.Place]} {
			if text != "" {
				m[name] = text
			}
		}
		list = append(list, m)
	}
	return map[string]any{"providers": list, "against": s.Choice.Against}
}

// restoreFiles brings the wallet's other things back where there are none.
func restoreFiles(ctx context.Context, p *cli.Printer, dir string, a *agent.Agent, s agent.Survey, older bool) error {
	things, told, err := a.Extras(ctx, s, older)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(things)) {
		wrote, err := restoreThing(dir, name, things[name])
		for _, what := range wrote {
			p.Printf("Restored %s.\n", what)
		}
		if err != nil {
			// One thing that cannot be written keeps no other from being restored.
			told = append(told, fmt.Sprintf("%s is not restored: %v", name, err))
		}
	}
	for _, what := range told {
		p.Printf("  ! %s\n", cli.Clean(what))
	}
	return p.Err
}

// follow shows what comes back.
func follow(w *world, g *Globals, a *agent.Agent, r agent.Restored, watch bool) error {
	for last := ""; ; {
		list, err := a.Progress(w.ctx, r.Channels)
		if err != nil {
			return err
		}
		text, done := progress(list)
		switch {
		case g.JSON && (text != last || !watch):
			if err := cli.WriteJSON(w.stdout, map[string]any{"version": r.Number, "channels": list, "done": done}); err != nil {
				return err
			}
		case !g.JSON && text != last:
			p := w.printer()
			p.Printf("\n%s", text)
			if p.Err != nil {
				return p.Err
			}
		}
		if last = text; !watch || done {
			return nil
		}
		select {
		case <-w.ctx.Done():
			return w.ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
}

func progress(list []agent.Returning) (string, bool) {
	t := cli.NewTable("CHANNEL", "PEER", "ONLINE", "STEP", ">ON ITS WAY", ">BACK", "WHAT HAPPENS NEXT")
	done, back := true, uint64(0)
	for _, r := range list {
		done = done && (r.Step == agent.StepDone || r.Step == agent.StepOpen)
		back += uint64(r.BackSat)
		t.Row(short(r.Channel), fmt.Sprintf("%.16s", r.Peer), cli.YesNo(r.Connected), cli.Words(string(r.Step)), cli.Sat(uint64(r.LimboSat)), cli.Sat(uint64(r.BackSat)), r.Then)
	}
	var b strings.Builder
	_ = t.Write(&b)
	if done {
		fmt.Fprintf(&b, "All %d channel(s) are settled: %s came back from them, before the fees of sweeping it.\n", len(list), cli.Sat(back))
	}
	return b.String(), done
}

type backupProgressCmd struct {
	adminFlags
	Watch bool `short:"w" help:"Show changes until all has come back."`
}

// Run shows.
func (c *backupProgressCmd) Run(w *world, g *Globals) error {
	r, damaged, err := agent.LoadRestored(g.DataDir)
	if err != nil {
		return err
	}
	if damaged {
		return errkind.New(errkind.NotFound, "what was noted of the restore was damaged, and is put aside: `sluice-wallet backup restore` begins again, which does no harm")
	}
	if r == nil {
		return errkind.New(errkind.NotFound, "nothing was restored here: `sluice-wallet backup restore` does")
	}
	client, err := c.dial(w, g)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	secret, err := loadKey(g.DataDir)
	if err != nil {
		return err
	}
	a, err := backupAgent(g.DataDir, secret, client, zap.NewNop())
	if err != nil {
		return err
	}
	return follow(w, g, a, *r, c.Watch)
}

type backupExportCmd struct {
	adminFlags
	File   string `arg:"" type:"path" help:"The file to write."`
	Sealed bool   `help:"Encrypt it with the backup's key as well. Without, it is lnd's own file, which lncli restorechanbackup takes, and which opens with the node's public keys."`
}

// Run exports.
func (c *backupExportCmd) Run(w *world, g *Globals) error {
	return c.with(w, g, func(a *agent.Agent, _ *lnd.Client) error {
		content, n, err := a.Export(w.ctx, c.Sealed)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(c.File, content, 0o600); err != nil {
			return err
		}
		p := w.printer()
		p.Printf("%s has the backup of %d channel(s).\n", c.File, n)
		return p.Err
	})
}

// with runs a command that needs lnd and the key.
func (c *adminFlags) with(w *world, g *Globals, use func(*agent.Agent, *lnd.Client) error) error {
	client, err := c.dial(w, g)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	secret, err := loadKey(g.DataDir)
	if err != nil {
		return err
	}
	a, err := backupAgent(g.DataDir, secret, client, zap.NewNop())
	if err != nil {
		return err
	}
	return use(a, client)
}

type backupImportCmd struct {
	adminFlags
	File string `arg:"" type:"existingfile" help:"A file of export, or lnd's channel.backup."`
	Yes  bool   `short:"y" help:"Import it although nobody can say whether there is a newer one."`
}

// Run imports.
func (c *backupImportCmd) Run(w *world, g *Globals) error {
	if !c.Yes {
		return errkind.New(errkind.Invalid, "a file cannot say whether there is a newer backup, and importing it closes its channels: say --yes, or use `sluice-wallet backup restore`")
	}
	content, err := os.ReadFile(c.File)
	if err != nil {
		return err
	}
	return c.with(w, g, func(a *agent.Agent, client *lnd.Client) error {
		r, err := a.Import(w.ctx, content, client)
		if err != nil {
			return err
		}
		p := w.printer()
		p.Printf("lnd took %d channel(s), and asks each peer to close.\n", len(r.Channels))
		if p.Err != nil {
			return p.Err
		}
		return follow(w, g, a, r, false)
	})
}

type backupVerifyCmd struct {
	File string `arg:"" type:"existingfile" help:"An evidence file."`
}

// Run verifies.
func (c *backupVerifyCmd) Run(w *world, _ *Globals) error {
	raw, err := os.ReadFile(c.File)
	if err != nil {
		return err
	}
	var e recovery.Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		return errkind.Wrap(errkind.Invalid, err, "this is no evidence file")
	}
	text, err := e.Verify(auth.RecoverSigner)
	if err != nil {
		return errkind.Wrap(errkind.Invalid, err, "it proves nothing: "+err.Error())
	}
	p := w.printer()
	p.Printf("Proved: %s.\n", text)
	return p.Err
}
