package devnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// ErrNoPostgres means that PostgreSQL's programs are not installed. Its text
// says what to install.
var ErrNoPostgres = errors.New("PostgreSQL is not installed: install Debian's package postgresql, " +
	"or set SLUICE_PG_BIN to the directory of initdb and postgres")

const pgUser = "sluice"

// Postgres is a PostgreSQL server of its own, durable as in production (fsync
// on), so that killing it tests what a crash would do.
type Postgres struct {
	proc  *Proc
	ports *ports // nil when the network owns them
	addr  string
	data  string
}

// FindPostgres returns the directory of PostgreSQL's programs: SLUICE_PG_BIN,
// or the highest version that Debian's packages installed, or the PATH.
func FindPostgres() (string, error) {
	dirs := []string{os.Getenv("SLUICE_PG_BIN")}
	debian, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	version := func(dir string) int {
		v, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err != nil {
			return 0
		}
		return v
	}
	slices.SortFunc(debian, func(a, b string) int { return version(b) - version(a) })
	dirs = append(dirs, debian...)
	if path, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, dir := range dirs {
		if dir != "" && isFile(filepath.Join(dir, "initdb")) && isFile(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", ErrNoPostgres
}

// StartPostgres makes a database cluster below dir and starts its server on
// loopback. Under root it runs as the user postgres, for PostgreSQL refuses
// root; dir and its parents must then let that user through. Close ends it.
func StartPostgres(ctx context.Context, dir string) (*Postgres, error) {
	ports, err := reservePorts()
	if err != nil {
		return nil, err
	}
	pg, err := startPostgres(ctx, dir, filepath.Join(dir, "postgres.log"), ports)
	if err != nil {
		return nil, errors.Join(err, ports.release())
	}
	pg.ports = ports
	return pg, nil
}

// StartPostgres starts a PostgreSQL server that ends with the network.
func (n *Net) StartPostgres(ctx context.Context) (*Postgres, error) {
	pg, err := startPostgres(ctx, n.dir, n.LogFile("postgres"), n.ports)
	if err != nil {
		return nil, err
	}
	n.OnClose(pg.Close)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.extras = append(n.extras, ProcInfo{Name: "postgres", Log: pg.proc.LogFile(), proc: pg.proc})
	return pg, nil
}

func startPostgres(ctx context.Context, dir, logFile string, ports *ports) (*Postgres, error) {
	bin, err := FindPostgres()
	if err != nil {
		return nil, err
	}
	base, err := os.MkdirTemp(dir, "postgres-")
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
	port, err := ports.take()
	if err != nil {
		return nil, err
	}
	pg := &Postgres{addr: loopback(port), data: filepath.Join(base, "data")}

	initdb := NewProc(Command{
		Name: "initdb", Path: filepath.Join(bin, "initdb"), LogFile: logFile, Dir: base, Credential: cred,
		Args: []string{
			"--pgdata=" + pg.data, "--username=" + pgUser, "--auth=trust",
			"--encoding=UTF8", "--locale=C", "--no-sync",
		},
	})
	if err := initdb.runToEnd(ctx); err != nil {
		return nil, fmt.Errorf("create the PostgreSQL cluster: %w", err)
	}

	pg.prepare("postgres", bin, base, logFile, port, cred)
	if err := pg.proc.Start(ctx); err != nil {
		return nil, err
	}
	return pg, nil
}

// prepare says how the server runs.
func (pg *Postgres) prepare(name, bin, base, logFile string, port int, cred *syscall.Credential) {
	pg.proc = NewProc(Command{
		Name: name, Path: filepath.Join(bin, "postgres"), LogFile: logFile, Dir: base, Credential: cred,
		Args: []string{
			"-D", pg.data, "-h", "127.0.0.1", "-p", strconv.Itoa(port), "-k", "",
			"-c", "max_connections=200", "-c", "log_min_messages=warning", "-c", "fsync=on",
		},
		// SIGTERM waits for clients to leave; SIGINT rolls them back and ends.
		StopSignal: syscall.SIGINT,
		Ready: func(ctx context.Context) error {
			return WaitFor(ctx, "PostgreSQL to accept connections", func(ctx context.Context) (bool, error) {
				conn, err := pgx.Connect(ctx, pg.dsn("postgres"))
				if err != nil {
					return false, err
				}
				return true, conn.Close(ctx)
			})
		},
	})
}

// runToEnd starts the process and waits for it to succeed.
func (p *Proc) runToEnd(ctx context.Context) error {
	run, err := p.spawn()
	if err != nil {
		return err
	}
	select {
	case <-run.done:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s: %w", p.cmd.Name, context.Cause(ctx)), p.Kill())
	}
	if !errors.Is(run.err, errExitZero) {
		return fmt.Errorf("%s: %w\n%s", p.cmd.Name, run.err, p.LogTail(15))
	}
	return nil
}

func postgresCredential() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is no other user for it: %w", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (pg *Postgres) dsn(database string) string {
	return fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable&connect_timeout=5", pgUser, pg.addr, database)
}

// CreateDatabase makes an empty database and returns its DSN. Names are
// lower-case letters, digits and underscores.
func (pg *Postgres) CreateDatabase(ctx context.Context, name string) (string, error) {
	if err := checkDatabase(name); err != nil {
		return "", err
	}
	return pg.dsn(name), pg.admin(ctx, "CREATE DATABASE "+name)
}

// CopyDatabase makes one database what another is, as a dump and its restore
// would. Nobody may be connected to either.
func (pg *Postgres) CopyDatabase(ctx context.Context, from, to string) error {
	if err := errors.Join(checkDatabase(from), checkDatabase(to)); err != nil {
		return err
	}
	return pg.admin(ctx, "DROP DATABASE IF EXISTS "+to, "CREATE DATABASE "+to+" TEMPLATE "+from)
}

// ReplaceDatabase is CopyDatabase over a database that is in use: whoever is connected
// to it is cut off, and finds the other one when he comes again.
func (pg *Postgres) ReplaceDatabase(ctx context.Context, from, to string) error {
	if err := errors.Join(checkDatabase(from), checkDatabase(to)); err != nil {
		return err
	}
	return pg.admin(ctx, "DROP DATABASE "+to+" WITH (FORCE)", "CREATE DATABASE "+to+" TEMPLATE "+from)
}

func checkDatabase(name string) error {
	if !regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`).MatchString(name) {
		return fmt.Errorf("database name %q: want lower-case letters, digits and underscores", name)
	}
	return nil
}

func (pg *Postgres) admin(ctx context.Context, statements ...string) error {
	conn, err := pgx.Connect(ctx, pg.dsn("postgres"))
	if err != nil {
		return err
	}
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return errors.Join(err, conn.Close(ctx))
		}
	}
	return conn.Close(ctx)
}

// DSN is the URL of the database "postgres", which exists from the start.
func (pg *Postgres) DSN() string { return pg.dsn("postgres") }

// Proc is the server's main process.
func (pg *Postgres) Proc() *Proc { return pg.proc }

// Start starts a stopped or killed server on the same data and port.
func (pg *Postgres) Start(ctx context.Context) error { return pg.proc.Start(ctx) }

// Stop ends the server in an orderly way; open transactions are rolled back.
func (pg *Postgres) Stop(ctx context.Context) error { return pg.proc.Stop(ctx) }

// Kill ends the server and every backend at once (SIGKILL), as a power cut
// would, and returns when none is left.
func (pg *Postgres) Kill() error {
	pid := pg.proc.PID()
	if pid == 0 {
		return nil
	}
	// The server first, so that it starts no further backend.
	if err := pg.proc.Freeze(); err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	backends, err := childrenOf(pid)
	if err != nil {
		return err
	}
	for _, backend := range backends {
		_ = syscall.Kill(backend, syscall.SIGKILL)
	}
	if err := pg.proc.Kill(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	return WaitFor(ctx, "PostgreSQL's backends to be gone", func(context.Context) (bool, error) {
		left := slices.DeleteFunc(slices.Clone(backends), func(pid int) bool { return !alive(pid) })
		return len(left) == 0, nil
	})
}

// Freeze suspends the server and its backends, so that queries hang.
func (pg *Postgres) Freeze() error { return pg.signalAll(pg.proc.Freeze, syscall.SIGSTOP) }

// Thaw ends Freeze.
func (pg *Postgres) Thaw() error { return pg.signalAll(pg.proc.Thaw, syscall.SIGCONT) }

func (pg *Postgres) signalAll(server func() error, sig syscall.Signal) error {
	pid := pg.proc.PID()
	if err := server(); err != nil {
		return err
	}
	backends, err := childrenOf(pid)
	if err != nil {
		return err
	}
	for _, backend := range backends {
		if err := syscall.Kill(backend, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// Close kills the server. Its directory belongs to the caller.
func (pg *Postgres) Close() error {
	err := pg.Kill()
	if pg.ports != nil {
		err = errors.Join(err, pg.ports.release())
		pg.ports = nil
	}
	return err
}
