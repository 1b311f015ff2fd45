package app

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lsp/peerrpc"
	"github.com/sluice-lsp/sluice/lsp/webhooks"
	"github.com/sluice-lsp/sluice/lsp/webhooks/outbound"
)

// WebhooksConfig says how wallets that are away are told that something waits
// for them (LSPS5).
type WebhooksConfig struct {
	Enabled    bool            `toml:"enabled" help:"let wallets register webhooks, and call them"`
	PerClient  int             `toml:"per_client" help:"webhooks that one client may have" min:"1" max:"100"`
	All        int             `toml:"all" help:"webhooks in all" min:"1"`
	PerHour    int             `toml:"sets_per_hour" help:"how many times an hour one client may register or change one: each is a call to a URL of its choice" min:"1"`
	Cooldown   config.Duration `toml:"cooldown" help:"time between two calls about the same thing to a wallet that stays away" min:"10s" max:"1h"`
	ResetEvery config.Duration `toml:"reset_every" help:"how often a wallet that comes and goes may lift that" min:"1s" max:"1h"`
	Retain     config.Duration `toml:"retain" help:"how long webhooks are kept without a channel (bLIP-55: 7 days at least)" min:"7d"`
	KeepLedger config.Duration `toml:"keep_ledger" help:"how long is known what was told, and how it went" min:"1h"`
	Timeout    config.Duration `toml:"timeout" help:"how long one call may take" min:"1s" max:"1m"`
	Networks   []string        `toml:"allow_networks" help:"networks beside the public internet that webhooks may lead into, as 10.1.0.0/16: whoever has a channel can have sluiced send a POST there"`
	CAFile     string          `toml:"ca_file" help:"path of certificates (PEM) that are trusted for webhooks beside the system's"`
}

func defaultWebhooks() WebhooksConfig {
	c := webhooks.DefaultConfig()
	return WebhooksConfig{
		Enabled: true, PerClient: c.PerClient, All: c.All, PerHour: c.SetsPerHour,
		Cooldown: config.Duration(c.Cooldown.Every), ResetEvery: config.Duration(c.Cooldown.ResetEvery),
		Retain: config.Duration(c.Retain), KeepLedger: config.Duration(c.KeepLedger), Timeout: config.Duration(10 * time.Second),
	}
}

func (c WebhooksConfig) settings() (webhooks.Config, error) {
	out := webhooks.DefaultConfig()
	out.PerClient, out.All, out.SetsPerHour = c.PerClient, c.All, c.PerHour
	out.Cooldown = lsps5.Cooldown{Every: c.Cooldown.Std(), ResetEvery: c.ResetEvery.Std()}
	out.Retain, out.KeepLedger = c.Retain.Std(), c.KeepLedger.Std()
	if err := out.Validate(); err != nil {
		return out, fmt.Errorf("lsps.%w", err)
	}
	_, err := c.networks()
	return out, err
}

func (c WebhooksConfig) networks() ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(c.Networks))
	for _, text := range c.Networks {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("lsps.webhooks.allow_networks: %w", err)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func (c WebhooksConfig) sender() (*outbound.Sender, error) {
	networks, err := c.networks()
	if err != nil {
		return nil, err
	}
	var roots *x509.CertPool
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("lsps.webhooks.ca_file: %w", err)
		}
		if roots, err = x509.SystemCertPool(); err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("lsps.webhooks.ca_file: there is no certificate in %s", c.CAFile)
		}
	}
	return outbound.New(outbound.Config{Networks: networks, Roots: roots, Timeout: c.Timeout.Std()}), nil
}

// hookService keeps wallets' webhooks; nil when they, or LSPS, are turned off.
func (d *Daemon) hookService(lease *store.Lease, clients webhooks.Clients) (*webhooks.Service, error) {
	c := d.cfg.LSPS.Webhooks
	if !d.cfg.LSPS.Enabled || !c.Enabled {
		return nil, nil //nolint:nilnil // there is none
	}
	settings, err := c.settings()
	if err != nil {
		return nil, err
	}
	sender, err := c.sender()
	if err != nil {
		return nil, err
	}
	return webhooks.New(webhooks.Options{
		Node: d.lnd, Signer: d.lnd, Sender: sender, Clients: clients, DB: d.db, Fence: lease.Check,
		Config: settings, Now: d.now, Random: rand.Reader, Log: d.log.Named("webhooks"),
	})
}

// hookMethods are those of LSPS5.
func hookMethods(s *webhooks.Service) map[string]peerrpc.Method {
	return map[string]peerrpc.Method{
		lsps5.MethodSetWebhook:    lsps5.SetWebhook(s),
		lsps5.MethodListWebhooks:  lsps5.ListWebhooks(s),
		lsps5.MethodRemoveWebhook: lsps5.RemoveWebhook(s),
	}
}

// leaseNotices implements the engine's Notices over webhooks.
type leaseNotices struct {
	hooks func() *webhooks.Service
	now   func() time.Time
}

// noticeFor is how long it is tried at least: also when the lease is over and the
// channel waits for its client.
const noticeFor = 12 * time.Hour

// LeaseEnds implements engine.Notices: bLIP-55 has a notification for just this.
func (n leaseNotices) LeaseEnds(ctx context.Context, client ln.PubKey, at time.Time) error {
	hooks := n.hooks()
	if hooks == nil {
		return webhooks.ErrNoWebhook
	}
	if least := n.now().Add(noticeFor); at.Before(least) {
		at = least
	}
	return hooks.LiquidityManagementRequest(ctx, client, at)
}

// registerLSPS shows what peers ask and what webhooks are told.
func (d *Daemon) registerLSPS() error {
	if err := d.registry.Register(peerrpc.NewCollector(func() (peerrpc.Stats, bool) {
		if s := d.messages.Load(); s != nil {
			return s.Stats(), true
		}
		return peerrpc.Stats{}, false
	})); err != nil {
		return fmt.Errorf("metrics of LSPS: %w", err)
	}
	if err := d.registry.Register(webhooks.NewCollector(func() (webhooks.Stats, bool) {
		if s := d.hooks.Load(); s != nil {
			return s.Stats(), true
		}
		return webhooks.Stats{}, false
	})); err != nil {
		return fmt.Errorf("metrics of webhooks: %w", err)
	}
	return nil
}
