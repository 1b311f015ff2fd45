package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/pgreplica"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
	"github.com/sluice-lsp/sluice/lws/tenant/recovery"
)

// handover is what a tenant needs to follow its node's database, and to run the node
// without the operator.
type handover struct {
	Version int    `json:"version"`
	Tenant  string `json:"tenant"`
	Network string `json:"network"`
	// Name is the replica's role and slot.
	Name     string `json:"replica_name"`
	Database string `json:"database"`
	// Primary is how to follow, as PostgreSQL takes it, without a database.
	Primary string `json:"primary_url"`
	// Password opens the node's wallet, which has no private key.
	Password string `json:"wallet_password"`
}

const handoverVersion = 1

func readHandover(path string) (h handover, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return h, fmt.Errorf("%s: %w", path, err)
	}
	if h.Version != handoverVersion || h.Tenant == "" || h.Name == "" || h.Primary == "" {
		return h, fmt.Errorf("%s is not what sluicectl tenant replica wrote", path)
	}
	return h, nil
}

// TenantReplicaCmd has a hosted node's database followed by its tenant.
type TenantReplicaCmd struct {
	Tenant  string `arg:"" help:"Whose node."`
	Admin   string `name:"admin-dsn-file" required:"" type:"path" placeholder:"FILE" help:"Connection string of a superuser, to the node's database in its own cluster."`
	Address string `required:"" placeholder:"HOST:PORT" help:"How the tenant reaches this PostgreSQL."`
	TLS     string `name:"sslmode" default:"verify-full" enum:"verify-full,verify-ca,require,disable" help:"How the tenant's replica connects (${default}); disable inside a tunnel only."`
	Out     string `type:"path" placeholder:"FILE" help:"Where to write what the tenant needs (TENANT.replica)."`
	Anew    bool   `name:"new-password" help:"Give the replica a new password, and write the file again."`
}

// Run implements the command.
func (c TenantReplicaCmd) Run(w *world, g *Globals) error {
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		return fmt.Errorf("--address: %w", err)
	}
	n, err := readHosted(filepath.Join(g.DataDir, hostedDir, c.Tenant+".json"))
	if err != nil {
		return fmt.Errorf("the node of %s: %w; sluicectl tenant add makes it", c.Tenant, err)
	}
	password, err := os.ReadFile(filepath.Join(n.Dir, onboard.FilePassword))
	if err != nil {
		return fmt.Errorf("the node's wallet password: %w", err)
	}
	db, err := openDSN(w.ctx, c.Admin)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	out := c.Out
	if out == "" {
		out = c.Tenant + ".replica"
	}
	_, statErr := os.Stat(out)
	got, err := pgreplica.Prepare(w.ctx, db, c.Tenant, c.Anew || errors.Is(statErr, os.ErrNotExist))
	if err != nil {
		return err
	}
	if got.Password != "" {
		primary := url.URL{Scheme: "postgres", User: url.UserPassword(got.Name, got.Password), Host: c.Address, Path: "/" + got.Database, RawQuery: "sslmode=" + c.TLS}
		raw, err := json.MarshalIndent(handover{
			Version: handoverVersion, Tenant: c.Tenant, Network: n.Network, Name: got.Name, Database: got.Database, Primary: primary.String(), Password: string(password),
		}, "", "  ")
		if err != nil {
			return err
		}
		if err := auth.WriteFileAtomic(out, append(raw, '\n')); err != nil {
			return err
		}
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, map[string]any{"replica_name": got.Name, "file": out, "synchronous": got.Synchronous, "said": got.Said})
	}
	p := w.printer()
	if got.Synchronous {
		p.Printf("Every commit of the node waits for the tenant's replica: while that is away, the node stands still.\n")
		return p.Err
	}
	p.Printf("%s\nGive %s to the tenant, by a way that you both trust, and let its address in: a line of pg_hba.conf like\n  hostssl replication,%s %s ADDRESS/32 scram-sha-256\n", strings.ToUpper(got.Said[:1])+got.Said[1:]+".", out, got.Database, got.Name)
	return p.Err
}

// SignerReplicaCmd is the tenant's side of it.
type SignerReplicaCmd struct {
	Base  ReplicaBaseCmd  `cmd:"" help:"Print the command that makes the replica; pipe it into sh, so that its password is in no history."`
	Watch ReplicaWatchCmd `cmd:"" help:"Look how the replication stands, and note it: the note is half of the proof that the replica is fresh."`
}

// ReplicaBaseCmd prints how to begin.
type ReplicaBaseCmd struct {
	File string `arg:"" type:"path" help:"What the operator gave you (TENANT.replica)."`
	To   string `required:"" type:"path" placeholder:"DIR" help:"The replica's data directory."`
}

// Run implements the command.
func (c ReplicaBaseCmd) Run(w *world, _ *Globals) error {
	h, err := readHandover(c.File)
	if err != nil {
		return err
	}
	u, err := url.Parse(h.Primary)
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	q := u.Query()
	q.Set("application_name", h.Name)
	u.RawQuery, u.Path = q.Encode(), "/"
	p := w.printer()
	if password, ok := u.User.Password(); ok {
		// Everybody on the machine reads the arguments of a process, nobody else its environment.
		u.User = url.User(u.User.Username())
		p.Printf("PGPASSWORD=%s ", shellQuoted(password))
	}
	p.Printf("pg_basebackup --pgdata=%s --write-recovery-conf --slot=%s --wal-method=stream --checkpoint=fast --dbname=%s\n", shellQuoted(c.To), h.Name, shellQuoted(u.String()))
	return p.Err
}

func shellQuoted(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// ReplicaWatchCmd looks and notes.
type ReplicaWatchCmd struct {
	File  string        `arg:"" type:"path" help:"What the operator gave you (TENANT.replica)."`
	Note  string        `required:"" type:"path" placeholder:"FILE" help:"Where to note what was seen."`
	Every time.Duration `default:"10s" help:"How often (${default})."`
	Once  bool          `help:"Look once; exit code 1 unless the replication is synchronous."`
}

// Run implements the command.
func (c ReplicaWatchCmd) Run(w *world, g *Globals) error {
	h, err := readHandover(c.File)
	if err != nil {
		return err
	}
	last, err := readSighting(c.Note)
	if err != nil {
		return err
	}
	p := w.printer()
	told := ""
	look := func(ctx context.Context) {
		s, err := c.look(ctx, w, h, last)
		said := "synchronous: every commit of the node waits for this replica"
		switch {
		case err != nil:
			// Nothing is noted: what was seen last counts, as long as it is not too old.
			said = err.Error()
		case !s.Synchronous:
			said = "NOT SYNCHRONOUS: " + s.Said
		}
		if err == nil {
			last = &s
		}
		if said != told && ctx.Err() == nil {
			p.Printf("%s %s\n", w.now().UTC().Format(time.DateTime), said)
			told = said
		}
	}
	if !c.Once {
		pace.Every(w.ctx, c.Every, look)
		return p.Err
	}
	look(w.ctx)
	if g.JSON && last != nil {
		return cli.WriteJSON(w.stdout, last)
	}
	if last == nil || !last.Synchronous {
		return errors.Join(p.Err, exitCode(1))
	}
	return p.Err
}

// lookTime bounds one look.
const lookTime = 20 * time.Second

func (c ReplicaWatchCmd) look(ctx context.Context, w *world, h handover, last *recovery.Sighting) (recovery.Sighting, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	db, err := pgreplica.Open(ctx, h.Primary)
	if err != nil {
		return recovery.Sighting{}, err
	}
	defer func() { _ = db.Close() }()
	got, err := pgreplica.Look(ctx, db, h.Name, h.Database)
	if err != nil {
		return recovery.Sighting{}, err
	}
	s := last.Next(recovery.Sighting{
		System: got.System, Slot: h.Name, AtMs: got.At.UnixMilli(), SeenMs: w.now().UnixMilli(), Synchronous: got.Synchronous, Said: got.Said, Position: got.Position,
	})
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return s, err
	}
	return s, durable.WriteFile(c.Note, append(raw, '\n'), 0o600)
}

// readSighting gives the last look, or nil before the first.
func readSighting(path string) (*recovery.Sighting, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // nobody has looked yet
	}
	if err != nil {
		return nil, err
	}
	var s recovery.Sighting
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &s, nil
}
