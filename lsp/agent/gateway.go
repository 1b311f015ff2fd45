package agent

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	shared "github.com/sluice-lsp/sluice/internal/gateways"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// authService is the service that the login asks rights for.
const authService = "lsp"

// DialGateway reaches LSPs over gRPC with TLS: the key of the configured
// certificate is pinned, or the system's roots decide. It logs in by signing
// the LSP's challenge, after having checked that it names the LSP's node.
func DialGateway(sign auth.Sign, now func() time.Time) Connect {
	dial := shared.Dial(authService, lspv1.NewChannelsServiceClient, sign, now,
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	)
	return func(l LSP, self ln.PubKey) (lspv1.ChannelsServiceClient, func() error, error) {
		return dial(shared.Gateway{Name: "LSP " + l.Name, NodeKey: l.NodeKey, GRPC: l.GRPC, Certificate: l.Certificate}, self)
	}
}

// gateways keeps one connection per LSP.
type gateways struct {
	connect Connect

	mu   sync.Mutex
	open map[string]gateway
}

type gateway struct {
	lsp    LSP
	client lspv1.ChannelsServiceClient
	close  func() error
}

// of gives the connection to an LSP as it is configured now.
func (g *gateways) of(l LSP, self ln.PubKey) (lspv1.ChannelsServiceClient, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if have, ok := g.open[l.Name]; ok {
		if have.lsp == l {
			return have.client, nil
		}
		_ = have.close()
		delete(g.open, l.Name)
	}
	client, end, err := g.connect(l, self)
	if err != nil {
		return nil, err
	}
	if g.open == nil {
		g.open = map[string]gateway{}
	}
	g.open[l.Name] = gateway{lsp: l, client: client, close: end}
	return client, nil
}

// drop ends the connection to an LSP.
func (g *gateways) drop(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if have, ok := g.open[name]; ok {
		_ = have.close()
		delete(g.open, name)
	}
}

func (g *gateways) closeAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, have := range g.open {
		_ = have.close()
		delete(g.open, name)
	}
}

// gateway gives the service of an LSP.
func (a *Agent) gateway(ctx context.Context, l LSP) (lspv1.ChannelsServiceClient, error) {
	self, err := a.self(ctx)
	if err != nil {
		return nil, err
	}
	return a.gateways.of(l, self.PubKey)
}

// menu asks one LSP for its menu, checked.
func (a *Agent) menu(ctx context.Context, l LSP) (Menu, error) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	if l.GRPC == "" {
		return a.foreign(ctx, l)
	}
	self, err := a.self(ctx)
	if err != nil {
		return Menu{}, err
	}
	client, err := a.gateways.of(l, self.PubKey)
	if err != nil {
		return Menu{}, err
	}
	resp, err := client.GetMenu(ctx, &lspv1.GetMenuRequest{})
	if err != nil {
		return Menu{}, fromGateway(l, err)
	}
	return menuFromProto(l, self.Network, resp)
}

// fromGateway gives an LSP's error its kind back and names the LSP.
func fromGateway(l LSP, err error) error {
	if err == nil {
		return nil
	}
	err = rpcserver.FromStatus(err)
	kind, said := errkind.Of(err), errkind.Sentence(err)
	if said == "" {
		said = err.Error()
	}
	if kind == errkind.Unavailable {
		said += " (is its service up at " + l.GRPC + "?)"
	}
	return errkind.Wrap(kind, err, "LSP "+l.Name+": "+said)
}

// Unreachable is an LSP that did not answer or offers nothing, and why.
type Unreachable struct {
	LSP LSP
	Err error
}

// menus asks several LSPs at once; the order of those that answer is theirs.
func (a *Agent) menus(ctx context.Context, lsps []LSP) ([]Menu, []Unreachable) {
	got, errs := make([]Menu, len(lsps)), make([]error, len(lsps))
	var wg sync.WaitGroup
	for i, l := range lsps {
		wg.Go(func() { got[i], errs[i] = a.menu(ctx, l) })
	}
	wg.Wait()
	var menus []Menu
	var away []Unreachable
	for i := range lsps {
		if errs[i] != nil {
			away = append(away, Unreachable{lsps[i], errs[i]})
			continue
		}
		menus = append(menus, got[i])
	}
	return menus, away
}
