package app

import (
	"context"
	"fmt"
	"maps"

	"github.com/sluice-lsp/sluice/internal/ln"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lsp/peerrpc"
	"github.com/sluice-lsp/sluice/lsp/webhooks"
)

// LSPSConfig says what wallets may ask for over the Lightning peer connection.
type LSPSConfig struct {
	Enabled     bool `toml:"enabled" help:"answer LSPS requests of peers (custom messages of type 37913)"`
	PendingEach int  `toml:"pending_per_peer" help:"requests that one peer may have in flight" min:"1" max:"1000"`
	Pending     int  `toml:"pending" help:"requests in flight in all" min:"1"`
	PerSecond   int  `toml:"requests_per_second_per_peer" help:"requests per second of one peer, four times as many at once" min:"1"`

	Webhooks WebhooksConfig `toml:"webhooks" help:"how wallets that are away are told that a payment waits for them (LSPS5)"`
}

func defaultLSPS() LSPSConfig {
	l := peerrpc.DefaultLimits()
	return LSPSConfig{Enabled: true, PendingEach: l.PeerPending, Pending: l.AllPending, PerSecond: int(l.PeerPerSecond), Webhooks: defaultWebhooks()}
}

func (c LSPSConfig) limits() (peerrpc.Limits, error) {
	l := peerrpc.DefaultLimits()
	l.PeerPending, l.AllPending = c.PendingEach, c.Pending
	l.PeerPerSecond, l.PeerBurst = float64(c.PerSecond), 4*c.PerSecond
	if err := l.Validate(); err != nil {
		return l, fmt.Errorf("lsps: %w", err)
	}
	return l, nil
}

// lspsServer answers LSPS requests of peers; nil when that is turned off. hooks
// is nil without webhooks.
func (d *Daemon) lspsServer(business *lspengine.Engine, hooks *webhooks.Service) (*peerrpc.Server, error) {
	if !d.cfg.LSPS.Enabled {
		return nil, nil //nolint:nilnil // there is none
	}
	limits, err := d.cfg.LSPS.limits()
	if err != nil {
		return nil, err
	}
	onDemand := lspengine.LSPS2{Engine: business}
	methods := map[string]peerrpc.Method{
		lsps2.MethodGetInfo: lsps2.GetInfo(onDemand),
		lsps2.MethodBuy:     lsps2.Buy(onDemand),
	}
	protocols := []int{lsps2.Number}
	if d.cfg.LSP.Orders.Enabled {
		orders := lspengine.LSPS1{Engine: business}
		methods[lsps1.MethodGetInfo] = lsps1.GetInfo(orders)
		methods[lsps1.MethodCreateOrder] = lsps1.CreateOrder(orders)
		methods[lsps1.MethodGetOrder] = lsps1.GetOrder(orders)
		protocols = append([]int{lsps1.Number}, protocols...)
	}
	if hooks != nil {
		maps.Copy(methods, hookMethods(hooks))
		protocols = append(protocols, lsps5.Number)
	}
	methods[lsps0.MethodListProtocols] = listProtocols(protocols...)
	return peerrpc.New(peerrpc.Options{
		Messages: d.lnd, Peers: d.lnd, Limits: limits, Now: d.now, Log: d.log.Named("lsps"), Methods: methods,
	})
}

func listProtocols(numbers ...int) peerrpc.Method {
	return func(_ context.Context, _ ln.PubKey, params lsps0.Params) (any, error) {
		if refused := params.Only(); refused != nil {
			return nil, refused
		}
		return lsps0.NewListProtocols(numbers...), nil
	}
}
