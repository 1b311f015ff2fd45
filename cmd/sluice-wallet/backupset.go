package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluice-lsp/sluice/backupsvc/agent"
	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// adminFlags are for commands that a person calls by hand, with lnd's own
// macaroon: the daemon's has no such rights.
type adminFlags struct {
	nodeFlags
	AdminMacaroon string `type:"path" placeholder:"FILE" help:"lnd's admin.macaroon, where it is not beside its certificate. It is used now and not kept."`
}

// dial reaches lnd with every right.
func (c *adminFlags) dial(w *world, g *Globals) (*lnd.Client, error) {
	s, err := c.load(w, g.DataDir)
	if err != nil {
		return nil, err
	}
	mac := c.AdminMacaroon
	if mac == "" {
		found, err := filepath.Glob(filepath.Join(filepath.Dir(s.LND.TLS), "data", "chain", "bitcoin", "*", "admin.macaroon"))
		if err != nil || len(found) != 1 {
			return nil, errkind.New(errkind.Invalid, "lnd's admin.macaroon was not found beside its certificate: name it with --admin-macaroon")
		}
		mac = found[0]
	}
	client, err := lnd.Dial(lnd.Config{Address: s.LND.Address, TLSCertFile: s.LND.TLS, MacaroonFile: mac})
	if err != nil {
		return nil, err
	}
	if err := client.WaitReady(w.ctx); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return client, nil
}

type backupKeyCmd struct {
	adminFlags
	PassphraseFile string `type:"existingfile" placeholder:"FILE" help:"Make the key of the passphrase in this file, instead of lnd's seed: for nodes whose host could ask the signer for anything."`
	Replace        bool   `help:"Replace a key of another kind. What is stored opens with the old one only."`
}

// Run makes the key.
func (c *backupKeyCmd) Run(w *world, g *Globals) error {
	client, err := c.dial(w, g)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	secret, err := c.make(w, client)
	if err != nil {
		return err
	}
	if err := warnOfHost(w, client, secret); err != nil {
		return err
	}
	if err := os.MkdirAll(g.DataDir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(g.DataDir, agent.KeyFile)
	have, err := loadKey(g.DataDir)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	case have.Same(secret):
		p := w.printer()
		p.Printf("The key is there already, and is the same.\n")
		return p.Err
	case !c.Replace:
		return errkind.Newf(errkind.Conflict, "%s has another key (%s): what is stored opens with that one only; --replace replaces it", path, have)
	}
	if err := durable.WriteFile(path, []byte(secret.Encode()), 0o600); err != nil {
		return err
	}
	p := w.printer()
	p.Printf("The key (%s) is in %s. Whoever has the %s can make it again.\nNext: `sluice-wallet backup add`, then start the daemon again.\n", secret, path, secret.Kind)
	return p.Err
}

func (c *backupKeyCmd) make(w *world, client *lnd.Client) (seal.Secret, error) {
	info, err := client.Info(w.ctx)
	if err != nil {
		return seal.Secret{}, err
	}
	if c.PassphraseFile == "" {
		return seedSecret(w, client, info.Network)
	}
	text, err := os.ReadFile(c.PassphraseFile)
	if err != nil {
		return seal.Secret{}, err
	}
	return seal.OfPassphrase(info.Network, info.PubKey, bytes.TrimRight(text, "\r\n"))
}

// hostReads is what is said of a seed's key on a node without keys of its own.
const hostReads = "Warning: a remote signer has this node's keys, and whoever runs the node can have it make this key at any moment.\n" +
	"If that is not you, it can read your backups: use `sluice-wallet backup key --passphrase-file FILE`, on a machine of yours.\n"

// warnOfHost says whose the secret may be as well.
func warnOfHost(w *world, client interface {
	WatchOnly(ctx context.Context) (bool, error)
}, secret seal.Secret,
) error {
	if secret.Kind != seal.FromSeed {
		return nil
	}
	watchOnly, err := client.WatchOnly(w.ctx)
	if err != nil || !watchOnly {
		return err
	}
	_, err = io.WriteString(w.stderr, hostReads)
	return err
}

func seedSecret(w *world, client *lnd.Client, network string) (seal.Secret, error) {
	shared, err := client.SharedKey(w.ctx, seal.SeedKey(), seal.SeedPoint())
	if err != nil {
		return seal.Secret{}, err
	}
	return seal.OfSeed(network, shared)
}

type backupAddCmd struct {
	Name        string `arg:"" help:"A short name of your choice."`
	Gateway     string `xor:"kind" placeholder:"NODEKEY@HOST:PORT" help:"A gateway's vault: its node's key, and where its service listens."`
	Vss         string `name:"vss" xor:"kind" placeholder:"URL" help:"A VSS server, https://HOST/vss."`
	Dir         string `xor:"kind" type:"path" placeholder:"DIR" help:"A directory: a memory stick, another disk, a share. It is made if it is not there."`
	S3          string `name:"s3" xor:"kind" placeholder:"URL" help:"A bucket, https://ENDPOINT/BUCKET[/PREFIX]. It must honour conditional writes."`
	Cert        string `type:"existingfile" placeholder:"FILE" help:"The provider's TLS certificate; its key is pinned. Without it the system's roots decide."`
	Credentials string `type:"existingfile" placeholder:"FILE" help:"A VSS server's token, or a bucket's access key and secret on two lines."`
	Region      string `help:"A bucket's region, where it needs one."`
}

// Run adds.
func (c *backupAddCmd) Run(w *world, g *Globals) error {
	p := agent.ProviderConfig{Name: c.Name, Region: c.Region}
	var err error
	switch {
	case c.Gateway != "":
		key, address, ok := strings.Cut(c.Gateway, "@")
		if !ok {
			return errkind.Newf(errkind.Invalid, "%q: want NODEKEY@HOST:PORT", clip(c.Gateway))
		}
		p.Kind, p.Address = agent.KindGateway, address
		if p.NodeKey, err = ln.ParsePubKey(key); err != nil {
			return errkind.Wrap(errkind.Invalid, err, err.Error())
		}
	case c.Vss != "":
		p.Kind, p.Address = agent.KindVSS, c.Vss
	case c.Dir != "":
		p.Kind, p.Address = agent.KindDir, c.Dir
	case c.S3 != "":
		p.Kind, p.Address = agent.KindS3, c.S3
	default:
		return errkind.New(errkind.Invalid, "say where it is: --gateway, --vss, --dir or --s3")
	}
	if p.Certificate, err = absolute(c.Cert); err != nil {
		return err
	}
	if p.Credentials, err = absolute(c.Credentials); err != nil {
		return err
	}
	return changeSettings(w, g, func(s agent.Settings) (agent.Settings, error) {
		s, err := s.Add(p)
		if err == nil && p.Kind == agent.KindDir {
			err = provider.PrepareDir(p.Address)
		}
		return s, err
	}, "Added "+c.Name+". A running daemon takes it up within seconds.\n")
}

func changeSettings(w *world, g *Globals, change func(agent.Settings) (agent.Settings, error), said string) error {
	if err := os.MkdirAll(g.DataDir, 0o700); err != nil {
		return err
	}
	s, err := agent.LoadSettings(g.DataDir)
	if err != nil {
		return err
	}
	if s, err = change(s); err != nil {
		return err
	}
	if err := agent.SaveSettings(g.DataDir, s); err != nil {
		return err
	}
	p := w.printer()
	p.Printf("%s", said)
	p.Printf("%d provider(s); each version is wanted at %d of them.\n", len(s.Providers), s.Needed())
	return p.Err
}

type backupRemoveCmd struct {
	Name string `arg:"" help:"The provider's name."`
}

// Run removes.
func (c *backupRemoveCmd) Run(w *world, g *Globals) error {
	return changeSettings(w, g, func(s agent.Settings) (agent.Settings, error) { return s.Remove(c.Name) },
		"Removed "+c.Name+". What it stores stays there.\n")
}

type backupRequireCmd struct {
	Number int `arg:"" help:"At how many providers each version must be before the wallet counts as backed up; 0 means all."`
}

// Run sets.
func (c *backupRequireCmd) Run(w *world, g *Globals) error {
	return changeSettings(w, g, func(s agent.Settings) (agent.Settings, error) {
		if c.Number > len(s.Providers) {
			return s, errkind.Newf(errkind.Invalid, "there are %d provider(s): add more first", len(s.Providers))
		}
		s.Require = c.Number
		return s, nil
	}, "")
}

type backupAlarmCmd struct {
	Off     bool     `help:"Call no program any more."`
	Test    bool     `help:"Call it now, as an alarm would."`
	Program string   `arg:"" optional:"" type:"existingfile" help:"The program. What is wrong is on its standard input, a line each; SLUICE_BACKUP is alarm, or over once all is in order again."`
	Args    []string `arg:"" optional:"" help:"Its arguments, always the same."`
}

// Run sets or tests.
func (c *backupAlarmCmd) Run(w *world, g *Globals) error {
	if (c.Program != "") == c.Off && (c.Off || !c.Test) {
		return errkind.New(errkind.Invalid, "name the program, or say --off or --test")
	}
	if c.Program != "" || c.Off {
		if err := changeSettings(w, g, func(s agent.Settings) (agent.Settings, error) {
			s.AlarmCommand = nil
			if c.Program == "" {
				return s, nil
			}
			program, err := absolute(c.Program)
			s.AlarmCommand = append([]string{program}, c.Args...)
			return s, err
		}, ""); err != nil {
			return err
		}
	}
	if !c.Test {
		return nil
	}
	s, err := agent.LoadSettings(g.DataDir)
	if err != nil {
		return err
	}
	if len(s.AlarmCommand) == 0 {
		return errkind.New(errkind.Invalid, "no program is set: `sluice-wallet backup alarm PROGRAM` sets one")
	}
	if err := agent.RunAlarm(w.ctx, s.AlarmCommand, agent.AlarmRaised, "This is a test of the alarm about backups.\n"); err != nil {
		return err
	}
	p := w.printer()
	p.Printf("%s was called.\n", s.AlarmCommand[0])
	return p.Err
}

type backupIncludeCmd struct {
	Name string `arg:"" help:"A short name of your choice, unlike those of your other files."`
	File string `arg:"" type:"existingfile" help:"The file. Of a SQLite database that is in use a consistent copy is taken."`
}

// Run includes.
func (c *backupIncludeCmd) Run(w *world, g *Globals) error {
	path, err := absolute(c.File)
	if err != nil {
		return err
	}
	return changeSettings(w, g, func(s agent.Settings) (agent.Settings, error) {
		s.Files = append(s.Files, agent.FileConfig{Name: c.Name, Path: path})
		return s, s.Validate()
	}, "Included "+c.Name+". A restore puts it into restored/ in the data directory.\n")
}

type backupExcludeCmd struct {
	Name string `arg:"" help:"The file's name."`
}

// Run excludes.
func (c *backupExcludeCmd) Run(w *world, g *Globals) error {
	return changeSettings(w, g, func(s agent.Settings) (agent.Settings, error) {
		n := len(s.Files)
		s.Files = slices.DeleteFunc(s.Files, func(f agent.FileConfig) bool { return f.Name == c.Name })
		if len(s.Files) == n {
			return s, errkind.Newf(errkind.NotFound, "there is no file named %s", clip(c.Name))
		}
		return s, nil
	}, "Excluded "+c.Name+". What is stored of it stays there.\n")
}
