package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/interceptor/acceptor"
	interceptorengine "github.com/sluice-lsp/sluice/interceptor/engine"
	interceptorstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/interceptor/stream"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/obs"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/internal/store"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
)

// The files in the data directory.
const (
	fileLock       = "sluiced.lock"
	fileDatabase   = "sluice.db"
	fileGeneration = "generation"
	fileCert       = "tls.cert"
	fileKey        = "tls.key"
	fileOperator   = "operator.macaroon"
	dirRootKeys    = "rootkeys"
	leaseName      = "gateway"
	advanceEvery   = time.Minute
)

// Daemon is one sluiced.
type Daemon struct {
	cfg Config
	log *zap.Logger
	now func() time.Time

	db    *store.DB
	lnd   *lnd.Client
	info  ln.NodeInfo
	lsp   *lspapi.Service
	lease atomic.Pointer[store.Lease]
	ready atomic.Pointer[string]
	// restored says that the database is an older copy of itself: what it says
	// of held payments may have been decided otherwise since.
	restored bool
}

// Run runs sluiced until ctx ends. notReady-to-ready changes are logged, and
// /ready on the admin address tells.
func Run(ctx context.Context, cfg Config, log *zap.Logger) error {
	d := &Daemon{cfg: cfg, log: log, now: time.Now, lsp: lspapi.New()}
	d.state("starting")
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	unlock, err := lockDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.openStore(ctx); err != nil {
		return err
	}
	defer func() { _ = d.db.Close() }()
	if err := d.recogniseRestore(ctx); err != nil {
		return err
	}
	if err := d.connect(ctx); err != nil {
		return err
	}
	defer func() { _ = d.lnd.Close() }()
	server, err := d.listen(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Run(ctx) })
	if d.cfg.RPC.Admin != "" {
		admin, err := d.admin(ctx)
		if err != nil {
			return err
		}
		group.Go(func() error { return admin.Run(ctx) })
	}
	group.Go(func() error { return d.serve(ctx) })
	group.Go(func() error { return d.advance(ctx) })
	return group.Wait()
}

func (d *Daemon) path(name string) string { return filepath.Join(d.cfg.DataDir, name) }

// state is what /ready answers; "" is ready.
func (d *Daemon) state(s string) { d.ready.Store(&s) }

// lockDir makes sure that one process uses a data directory: the lease's owner
// name rests on it.
func lockDir(dir string) (func(), error) {
	f, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor
		_ = f.Close()
		return nil, fmt.Errorf("another sluiced uses %s: stop it, or choose another data_dir", dir)
	}
	return func() { _ = f.Close() }, nil
}

func (d *Daemon) openStore(ctx context.Context) error {
	cfg := store.Config{Engine: store.Engine(d.cfg.Database.Engine), Path: d.path(fileDatabase), Log: d.log, Now: d.now}
	if cfg.Engine == store.Postgres {
		dsn, err := d.cfg.Database.DSNFile.ReadLine()
		if err != nil {
			return err
		}
		cfg.DSN = dsn
	}
	db, err := store.Open(ctx, cfg)
	if err != nil {
		return err
	}
	for _, migrate := range []func(context.Context, *store.DB) error{
		fsm.Migrate, ledger.Migrate, interceptorstore.Migrate, lspstore.Migrate,
	} {
		if err := migrate(ctx, db); err != nil {
			return errors.Join(err, db.Close())
		}
	}
	d.db = db
	return nil
}

// Migrate brings a database up to date without running anything else.
func Migrate(ctx context.Context, cfg Config, log *zap.Logger) error {
	d := &Daemon{cfg: cfg, log: log, now: time.Now}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := d.openStore(ctx); err != nil {
		return err
	}
	return d.db.Close()
}

// connect waits for lnd and refuses one that would lose money.
func (d *Daemon) connect(ctx context.Context) error {
	client, err := lnd.Dial(lnd.Config{
		Address: d.cfg.Lnd.Address, TLSCertFile: d.cfg.Lnd.TLSCert, MacaroonFile: string(d.cfg.Lnd.Macaroon),
		Network: d.cfg.Lnd.Network, Log: d.log,
	})
	if err != nil {
		return err
	}
	d.log.Info("waiting for lnd", zap.String("address", d.cfg.Lnd.Address))
	d.state("waiting for lnd at " + d.cfg.Lnd.Address)
	if err := client.WaitReady(ctx); err != nil {
		return errors.Join(err, client.Close())
	}
	if err := d.checkNode(ctx, client); err != nil {
		return errors.Join(err, client.Close())
	}
	d.lnd = client
	return nil
}

func (d *Daemon) checkNode(ctx context.Context, client *lnd.Client) error {
	version, err := client.Version(ctx)
	if err != nil {
		return err
	}
	if !version.AtLeast(0, 21, 2) {
		return fmt.Errorf("lnd is %s: version 0.21.2 or later is required, because earlier ones cannot claim a held payment whose channel went on chain; upgrade lnd", version.Text)
	}
	info, err := client.Info(ctx)
	if err != nil {
		return err
	}
	if info.Network != d.cfg.Lnd.Network {
		return fmt.Errorf("lnd is on %s, the configuration says %s: set lnd.network", info.Network, d.cfg.Lnd.Network)
	}
	if !info.RequireInterceptor {
		return errors.New("lnd runs without requireinterceptor: whenever sluiced is away it would release every held payment. Add `requireinterceptor=true` under [Application Options] in lnd.conf and restart lnd")
	}
	d.info = info
	d.log.Info("attached to lnd", zap.Stringer("node", info.PubKey), zap.String("alias", info.Alias), zap.String("version", info.Version))
	return nil
}

func (d *Daemon) listen(ctx context.Context) (*rpcserver.Server, error) {
	certificate, err := selfcert.Open(selfcert.Config{
		CertPath: d.path(fileCert), KeyPath: d.path(fileKey), Hosts: d.cfg.RPC.TLSHosts, Now: d.now, Rand: rand.Reader,
		Report: func(event string, err error) {
			d.log.Info("TLS certificate", zap.String("event", event), zap.Error(err))
		},
	})
	if err != nil {
		return nil, err
	}
	keys, err := auth.NewFileRootKeys(d.path(dirRootKeys))
	if err != nil {
		return nil, err
	}
	bakery, err := auth.NewBakery(ctx, keys, rand.Reader, d.now)
	if err != nil {
		return nil, err
	}
	if _, err := bakery.OperatorFile(ctx, d.path(fileOperator)); err != nil {
		return nil, err
	}
	login, err := auth.NewLogin(auth.LoginConfig{
		Server: auth.Server{NodeKey: d.info.PubKey, ID: "sluiced"}, Bakery: bakery, Services: []string{lspapi.Name},
		MacaroonLife: d.cfg.RPC.LoginFor.Std(), Rand: rand.Reader, Now: d.now,
	})
	if err != nil {
		return nil, err
	}
	registry, err := obs.NewRegistry()
	if err != nil {
		return nil, err
	}
	return rpcserver.Listen(ctx, rpcserver.Config{
		GRPCAddress: d.cfg.RPC.Listen, RESTAddress: d.cfg.RPC.REST, TLS: certificate.TLS(), Verifier: bakery,
		Limits: d.cfg.Limits, Log: d.log, Now: d.now, Rand: rand.Reader, Registry: registry,
	}, login, d.lsp)
}

func (d *Daemon) admin(ctx context.Context) (*rpcserver.Admin, error) {
	registry, err := obs.NewRegistry()
	if err != nil {
		return nil, err
	}
	return rpcserver.ListenAdmin(ctx, rpcserver.AdminConfig{
		Address: d.cfg.RPC.Admin, Metrics: registry, Profiling: d.cfg.RPC.Profile,
		Ready: func(context.Context) error {
			if s := *d.ready.Load(); s != "" {
				return errors.New(s)
			}
			return nil
		},
	})
}

// serve owns the gateway whenever this process has the lease.
func (d *Daemon) serve(ctx context.Context) error {
	rows := interceptorstore.New(d.db, leaseName)
	owner, err := d.owner()
	if err != nil {
		return err
	}
	hold, err := interceptorengine.New(interceptorengine.Config{
		Open: func(ctx context.Context) (interceptorengine.Session, error) {
			return stream.Open(ctx, stream.Config{Conn: d.lnd.Conn(), Log: d.log})
		},
		Acquire: func(ctx context.Context) (interceptorengine.Lease, error) {
			d.state("on standby: another sluiced owns the gateway")
			l, err := rows.Acquire(ctx, store.LeaseConfig{Owner: owner, TTL: d.cfg.Interceptor.LeaseFor.Std()})
			if err != nil {
				return nil, err
			}
			d.lease.Store(l)
			return l, nil
		},
		Rows: rows, Handlers: rows, Node: d.lnd, Outcomes: d.lnd,
		KeepForwarding:   d.db.Engine() == store.SQLite,
		DistrustRows:     d.restored,
		FailSafetyBlocks: d.cfg.Interceptor.FailSafetyBlocks, NearBlocks: d.cfg.Interceptor.NearBlocks,
		MaxHeldPerChannel: d.cfg.Interceptor.MaxHeldPerChannel, MaxHeld: d.cfg.Interceptor.MaxHeld,
		MaxHeldMsat: ln.Msat(d.cfg.Interceptor.MaxHeldSat) * 1000, AbsentGrace: d.cfg.Interceptor.AbsentGrace.Std(),
		Now: d.now, Log: d.log.Named("interceptor"),
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return hold.Run(ctx) })
	group.Go(func() error {
		for ctx.Err() == nil {
			if err := hold.WaitActive(ctx); err != nil {
				return nil
			}
			if err := d.tenure(ctx, hold); err != nil && ctx.Err() == nil {
				return err
			}
		}
		return nil
	})
	return group.Wait()
}

// owner names this process for the lease: the data directory's lock makes it
// the only one of its name.
func (d *Daemon) owner() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("this machine's name: %w", err)
	}
	dir, err := filepath.Abs(d.cfg.DataDir)
	if err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	return host + ":" + dir, nil
}

// tenure runs the services while this process owns the gateway.
func (d *Daemon) tenure(ctx context.Context, hold *interceptorengine.Engine) error {
	lease := d.lease.Load()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	go func() {
		select {
		case <-lease.Lost():
			d.log.Warn("the lease is lost: services stop until it is back")
			cancel()
		case <-ctx.Done():
		}
	}()
	holds := lspHolds{registry: hold, ledger: hold}
	if err := holds.register(ctx); err != nil {
		return err
	}
	settings, err := d.cfg.lspConfig(d.info.PubKey, d.info.URIs)
	if err != nil {
		return err
	}
	business, err := lspengine.New(lspengine.Options{
		Node: lspNode(d.lnd), Routes: holds, Held: holds, Books: d.lnd, DB: d.db, Fence: lease.Check,
		DecodeBolt11: func(text string) (ln.Bolt11, error) { return lnd.DecodeBolt11(d.cfg.Lnd.Network, text) },
		Config:       settings, Now: d.now, Random: rand.Reader, Log: d.log.Named("lsp"),
	})
	if err != nil {
		return err
	}
	policy, err := d.acceptorPolicy()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		acceptor.New(policy, d.now).Run(ctx, acceptor.Config{Node: d.lnd, Log: d.log.Named("acceptor")})
		return nil
	})
	group.Go(func() error {
		return business.Run(ctx, func() {
			d.lsp.Ready(business)
			d.state("")
			d.log.Info("ready")
			d.acceptRestore(ctx)
		})
	})
	err = group.Wait()
	d.lsp.Ready(nil)
	d.state("services are stopped")
	return err
}

func (d *Daemon) acceptorPolicy() (acceptor.Policy, error) {
	c := d.cfg.Acceptor
	zeroConf, err := keySet(c.ZeroConfFrom)
	if err != nil {
		return acceptor.Policy{}, err
	}
	deny, err := keySet(c.Deny)
	if err != nil {
		return acceptor.Policy{}, err
	}
	return acceptor.Policy{
		MinSat: c.MinSat.Amount(), MaxSat: c.MaxSat.Amount(), MaxPendingPerPeer: c.MaxPendingPerPeer,
		ZeroConfFrom: zeroConf, Deny: deny,
	}, nil
}

// recogniseRestore finds out whether the database was restored from an older
// dump. Then held payments are only resumed, never failed, until lnd has been
// asked about each.
func (d *Daemon) recogniseRestore(ctx context.Context) error {
	_, err := store.CheckGeneration(ctx, d.db, d.path(fileGeneration))
	if errors.Is(err, store.ErrRestored) {
		d.restored = true
		d.log.Error("the database is an older copy: nothing that may have been decided since is decided anew until lnd was asked", zap.Error(err))
		return nil
	}
	return err
}

// acceptRestore goes on with a restored database once its services have asked
// lnd about everything unfinished.
func (d *Daemon) acceptRestore(ctx context.Context) {
	if !d.restored {
		return
	}
	if _, err := store.AcceptRestore(ctx, d.db, d.path(fileGeneration)); err != nil {
		d.log.Error("the restored database could not be accepted: it is distrusted until it is", zap.Error(err))
		return
	}
	d.log.Warn("the restored database was reconciled with lnd and is trusted from now on")
}

// advance bounds how young a database dump can be and still pass for the
// present.
func (d *Daemon) advance(ctx context.Context) error {
	ticker := time.NewTicker(advanceEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if _, err := store.Advance(ctx, d.db, d.path(fileGeneration)); err != nil && ctx.Err() == nil && !d.restored {
				d.log.Warn("the database's generation could not be raised", zap.Error(err))
			}
		}
	}
}
