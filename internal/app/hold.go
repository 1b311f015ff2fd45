package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/interceptor/acceptor"
	interceptorapi "github.com/sluice-lsp/sluice/interceptor/api"
	interceptorengine "github.com/sluice-lsp/sluice/interceptor/engine"
	interceptorstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/interceptor/stream"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/internal/store"
)

// serviceInterceptor is the interceptor's word in macaroons and health checks.
const serviceInterceptor = "interceptor"

// newInterceptor makes the interceptor of this process. It owns the lease
// "gateway", and with it lnd's streams.
func (d *Daemon) newInterceptor() error {
	rows := interceptorstore.New(d.db, leaseGateway)
	owner, err := d.owner()
	if err != nil {
		return err
	}
	c := d.cfg.Interceptor
	var screener interceptorengine.Screener
	if d.programs != nil {
		screener = d.programs
	}
	d.hold, err = interceptorengine.New(interceptorengine.Config{
		Screener: screener,
		Open: func(ctx context.Context) (interceptorengine.Session, error) {
			return stream.Open(ctx, stream.Config{Conn: d.lnd.Conn(), Log: d.log})
		},
		Acquire: func(ctx context.Context) (interceptorengine.Lease, error) {
			d.state("on standby: another sluiced owns the gateway")
			l, err := d.acquire(ctx, rows.Acquire, store.LeaseConfig{Owner: owner, TTL: c.LeaseFor.Std()})
			if err != nil {
				return nil, err
			}
			d.lease.Store(l)
			return l, nil
		},
		Rows: rows, Handlers: rows, Node: d.lnd, Outcomes: d.lnd,
		// A database that only this process can use stops ordinary forwards for
		// nobody's good; with PostgreSQL a standby may be able to go on.
		KeepForwarding:   d.db.Engine() == store.SQLite,
		DistrustRows:     d.restored.Interceptor,
		FailSafetyBlocks: c.FailSafetyBlocks, NearBlocks: c.NearBlocks,
		MaxHeldPerChannel: c.MaxHeldPerChannel, MaxHeld: c.MaxHeld, MaxHeldMsat: ln.Msat(c.MaxHeldSat) * 1000,
		AbsentGrace: c.AbsentGrace.Std(), Retention: c.KeepRows.Std(), Now: d.now, Log: d.log.Named(serviceInterceptor),
	})
	if err != nil {
		return err
	}
	if d.programs != nil {
		d.programs.Use(d.hold)
	}
	if err := d.registry.Register(interceptorengine.NewCollector(d.hold)); err != nil {
		return fmt.Errorf("the interceptor's metrics: %w", err)
	}
	return nil
}

// attachRemote reaches an interceptor that runs as a process of its own.
func (d *Daemon) attachRemote() (lspHolds, func(), error) {
	c := d.cfg.Interceptor
	tlsConfig, err := selfcert.ClientTLS(c.TLSCert)
	if err != nil {
		return lspHolds{}, nil, err
	}
	macaroon, err := auth.NewFileCredentials(string(c.Macaroon))
	if err != nil {
		return lspHolds{}, nil, err
	}
	conn, err := grpc.NewClient(c.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)), grpc.WithPerRPCCredentials(macaroon))
	if err != nil {
		return lspHolds{}, nil, fmt.Errorf("the interceptor at %s: %w", c.Address, err)
	}
	client := interceptorapi.NewClient(conn)
	return lspHolds{registry: client, ledger: client}, func() { _ = conn.Close() }, nil
}

// serve runs what this process is for, whenever it owns what that needs.
func (d *Daemon) serve(ctx context.Context) error {
	if !d.roles.Interceptor {
		return d.serveApart(ctx)
	}
	for ctx.Err() == nil {
		if err := d.hold.WaitActive(ctx); err != nil {
			return nil //nolint:nilerr // it only ends with the context: an orderly stop
		}
		// Law 8: with KeepForwarding the interceptor goes on without its lease,
		// and so must the process; the services wait until the lease is back.
		lease := d.lease.Load()
		if !lease.Valid() {
			pause(ctx)
			continue
		}
		if err := d.tenure(ctx, lease, lspHolds{registry: d.hold, ledger: d.hold}); d.fatal(ctx, lease, err) {
			return err
		}
	}
	return nil
}

// fatal tells an error that ends the process from one that ends with the
// database's outage. Ending the process would end lnd's stream.
func (d *Daemon) fatal(ctx context.Context, lease *store.Lease, err error) bool {
	if err == nil || ctx.Err() != nil {
		return false
	}
	if lease.Valid() && !errors.Is(err, store.ErrUnavailable) {
		return true
	}
	d.log.Warn("services ended without the database; they begin again when it is back", zap.Error(err))
	pause(ctx)
	return false
}

// pause keeps attempts apart; nothing rests on its length.
func pause(ctx context.Context) {
	_ = pace.Pause(ctx, 100*time.Millisecond)
}

// serveApart runs the services against an interceptor elsewhere, under a lease
// of their own.
func (d *Daemon) serveApart(ctx context.Context) error {
	holds, hangUp, err := d.attachRemote()
	if err != nil {
		return err
	}
	defer hangUp()
	owner, err := d.owner()
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		d.state("on standby: another sluiced runs the services")
		lease, err := d.acquire(ctx, d.db.AcquireLease, store.LeaseConfig{Name: leaseServices, Owner: owner, TTL: d.cfg.Interceptor.LeaseFor.Std()})
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		err = d.tenure(ctx, lease, holds)
		fatal := d.fatal(ctx, lease, err)
		// The lease is given back even when we are told to stop, so that a
		// standby need not wait for it to run out.
		if releaseErr := lease.Release(context.WithoutCancel(ctx)); releaseErr != nil {
			d.log.Warn("the lease could not be given back; it will run out", zap.Error(releaseErr))
		}
		if fatal {
			return err
		}
	}
	return nil
}

// runAcceptor answers peers that propose channels to the gateway.
func (d *Daemon) runAcceptor(ctx context.Context, group *errgroup.Group) error {
	policy, err := d.acceptorPolicy()
	if err != nil {
		return err
	}
	run := acceptor.Config{Node: d.lnd, Log: d.log.Named("acceptor")}
	if d.programs != nil {
		run.Consult = d.programs.Consult
	}
	group.Go(func() error {
		acceptor.New(policy, d.now).Run(ctx, run)
		return nil
	})
	return nil
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
