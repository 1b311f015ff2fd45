package app

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/store"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
	"github.com/sluice-lsp/sluice/lsp/links"
)

// tenure runs the services of this process until the lease is lost or ctx
// ends. Losing the lease is no error: the next tenure begins when it is back.
func (d *Daemon) tenure(ctx context.Context, lease *store.Lease, holds lspHolds) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		select {
		case <-lease.Lost():
			d.log.Warn("the lease is lost: services stop until it is back")
			cancel()
		case <-ctx.Done():
		}
		return nil
	})
	if d.roles.Interceptor {
		if err := d.runAcceptor(ctx, group); err != nil {
			return err
		}
	}
	if d.roles.LSP {
		group.Go(func() error { return d.runLSP(ctx, lease, holds) })
		if d.cfg.Holds.Enabled {
			group.Go(func() error { return d.runHolds(ctx, lease, holds) })
		}
	} else {
		d.nowReady()
	}
	err := group.Wait()
	d.lsp.Ready(nil)
	d.state("services are stopped")
	return err
}

func (d *Daemon) runLSP(ctx context.Context, lease *store.Lease, holds lspHolds) error {
	d.registerHolds(ctx, holds)
	settings, err := d.cfg.lspConfig(d.info.PubKey, d.info.URIs)
	if err != nil {
		return err
	}
	business, err := lspengine.New(lspengine.Options{
		Node: lspNode(d.lnd, lease), Routes: holds, Held: holds, Waker: newWaking(d.lsp, d.hooks.Load, d.now), Notices: leaseNotices{d.hooks.Load, d.now}, Books: d.lnd, Closes: d.lnd, DB: d.db, Fence: lease.Check, Restored: d.restored.LSP, RestoredWhy: d.restoredWhy,
		DecodeBolt11: func(text string) (ln.Bolt11, error) { return lnd.DecodeBolt11(d.cfg.Lnd.Network, text) },
		Config:       settings, Now: d.now, Random: rand.Reader, Log: d.log.Named("lsp"),
	})
	if err != nil {
		return err
	}
	hookService, err := d.hookService(lease, business)
	if err != nil {
		return err
	}
	defer d.links.Store(nil)
	messages, err := d.lspsServer(business, hookService)
	if err != nil {
		return err
	}
	// Before payments that waited already are taken up: their wallets are told.
	if hookService != nil {
		if err := hookService.Load(ctx); err != nil {
			return err
		}
		d.hooks.Store(hookService)
		d.lsp.Webhooks(hookService)
		defer func() {
			d.lsp.Webhooks(nil)
			d.hooks.Store(nil)
		}()
	}
	d.messages.Store(messages)
	defer d.messages.Store(nil)
	var serving sync.WaitGroup
	defer serving.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return business.Run(ctx, func() {
		d.lsp.Ready(business)
		if hookService != nil {
			serving.Go(func() { hookService.Run(ctx) })
		}
		if messages != nil {
			serving.Go(func() { messages.Run(ctx) })
		}
		if d.cfg.Joint.Enabled {
			serving.Go(func() { d.keepJoint(ctx, lease, business) })
		}
		if after := d.cfg.LSP.ReconnectAfter.Std(); after > 0 {
			keeper := links.NewKeeper(links.Options{
				Node: d.lnd, Payer: fencedPayments{d.lnd, lease}, Payments: business.OnTheirWay, After: after, Now: d.now, Log: d.log.Named("links"),
			})
			d.links.Store(keeper)
			serving.Go(func() { keeper.Run(ctx) })
		}
		d.nowReady()
		if d.restored.LSP {
			serving.Go(func() { d.acceptLSP(ctx, business.Reconciled()) })
		}
	})
}

// acceptLSP accepts a restored database once lnd was asked about everything unfinished,
// and nothing is left that the copy has never heard of.
func (d *Daemon) acceptLSP(ctx context.Context, reconciled <-chan struct{}) {
	select {
	case <-reconciled:
	case <-ctx.Done():
		return
	}
	if err := d.acceptRestore(ctx, lspapi.Name); err != nil {
		d.log.Error("the restored database could not be accepted: the next start reconciles it again", zap.Error(err))
	}
}

// deadChannels counts the channels that reconnecting did not bring back.
func (d *Daemon) deadChannels() int {
	if k := d.links.Load(); k != nil {
		return len(k.Dead())
	}
	return 0
}

// registerHolds makes the service known at the interceptor, waiting for one
// that runs elsewhere until ctx ends.
func (d *Daemon) registerHolds(ctx context.Context, holds lspHolds) {
	for {
		err := holds.register(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		d.state("waiting for the interceptor")
		if !errors.Is(err, interceptor.ErrUnavailable) {
			d.log.Warn("the interceptor does not take the registration; trying again", zap.Error(err))
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (d *Daemon) nowReady() {
	d.state("")
	d.log.Info("ready")
}
