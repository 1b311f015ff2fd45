package app

import (
	"context"
	"crypto/rand"

	"github.com/sluice-lsp/sluice/internal/auth"
	tenantengine "github.com/sluice-lsp/sluice/lws/tenant/engine"
)

// newTenants reads the registry of tenants. Every process has it, whatever services
// it runs: each refuses what another one revoked.
func (d *Daemon) newTenants(ctx context.Context, bakery *auth.Bakery) error {
	engine, err := tenantengine.New(ctx, tenantengine.Options{
		DB: d.db, Bakery: bakery, Services: d.walletServices(), Gateway: d.info.PubKey,
		Anchors: d.path(fileAudit), Now: d.now, Random: rand.Reader, Log: d.log.Named("tenants"),
	})
	if err != nil {
		return err
	}
	for _, c := range engine.Collectors() {
		if err := d.registry.Register(c); err != nil {
			return err
		}
	}
	d.registryOfTenants = engine
	d.tenants.Ready(engine)
	return nil
}
