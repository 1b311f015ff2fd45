package devnet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Standby is a PostgreSQL server that follows another one.
type Standby struct {
	*Postgres
	net  *Net
	bin  string
	base string
}

// NewStandby finds a place for one. Data is where it must be made.
func (n *Net) NewStandby(name string) (*Standby, error) {
	bin, err := FindPostgres()
	if err != nil {
		return nil, err
	}
	base, err := os.MkdirTemp(n.dir, name+"-")
	if err != nil {
		return nil, err
	}
	cred, err := postgresCredential()
	if err != nil {
		return nil, err
	}
	if cred != nil {
		if err := os.Chown(base, int(cred.Uid), int(cred.Gid)); err != nil {
			return nil, err
		}
	}
	port, err := n.ports.take()
	if err != nil {
		return nil, err
	}
	s := &Standby{Postgres: &Postgres{addr: loopback(port), data: filepath.Join(base, "data")}, net: n, bin: bin, base: base}
	s.prepare(name, bin, base, n.LogFile(name), port, cred)
	n.OnClose(s.Close)
	return s, nil
}

// Data is its data directory.
func (s *Standby) Data() string { return s.data }

// Make runs the command that makes it, as a person would type it, and starts it.
func (s *Standby) Make(ctx context.Context, command string) error {
	if err := s.run(ctx, command); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Copy makes it what another one, which must be down, is.
func (s *Standby) Copy(ctx context.Context, from *Standby) error {
	return s.run(ctx, fmt.Sprintf("cp -a %s %s", strconv.Quote(from.data), strconv.Quote(s.data)))
}

// Promote ends its following: from now on it can be written to.
func (s *Standby) Promote(ctx context.Context) error {
	return s.run(ctx, fmt.Sprintf("pg_ctl promote -w -D %s", strconv.Quote(s.data)))
}

// DSNOf is the URL of a database in it.
func (s *Standby) DSNOf(database string) string { return s.dsn(database) }

func (s *Standby) run(ctx context.Context, command string) error {
	cred, err := postgresCredential()
	if err != nil {
		return err
	}
	return NewProc(Command{
		Name: "sh", Path: "/bin/sh", Args: []string{"-c", command}, Env: []string{"PATH=" + s.bin + ":" + os.Getenv("PATH")},
		LogFile: s.proc.LogFile(), Dir: s.base, Credential: cred,
	}).runToEnd(ctx)
}
