package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	backupsapi "github.com/sluice-lsp/sluice/backupsvc/api"
	backupsengine "github.com/sluice-lsp/sluice/backupsvc/engine"
	backupsstore "github.com/sluice-lsp/sluice/backupsvc/store"
	interceptorengine "github.com/sluice-lsp/sluice/interceptor/engine"
	"github.com/sluice-lsp/sluice/interceptor/proxy"
	interceptorstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/auth/sqlkeys"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/obs"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/pulse"
	"github.com/sluice-lsp/sluice/internal/store"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	collabapi "github.com/sluice-lsp/sluice/lsp/collab/api"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
	"github.com/sluice-lsp/sluice/lsp/links"
	"github.com/sluice-lsp/sluice/lsp/peerrpc"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
	"github.com/sluice-lsp/sluice/lsp/webhooks"
	hookstore "github.com/sluice-lsp/sluice/lsp/webhooks/store"
	lwsapi "github.com/sluice-lsp/sluice/lws/api"
	lwsstore "github.com/sluice-lsp/sluice/lws/store"
	tenantapi "github.com/sluice-lsp/sluice/lws/tenant/api"
	tenantengine "github.com/sluice-lsp/sluice/lws/tenant/engine"
	tenantstore "github.com/sluice-lsp/sluice/lws/tenant/store"
	swapsapi "github.com/sluice-lsp/sluice/swaps/api"
	swapsengine "github.com/sluice-lsp/sluice/swaps/engine"
	swapsstore "github.com/sluice-lsp/sluice/swaps/store"
	towerapi "github.com/sluice-lsp/sluice/watchtower/api"
	towerengine "github.com/sluice-lsp/sluice/watchtower/engine"
	towerstore "github.com/sluice-lsp/sluice/watchtower/store"
)

// The files in the data directory.
const (
	fileLock       = "sluiced.lock"
	fileDatabase   = "sluice.db"
	fileGeneration = "generation"
	fileCert       = "tls.cert"
	fileKey        = "tls.key"
	fileReceiptKey = "receipts.key"
	fileTowerKey   = "tower.key"
	fileOperator   = "operator.macaroon"
	fileAudit      = "tenants.audit"
	dirRootKeys    = "rootkeys"
	leaseGateway   = "gateway"
	leaseServices  = "services"
	leaseTower     = "watchtower"
	advanceEvery   = time.Minute
	advanceSoon    = time.Second
)

// Daemon is one sluiced.
type Daemon struct {
	cfg   Config
	roles Roles
	log   *zap.Logger
	now   func() time.Time

	registry *prometheus.Registry
	db       *store.DB
	lnd      *lnd.Client
	info     ln.NodeInfo
	hold     *interceptorengine.Engine
	programs *proxy.Hub
	lsp      *lspapi.Service
	joint    *collabapi.Service
	lws      *lwsapi.Service
	tenants  *tenantapi.Service
	// registryOfTenants is asked at every call, in every process.
	registryOfTenants *tenantengine.Engine
	backups           *backupsapi.Service
	swaps             *swapsapi.Service
	vault             *backupsengine.Engine
	// wrote says that the vault acknowledged something.
	wrote chan struct{}
	// messages and hooks serve LSPS during a tenure.
	messages atomic.Pointer[peerrpc.Server]
	hooks    atomic.Pointer[webhooks.Service]
	watch    *towerapi.Service
	tower    *towerengine.Engine
	lease    atomic.Pointer[store.Lease]
	links    atomic.Pointer[links.Keeper]
	ready    atomic.Pointer[string]
	// restored names the services of this process that have not reconciled a
	// database that is an older copy of itself: what it says of held payments may
	// have been decided otherwise since. Each distrusts it until it starts again.
	// restoredWhy is how the copy was recognised.
	restored    Roles
	restoredWhy string
	// fileID is the data directory's name in the database.
	fileID string
	// marks are the services that the database says have not reconciled it, and since
	// when; trusting are those that this process has begun with.
	marks    map[string]time.Time
	trusting atomic.Pointer[map[string]time.Time]
	// marked says that a restore under this process is noted.
	marked bool
}

// Roles says which services a process runs.
type Roles struct{ Interceptor, LSP, Backups, Swaps, Watchtower bool }

// has reports that one of these is among them.
func (r Roles) has(o Roles) bool {
	return r.Interceptor && o.Interceptor || r.LSP && o.LSP || r.Backups && o.Backups || r.Swaps && o.Swaps || r.Watchtower && o.Watchtower
}

// ParseRoles reads the services named on the command line; none means all, of
// which Run leaves out swaps unless they are enabled.
func ParseRoles(names []string) (Roles, error) {
	if len(names) == 0 {
		return Roles{Interceptor: true, LSP: true, Backups: true, Swaps: true, Watchtower: true}, nil
	}
	var r Roles
	for _, name := range names {
		switch name {
		case "interceptor":
			r.Interceptor = true
		case lspapi.Name:
			r.LSP = true
		case backupsapi.Name:
			r.Backups = true
		case swapsapi.Name:
			r.Swaps = true
		case towerapi.Name:
			r.Watchtower = true
		default:
			return r, fmt.Errorf("there is no service %q: choose from interceptor, lsp, backups, swaps, watchtower, or name none for all", name)
		}
	}
	return r, nil
}

// Run runs sluiced until ctx ends. /ready on the admin address tells whether
// it does business.
func Run(ctx context.Context, cfg Config, roles Roles, log *zap.Logger) error {
	d := &Daemon{
		cfg: cfg, roles: roles, log: log, now: time.Now, wrote: make(chan struct{}, 1),
		lsp: cfg.lspAPI(), joint: collabapi.New(), lws: lwsapi.New(), tenants: tenantapi.New(), backups: backupsapi.New(), swaps: swapsapi.New(), watch: towerapi.New(),
	}
	d.state("starting")
	if roles.Swaps && !cfg.Swaps.Enabled {
		if !roles.Interceptor && !roles.LSP && !roles.Backups {
			return errors.New("swaps are not enabled: read docs/swaps.md, then set swaps.enabled=true")
		}
		d.roles.Swaps = false
	}
	if roles.LSP && !roles.Interceptor && cfg.Interceptor.Address == "" {
		return errors.New("lsp without an interceptor: set interceptor.address to one that runs as a process of its own, or run both")
	}
	if cfg.Interceptor.Address != "" && roles.LSP {
		d.roles.Interceptor = false
	}
	if roles.Watchtower && cfg.Watchtower.Listen == "" {
		if roles == (Roles{Watchtower: true}) {
			return errors.New("the watchtower does not know where to listen: set watchtower.listen, and watchtower.addresses to how clients reach it")
		}
		d.roles.Watchtower = false
	}
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
	defer d.hangUp()
	if d.registry, err = obs.NewRegistry(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.watchPast(ctx) })
	if d.cfg.RPC.Admin != "" {
		// Before lnd is asked anything: while sluiced waits, /ready says for what.
		admin, err := d.admin(ctx)
		if err != nil {
			return err
		}
		group.Go(func() error { return admin.Run(ctx) })
	}
	group.Go(func() error { return d.run(ctx, group) })
	err = group.Wait()
	if markErr := d.markPast(context.WithoutCancel(ctx)); markErr != nil && !errors.Is(err, store.ErrWentBack) {
		err = errors.Join(err, markErr)
	}
	return err
}

// run does what needs lnd. What it starts in the group outlives it.
func (d *Daemon) run(ctx context.Context, group *errgroup.Group) error {
	if err := d.recogniseRestore(ctx); err != nil {
		return err
	}
	if err := d.connect(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop while waiting
		}
		return err
	}
	if err := d.askLnd(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop while asking
		}
		return err
	}
	d.trusting.Store(&d.marks)
	context.AfterFunc(ctx, func() { d.log.Info("stopping: nothing that is held is failed") })
	if d.roles.Interceptor {
		if err := d.newPrograms(); err != nil {
			return err
		}
		if err := d.newInterceptor(); err != nil {
			return err
		}
	}
	if d.roles.LSP {
		if err := d.registry.Register(links.NewGauge(d.deadChannels)); err != nil {
			return err
		}
		if err := d.registry.Register(lspengine.NewCollector(d.lsp.Status, d.log)); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		if err := d.registerLSPS(); err != nil {
			return err
		}
	}
	if d.roles.Swaps {
		if err := d.registry.Register(swapsengine.NewCollector(d.swaps.Running, d.log)); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	if d.roles.Backups {
		if err := d.newBackups(ctx, d.lnd); err != nil {
			return err
		}
	}
	if d.roles.Watchtower {
		if err := d.newWatchtower(ctx); err != nil {
			return err
		}
	}
	server, certificate, err := d.listen(ctx)
	if err != nil {
		return err
	}
	beat := pulse.NewWatch(d.lnd, d.now, d.log.Named("pulse"))
	if err := d.registry.Register(pulse.NewGauge(beat.Stalled)); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	group.Go(func() error { return server.Run(ctx) })
	group.Go(func() error { beat.Run(ctx); return nil })
	group.Go(func() error { return d.registryOfTenants.Run(ctx) })
	if d.roles.Backups {
		if err := d.runBackups(ctx, group, certificate); err != nil {
			return err
		}
	}
	if d.roles.Watchtower {
		group.Go(func() error { return d.runWatchtower(ctx) })
	}
	if d.roles.Interceptor {
		if err := d.runPrograms(ctx, group, certificate); err != nil {
			return err
		}
		group.Go(func() error { return d.hold.Run(ctx) })
		if d.restored.Interceptor {
			group.Go(func() error {
				d.acceptHeld(ctx)
				return nil
			})
		}
	}
	if d.roles.Swaps {
		group.Go(func() error { return d.serveSwaps(ctx) })
	}
	switch {
	case d.roles.Interceptor || d.roles.LSP:
		group.Go(func() error { return d.serve(ctx) })
	case !d.roles.Swaps:
		d.nowReady()
	}
	group.Go(func() error { return d.advance(ctx) })
	if d.roles.LSP {
		group.Go(func() error { d.keepMarks(ctx); return nil })
	}
	return nil
}

// hangUp ends the connection to lnd, once everything that used it has ended.
func (d *Daemon) hangUp() {
	if d.lnd != nil {
		_ = d.lnd.Close()
	}
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
		sqlkeys.Migrate, fsm.Migrate, ledger.Migrate, payhash.Migrate, interceptorstore.Migrate, lspstore.Migrate, backupsstore.Migrate, hookstore.Migrate,
		swapsstore.Migrate, towerstore.Migrate, lwsstore.Migrate, tenantstore.Migrate,
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
	// Whoever holds nothing needs no interceptor: a watchtower runs beside any lnd.
	if (d.roles.Interceptor || d.roles.LSP) && !info.RequireInterceptor {
		return errors.New("lnd runs without requireinterceptor: whenever sluiced is away it would release every held payment. Add `requireinterceptor=true` under [Application Options] in lnd.conf and restart lnd")
	}
	d.info = info
	d.log.Info("attached to lnd", zap.Stringer("node", info.PubKey), zap.String("alias", info.Alias), zap.String("version", info.Version))
	return nil
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
	// Two machines may have one name, and containers often do.
	return host + ":" + dir + "#" + d.fileID[:min(8, len(d.fileID))], nil
}

// advance bounds how young a database dump can be and still pass for the
// present: a minute, and a second where the vault acknowledged something, since
// whoever has its receipt can prove that the log went back.
func (d *Daemon) advance(ctx context.Context) error {
	advanceAfter(ctx, d.wrote, func() {
		if _, err := store.Advance(ctx, d.db, d.path(fileGeneration)); err != nil && ctx.Err() == nil {
			d.log.Warn("the database's generation could not be raised", zap.Error(err))
		}
	})
	// So that a copy made while sluiced ran is older than what it left.
	d.lastAdvance(context.WithoutCancel(ctx))
	return nil
}

// advanceAfter calls raise once a minute, and within a second of each thing
// written, until ctx ends.
func advanceAfter(ctx context.Context, wrote <-chan struct{}, raise func()) {
	ticker := time.NewTicker(advanceEvery)
	defer ticker.Stop()
	var soon <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-wrote:
			// What is written until then is covered as well.
			if soon == nil {
				soon = time.After(advanceSoon)
			}
			continue
		case <-soon:
		case <-ticker.C:
		}
		soon = nil
		raise()
	}
}

func (d *Daemon) lastAdvance(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := store.Advance(ctx, d.db, d.path(fileGeneration))
	if err != nil {
		d.log.Info("the database's generation could not be raised at the end", zap.Error(err))
	}
}
