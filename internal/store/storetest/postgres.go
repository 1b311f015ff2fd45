package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/oklog/ulid/v2"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/store"
)

// shared starts the one server that a test process's tests use together. It is
// package state because the process is its scope.
var shared = sync.OnceValues(func() (*Server, error) { return startServer(false) })

// Server is a PostgreSQL server in a temporary directory, reachable by its Unix
// socket only.
type Server struct {
	dir     string
	bin     string
	attr    *syscall.SysProcAttr
	durable bool
	guard   *exec.Cmd
	stdin   io.WriteCloser
}

// StartPostgres starts a server of the test's own, to be killed and started
// again. A durable one waits for the disk as in production.
func StartPostgres(t testing.TB, durable bool) *Server {
	t.Helper()
	if os.Getenv("SLUICE_SKIP_POSTGRES") == "1" {
		t.Skip("PostgreSQL part skipped: SLUICE_SKIP_POSTGRES=1")
	}
	srv, err := startServer(durable)
	if err != nil {
		t.Fatalf("PostgreSQL for tests: %v\n(install it, or set SLUICE_SKIP_POSTGRES=1 to skip)", err)
	}
	t.Cleanup(func() {
		if err := srv.stop(); err != nil {
			t.Errorf("stop PostgreSQL: %v", err)
		}
	})
	return srv
}

// guardScript is the server's parent. When its standard input closes, for
// whatever reason, it ends the server and, unless it was told to keep it, removes
// the directory: so a test process that is killed leaves nothing behind either.
const guardScript = `
dir=$1; shift
"$@" >>"$dir/log" 2>&1 </dev/null &
pid=$!
read -r how
kill -QUIT $pid 2>/dev/null
wait $pid
[ "$how" = keep ] || rm -rf "$dir"
`

func startServer(durable bool) (*Server, error) {
	bin, err := findPostgres()
	if err != nil {
		return nil, err
	}
	attr, uid, gid, err := credential()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "sluice-pg-")
	if err != nil {
		return nil, err
	}
	srv := &Server{dir: dir, bin: bin, attr: attr, durable: durable}
	if uid >= 0 {
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	fail := func(err error) (*Server, error) {
		return nil, errors.Join(err, srv.stop(), os.RemoveAll(dir))
	}
	out, err := srv.command(filepath.Join(bin, "initdb"), "-D", srv.data(), "-U", "postgres", "-A", "trust",
		"-E", "UTF8", "--locale=C", "--no-sync").CombinedOutput()
	if err != nil {
		return fail(fmt.Errorf("initdb: %w: %s", err, out))
	}
	if err := srv.Start(); err != nil {
		return fail(err)
	}
	return srv, nil
}

func findPostgres() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("initdb found neither in /usr/lib/postgresql/*/bin nor in PATH")
	}
	return filepath.Dir(path), nil
}

// credential makes root run the server as user postgres, for it refuses root.
func credential() (attr *syscall.SysProcAttr, uid, gid int, err error) {
	if os.Getuid() != 0 {
		return &syscall.SysProcAttr{}, -1, -1, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, 0, 0, fmt.Errorf("PostgreSQL refuses to run as root: %w", err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return nil, 0, 0, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, uid, gid, nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = s.attr
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "LC_ALL=C"}
	return cmd
}

// Start starts the server again after Kill and waits until it answers.
func (s *Server) Start() error {
	args := []string{
		"-c", guardScript, "sh", s.dir,
		filepath.Join(s.bin, "postgres"), "-D", s.data(), "-k", s.dir, "-c", "listen_addresses=",
		"-c", "max_connections=300", "-c", "shared_buffers=32MB",
	}
	if !s.durable {
		args = append(args, "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
	}
	guard := s.command("/bin/sh", args...)
	// Its own session: an interrupt at the terminal must not end it first.
	guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.attr.Credential}
	stdin, err := guard.StdinPipe()
	if err != nil {
		return err
	}
	if err := guard.Start(); err != nil {
		return err
	}
	s.guard, s.stdin = guard, stdin
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.dsn("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("PostgreSQL does not answer: %w\n%s", err, log)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop ends the server, removes its directory, and waits for both.
func (s *Server) stop() error {
	if s.guard == nil {
		return nil
	}
	err := s.stdin.Close()
	// The server's own exit status says nothing about the test.
	_ = s.guard.Wait()
	s.guard = nil
	return err
}

// Kill ends the server as kill -9 does. It can be started again.
func (s *Server) Kill() error {
	raw, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return fmt.Errorf("postmaster.pid: %w", err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	_, err = io.WriteString(s.stdin, "keep\n")
	_ = s.guard.Wait()
	s.guard = nil
	// Its children hold the shared memory until they notice, and a new server
	// refuses to start before that.
	deadline := time.Now().Add(30 * time.Second)
	for s.childrenLeft() {
		if time.Now().After(deadline) {
			return fmt.Errorf("children of the killed server %d did not end", pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return err
}

// childrenLeft looks for processes whose working directory is the data
// directory, as every process of a server has.
func (s *Server) childrenLeft() bool {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && cwd == s.data() {
			return true
		}
	}
	return false
}

func (s *Server) dsn(database string) string {
	return fmt.Sprintf("host=%s user=postgres dbname=%s", s.dir, database)
}

// admin runs a statement on the server.
func (s *Server) admin(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// Database makes an empty database that is dropped when the test ends.
func (s *Server) Database(t testing.TB) store.Config {
	t.Helper()
	name := "t" + strings.ToLower(ulid.Make().String())
	if err := s.admin("CREATE DATABASE " + name + " TEMPLATE template0"); err != nil {
		t.Fatalf("create database: %v", err)
	}
	t.Cleanup(func() {
		if err := s.admin("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)"); err != nil {
			t.Logf("drop database: %v", err)
		}
	})
	return store.Config{Engine: store.Postgres, DSN: s.dsn(name), Log: zaptest.NewLogger(t)}
}

// DumpPostgres is pg_dump of a database of this process's server, while it is in use.
func DumpPostgres(cfg store.Config) ([]byte, error) {
	srv, err := shared()
	if err != nil {
		return nil, err
	}
	return srv.tool("pg_dump", nil, "--dbname="+cfg.DSN)
}

// RestorePostgres fills an empty database of this process's server with a dump.
func RestorePostgres(cfg store.Config, dump []byte) error {
	srv, err := shared()
	if err != nil {
		return err
	}
	_, err = srv.tool("psql", dump, "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--dbname="+cfg.DSN)
	return err
}

// tool runs one of PostgreSQL's programs.
func (s *Server) tool(name string, in []byte, args ...string) ([]byte, error) {
	cmd := s.command(filepath.Join(s.bin, name), args...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, said.Bytes())
	}
	return out.Bytes(), nil
}
