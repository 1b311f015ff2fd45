package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	backupsapi "github.com/sluice-lsp/sluice/backupsvc/api"
	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
)

const (
	vaultObject      = 1024
	aimPostgresPerS  = 2000
	aimSqlitePerS    = 2500
	aimDurableMs     = 500
	vaultStretch     = 3 * time.Second
	vaultRounds      = 3
	vaultMostClients = 64
)

// vaultArm is one way of storing the same rows: a sluiced, or a bare program.
type vaultArm struct {
	name string
	// put stores one object of a client, durable when it returns.
	put func(ctx context.Context, client int, n int64, value []byte) error
	// bytes is what is on disk.
	bytes func(ctx context.Context) (int64, error)
	// servers are the processes that work for it, beside this one.
	servers func() ([]int, error)
	seen    map[int]*vaultSample
	// next are the clients' versions.
	next [vaultMostClients]int64
}

// vaultSample is what an arm did with so many clients.
type vaultSample struct {
	puts    int64
	seconds float64
	ms      []float64
	// cpu is the processors' time, the clients' and the database's included.
	cpu time.Duration
}

func (s *vaultSample) perS() float64 { return float64(s.puts) / s.seconds }

func (s *vaultSample) cpuMicros() float64 { return float64(s.cpu.Microseconds()) / float64(s.puts) }

func runVault(ctx context.Context, b *bench) (_ result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 14*time.Minute)
	defer cancel()
	b.say("starting btcd, an lnd and PostgreSQL")
	net, err := devnet.Start(ctx, devnet.Config{KeepDir: b.keep})
	if err != nil {
		return nil, err
	}
	defer func() { err = b.finish(&nodes{Net: net}, err) }()
	gateway, err := net.NewNode(ctx, "gateway", devnet.NodeConfig{ExtraArgs: devnet.GatewayArgs()})
	if err != nil {
		return nil, err
	}
	pg, err := net.StartPostgres(ctx)
	if err != nil {
		return nil, err
	}
	v := &vaults{b: b, net: net, gateway: gateway}
	defer v.hangUp()
	for _, engine := range []string{"sqlite", "postgres"} {
		if err := v.addArms(ctx, engine, pg); err != nil {
			return nil, err
		}
	}
	for _, clients := range []int{1, 16, vaultMostClients} {
		for round := range vaultRounds {
			for _, arm := range v.arms {
				if err := v.measure(ctx, arm, clients); err != nil {
					return nil, fmt.Errorf("%s, %d clients, round %d: %w", arm.name, clients, round+1, err)
				}
			}
		}
		b.say("%d clients: done", clients)
	}
	if err := v.report(ctx); err != nil {
		return nil, err
	}
	durable, err := v.thousandChannels(ctx)
	if err != nil {
		return nil, err
	}
	b.say("a backup of 1,000 channels (%d bytes) is durable at both vaults %.0f ms after the change (median; worst %.0f; aim %d)",
		thousandBytes, median(durable), quantile(durable, 1), aimDurableMs)
	return v.result(), nil
}

// vaults are a sluiced on each database, and beside each the bare program.
type vaults struct {
	b       *bench
	net     *devnet.Net
	gateway *devnet.Node
	daemons []*devnet.Sluiced
	arms    []*vaultArm
	close   []func() error
}

func (v *vaults) hangUp() {
	for _, c := range v.close {
		_ = c()
	}
}

func (v *vaults) addArms(ctx context.Context, engine string, pg *devnet.Postgres) error {
	var dsn string
	var err error
	if engine == "postgres" {
		if dsn, err = pg.CreateDatabase(ctx, "vault"); err != nil {
			return err
		}
	}
	daemon, err := v.net.StartSluiced(ctx, v.gateway, lnd.GatewayRights(), devnet.SluicedConfig{
		Name: "sluiced-" + engine, DSN: dsn, Services: []string{"backups"}, Settings: map[string]string{
			"log.level": "info", "limits.wallet.per_second": "100000", "limits.wallet.burst": "100000",
			"limits.address.per_second": "100000", "limits.address.burst": "100000",
			"limits.unauthenticated.per_second": "100000", "limits.unauthenticated.burst": "100000",
			"backups.rate.per_second": "100000", "backups.rate.burst": "100000", "backups.new_per_hour": "1000",
			"backups.new_per_address_per_hour": "1000", "backups.day_writes": "1000000000", "backups.day_bytes": "1000GiB",
		},
	})
	if err != nil {
		return err
	}
	v.daemons = append(v.daemons, daemon)
	none := func() ([]int, error) { return nil, nil }
	ours := &vaultArm{name: "sluiced on " + engine, seen: map[int]*vaultSample{}, servers: func() ([]int, error) { return []int{daemon.PID()}, nil }}
	if ours.put, err = v.clients(ctx, daemon); err != nil {
		return err
	}
	bare := &vaultArm{name: "bare " + engine, seen: map[int]*vaultSample{}, servers: none}
	if engine == "postgres" {
		bare.servers = func() ([]int, error) { return family(pg.Proc().PID()) }
		ours.servers = func() ([]int, error) {
			all, err := family(pg.Proc().PID())
			return append(all, daemon.PID()), err
		}
		bareDSN, err := pg.CreateDatabase(ctx, "bare")
		if err != nil {
			return err
		}
		ours.bytes, bare.bytes = databaseSize(dsn), databaseSize(bareDSN)
		bare.put, err = v.bare(ctx, "pgx", bareDSN, vaultMostClients)
		if err != nil {
			return err
		}
	} else {
		file := filepath.Join(v.net.Dir(), "bare.db")
		ours.bytes, bare.bytes = fileSizes(filepath.Join(daemon.Dir, "sluice.db")), fileSizes(file)
		// As the store opens it; one connection, since SQLite has one writer.
		bare.put, err = v.bare(ctx, "sqlite", "file:"+file+"?_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)", 1)
		if err != nil {
			return err
		}
	}
	v.arms = append(v.arms, ours, bare)
	return nil
}

// clients log in, each with a node key and a connection of its own.
func (v *vaults) clients(ctx context.Context, daemon *devnet.Sluiced) (func(context.Context, int, int64, []byte) error, error) {
	gateway, err := ln.ParsePubKey(v.gateway.PubKey)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := selfcert.ClientTLS(daemon.TLSCert)
	if err != nil {
		return nil, err
	}
	all := make([]backupsv1.VaultServiceClient, vaultMostClients)
	for i := range all {
		key, err := btcec.NewPrivateKey()
		if err != nil {
			return nil, err
		}
		conn, _, err := auth.Dial(daemon.GRPC, credentials.NewTLS(tlsConfig.Clone()), auth.ClientConfig{
			Server: auth.Server{NodeKey: gateway}, Node: ln.PubKey(key.PubKey().SerializeCompressed()), Services: []string{backupsapi.Name}, Now: time.Now,
			Sign: func(_ context.Context, text string) (string, error) { return signText(key, text) },
		}, grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
		if err != nil {
			return nil, err
		}
		v.close = append(v.close, conn.Close)
		all[i] = backupsv1.NewVaultServiceClient(conn)
	}
	return func(ctx context.Context, client int, n int64, value []byte) error {
		got, err := all[client].Put(ctx, &backupsv1.PutRequest{StoreId: "s", Puts: []*backupsv1.Item{{Key: "k", Version: n, Value: value}}})
		if err != nil {
			return err
		}
		receipt, err := backupsapi.ReceiptFromWire(got.GetReceipt())
		if err != nil {
			return err
		}
		// A client checks what it is told; only the hash here, since the client
		// shares the machine with the server that is measured.
		if receipt.Entries[0].Content != vault.ContentHash(value) {
			return errors.New("the receipt is of something else")
		}
		return nil
	}, nil
}

// signText signs as lnd's SignMessage does.
func signText(key *btcec.PrivateKey, text string) (string, error) {
	first := sha256.Sum256([]byte("Lightning Signed Message:" + text))
	digest := sha256.Sum256(first[:])
	return auth.EncodeSignature(ecdsa.SignCompact(key, digest[:], true))
}

// openBare opens a database with the drivers that sluiced has: under the name of
// pgx a dependency has registered an older one.
func openBare(driver, dsn string) (*sql.DB, error) {
	if driver != "pgx" {
		return sql.Open(driver, dsn)
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	return stdlib.OpenDB(*config), nil
}

// bare inserts the same rows without anything else: no TLS, no login, no
// reading before writing, no hash, no receipt, a commit for each.
func (v *vaults) bare(ctx context.Context, driver, dsn string, conns int) (func(context.Context, int, int64, []byte) error, error) {
	db, err := openBare(driver, dsn)
	if err != nil {
		return nil, err
	}
	v.close = append(v.close, db.Close)
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	for _, statement := range []string{
		`CREATE TABLE identities (owner BYTEA NOT NULL PRIMARY KEY, seq BIGINT NOT NULL, head BYTEA NOT NULL, stored_bytes BIGINT NOT NULL)`,
		`CREATE TABLE objects (owner BYTEA NOT NULL, store_id BYTEA NOT NULL, object_key BYTEA NOT NULL, version BIGINT NOT NULL,
			size BIGINT NOT NULL, seq BIGINT NOT NULL, created BIGINT NOT NULL, PRIMARY KEY (owner, store_id, object_key))`,
		`CREATE TABLE log (owner BYTEA NOT NULL, seq BIGINT NOT NULL, op TEXT NOT NULL, store_id BYTEA NOT NULL, object_key BYTEA NOT NULL,
			version BIGINT NOT NULL, content BYTEA NOT NULL, size BIGINT NOT NULL, at_ms BIGINT NOT NULL, value BYTEA, PRIMARY KEY (owner, seq))`,
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return nil, err
		}
	}
	hash := make([]byte, 32)
	return func(ctx context.Context, client int, n int64, value []byte) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		owner := make([]byte, 16)
		owner[0] = byte(client)
		for _, q := range []struct {
			text string
			args []any
		}{
			{
				`INSERT INTO log (owner, seq, op, store_id, object_key, version, content, size, at_ms, value) VALUES ($1, $2, 'put', $3, $4, $5, $6, $7, $8, $9)`,
				[]any{owner, n + 1, []byte("s"), []byte("k"), n + 1, hash, len(value), time.Now().UnixMilli(), value},
			},
			{
				`INSERT INTO objects (owner, store_id, object_key, version, size, seq, created) VALUES ($1, $2, $3, $4, $5, $6, 1)
				ON CONFLICT (owner, store_id, object_key) DO UPDATE SET version = excluded.version, size = excluded.size, seq = excluded.seq`,
				[]any{owner, []byte("s"), []byte("k"), n + 1, len(value), n + 1},
			},
			{
				`INSERT INTO identities (owner, seq, head, stored_bytes) VALUES ($1, $2, $3, $4)
				ON CONFLICT (owner) DO UPDATE SET seq = excluded.seq, head = excluded.head`,
				[]any{owner, n + 1, hash, len(value)},
			},
		} {
			if _, err := tx.ExecContext(ctx, q.text, q.args...); err != nil {
				return err
			}
		}
		return tx.Commit()
	}, nil
}

// measure lets clients put for a stretch, each one after the other.
func (v *vaults) measure(ctx context.Context, arm *vaultArm, clients int) error {
	value := make([]byte, vaultObject)
	if _, err := rand.Read(value); err != nil {
		return err
	}
	s := arm.seen[clients]
	if s == nil {
		s = &vaultSample{}
		arm.seen[clients] = s
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed atomic.Pointer[error]
	)
	used, err := arm.cpu()
	if err != nil {
		return err
	}
	began := time.Now()
	for i := range clients {
		wg.Go(func() {
			var took []float64
			for time.Since(began) < vaultStretch && failed.Load() == nil {
				at := time.Now()
				if err := arm.put(ctx, i, arm.next[i], value); err != nil {
					failed.Store(&err)
					return
				}
				arm.next[i]++
				took = append(took, ms(time.Since(at)))
			}
			mu.Lock()
			defer mu.Unlock()
			s.ms, s.puts = append(s.ms, took...), s.puts+int64(len(took))
		})
	}
	wg.Wait()
	s.seconds += time.Since(began).Seconds()
	if err := failed.Load(); err != nil {
		return *err
	}
	since, err := arm.cpu()
	s.cpu += since - used
	return err
}

// cpu is what this process and an arm's servers have used of the processors.
func (a *vaultArm) cpu() (sum time.Duration, err error) {
	pids, err := a.servers()
	if err != nil {
		return 0, err
	}
	for _, pid := range append(pids, os.Getpid()) {
		used, err := processorTime(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// fileSizes sums a SQLite database with its log.
func fileSizes(path string) func(context.Context) (int64, error) {
	return func(context.Context) (sum int64, err error) {
		for _, suffix := range []string{"", "-wal"} {
			info, err := os.Stat(path + suffix)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return 0, err
			}
			sum += info.Size()
		}
		return sum, nil
	}
}

func databaseSize(dsn string) func(context.Context) (int64, error) {
	return func(ctx context.Context) (n int64, err error) {
		db, err := openBare("pgx", dsn)
		if err != nil {
			return 0, err
		}
		err = db.QueryRowContext(ctx, "SELECT pg_database_size(current_database())").Scan(&n)
		return n, errors.Join(err, db.Close())
	}
}

func (v *vaults) report(ctx context.Context) error {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "arm\tclients\tputs/s\tp50 ms\tp99 ms\tof bare\tCPU us a put\tbytes on disk per byte\t")
	for i, arm := range v.arms {
		size, err := arm.bytes(ctx)
		if err != nil {
			return err
		}
		var puts int64
		for _, s := range arm.seen {
			puts += s.puts
		}
		for _, clients := range []int{1, 16, vaultMostClients} {
			s := arm.seen[clients]
			ratio := s.perS() / v.arms[i|1].seen[clients].perS()
			_, _ = fmt.Fprintf(w, "%s\t%d\t%.0f\t%.1f\t%.1f\t%.2f\t%.0f\t%.2f\t\n", arm.name, clients, s.perS(), quantile(s.ms, 0.5), quantile(s.ms, 0.99),
				ratio, s.cpuMicros(), float64(size)/float64(puts*vaultObject))
		}
	}
	_ = w.Flush()
	v.b.say("one object of %d bytes a put; history is kept, so every byte put is stored\n%s", vaultObject, out.String())
	return nil
}

func (v *vaults) result() (r result) {
	sqlite, bareSqlite := v.arms[0].seen[vaultMostClients], v.arms[1].seen[vaultMostClients]
	postgres, barePostgres := v.arms[2].seen[vaultMostClients], v.arms[3].seen[vaultMostClients]
	v.b.say("aims on two cores, clients included: %d puts/s on PostgreSQL, %d on SQLite", aimPostgresPerS, aimSqlitePerS)
	v.b.say("two cores that do nothing else have the time for %.0f puts/s on PostgreSQL and %.0f on SQLite", 2e6/postgres.cpuMicros(), 2e6/sqlite.cpuMicros())
	r.add("puts_per_s_postgres", "%.0f", postgres.perS())
	r.add("puts_per_s_sqlite", "%.0f", sqlite.perS())
	r.add("ratio_postgres", "%.2f", postgres.perS()/barePostgres.perS())
	r.add("ratio_sqlite", "%.2f", sqlite.perS()/bareSqlite.perS())
	r.add("p99_ms", "%.1f", max(quantile(postgres.ms, 0.99), quantile(sqlite.ms, 0.99)))
	return r
}
