package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/gateways"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

// Gateway is one that runs Sluice.
type Gateway = gateways.Gateway

// Node is the wallet's lnd.
type Node interface {
	Info(ctx context.Context) (ln.NodeInfo, error)
	ListChannels(ctx context.Context) ([]ln.Channel, error)
	AddInvoice(ctx context.Context, r ln.InvoiceRequest) (bolt11 string, hash ln.Hash, err error)
	// LookupInvoice is ln.ErrNotFound for one that this node never made.
	LookupInvoice(ctx context.Context, hash ln.Hash) (ln.Invoice, error)
	CancelInvoice(ctx context.Context, hash ln.Hash) error
}

// Reissue signs an invoice of the node's anew (see internal/lnd).
type Reissue func(ctx context.Context, network, bolt11 string, r ln.Reissue) (string, error)

// Connect reaches a gateway's service as the node self.
type Connect = gateways.Connect[lwsv1.HoldsServiceClient]

// Ports are what the agent works with.
type Ports struct {
	Node Node
	// Gateways are those of now.
	Gateways func() []Gateway
	Connect  Connect
	Reissue  Reissue
	Decode   func(network, text string) (ln.Bolt11, error)
	Now      func() time.Time
	Log      *zap.Logger
}

// Config is how the agent behaves.
type Config struct {
	DataDir string
	// Wish is what is asked for until the user says otherwise by command; Enabled that it
	// is.
	Wish    lws.Wish
	Enabled bool
	// RefreshEvery (1 min) is how often gateways are asked, CallTimeout (10 s) bounds a call.
	RefreshEvery, CallTimeout time.Duration
}

// DefaultWish is what a gateway with the defaults grants.
func DefaultWish() lws.Wish {
	return lws.Wish{HoldFor: 24 * time.Hour, MaxHtlcs: 30, MaxSat: 10_000_000, FinalCltvDelta: 80}
}

// Said is what the user asked for by command; it wins over the configuration.
type Said struct {
	Enabled  bool   `json:"enabled"`
	HoldFor  string `json:"hold_for,omitempty"`
	MaxHtlcs int    `json:"max_htlcs,omitempty"`
	MaxSat   ln.Sat `json:"max_sat,omitempty"`
}

// SettingsFile is where that is kept, in the data directory.
const SettingsFile = "holds.json"

// Waiting is a payment that waits, and whether this node can take it.
type Waiting struct {
	*lwsv1.WaitingPayment
	Hash ln.Hash
	// Invoice is the node's word: a state, or "unknown".
	Invoice string
}

// Status is how one gateway stands.
type Status struct {
	Gateway
	Registered bool
	Wish       lws.Wish
	Terms      *lwsv1.HoldTerms
	Waiting    []Waiting
	Problem    error
	AskedAt    time.Time
}

// Agent is the wallet's side. All methods may be used concurrently.
type Agent struct {
	links gateways.Links[lwsv1.HoldsServiceClient]

	cfg   Config
	ports Ports
	log   *zap.Logger

	// asking lets one round of questions run at a time.
	asking sync.Mutex

	mu   sync.Mutex
	said *Said
	last map[string]Status
	// told are the payments that were logged, by gateway.
	told map[string]map[string]bool
}

// New reads what the user said; it makes no call.
func New(cfg Config, ports Ports) (*Agent, error) {
	if cfg.RefreshEvery == 0 {
		cfg.RefreshEvery = time.Minute
	}
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = 10 * time.Second
	}
	if ports.Log == nil {
		ports.Log = zap.NewNop()
	}
	a := &Agent{
		cfg: cfg, ports: ports, log: ports.Log, last: map[string]Status{}, told: map[string]map[string]bool{},
	}
	raw, err := os.ReadFile(filepath.Join(cfg.DataDir, SettingsFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("what is to be held: %w", err)
	default:
		a.said = &Said{}
		if err := json.Unmarshal(raw, a.said); err != nil {
			return nil, fmt.Errorf("%s: %w", SettingsFile, err)
		}
		if _, err := a.said.wish(cfg.Wish); err != nil {
			return nil, fmt.Errorf("%s: %w", SettingsFile, err)
		}
	}
	return a, nil
}

// wish is what was said, over what is configured.
func (s Said) wish(over lws.Wish) (lws.Wish, error) {
	if s.HoldFor != "" {
		d, err := time.ParseDuration(s.HoldFor)
		if err != nil || d <= 0 {
			return over, errkind.Newf(errkind.Invalid, "hold_for %q is no time like 6h", ln.Clip(s.HoldFor, 40))
		}
		over.HoldFor = d
	}
	if s.MaxHtlcs > 0 {
		over.MaxHtlcs = s.MaxHtlcs
	}
	if s.MaxSat > 0 {
		over.MaxSat = s.MaxSat
	}
	return over, nil
}

// Wish is what is asked of gateways: whether at all, and whether the user said so, rather
// than nobody anything.
func (a *Agent) Wish() (w lws.Wish, enabled, decided bool) {
	a.mu.Lock()
	said := a.said
	a.mu.Unlock()
	if said == nil {
		return a.cfg.Wish, a.cfg.Enabled, a.cfg.Enabled
	}
	w, err := said.wish(a.cfg.Wish)
	return w, said.Enabled && err == nil, true
}

// Say keeps what the user wants and tells the gateways.
func (a *Agent) Say(ctx context.Context, s Said) ([]Status, error) {
	if _, err := s.wish(a.cfg.Wish); err != nil {
		return nil, err
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("what is to be held: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(a.cfg.DataDir, SettingsFile), append(raw, '\n'), 0o600); err != nil {
		return nil, fmt.Errorf("what is to be held: %w", err)
	}
	a.mu.Lock()
	a.said = &s
	a.mu.Unlock()
	return a.Refresh(ctx)
}

// Run keeps the registrations and what is known until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	defer a.links.Keep()
	ticker := time.NewTicker(a.cfg.RefreshEvery)
	defer ticker.Stop()
	for {
		if _, err := a.Refresh(ctx); err != nil && ctx.Err() == nil {
			a.log.Debug("what gateways hold is not known yet", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Known is what was heard last, by the order of the gateways.
func (a *Agent) Known() []Status {
	gateways := a.ports.Gateways()
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]Status, 0, len(gateways))
	for _, g := range gateways {
		s, ok := a.last[g.Name]
		if !ok || s.Gateway != g {
			s = Status{Gateway: g, Problem: errkind.New(errkind.Unavailable, "it was not asked yet")}
		}
		out = append(out, s)
	}
	return out
}

// Refresh asks every gateway now, registers where that differs from what is wished, and
// tells of payments that wait.
func (a *Agent) Refresh(ctx context.Context) ([]Status, error) {
	a.asking.Lock()
	defer a.asking.Unlock()
	self, err := a.ports.Node.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("lnd does not say who it is: %w", err)
	}
	gateways := a.ports.Gateways()
	out := make([]Status, len(gateways))
	var wg sync.WaitGroup
	for i, g := range gateways {
		wg.Go(func() { out[i] = a.ask(ctx, g, self.PubKey) })
	}
	wg.Wait()
	a.mu.Lock()
	for i, s := range out {
		if s.Problem != nil && s.Terms == nil {
			// It did not answer: what waits there is what was heard before.
			before := a.last[s.Name]
			out[i].Waiting, out[i].Registered, out[i].Wish = before.Waiting, before.Registered, before.Wish
		}
		a.last[s.Name] = out[i]
	}
	a.mu.Unlock()
	a.links.Keep(gateways...)
	for _, s := range out {
		a.tell(s)
	}
	return out, nil
}

// tell logs each payment that waits once: a wallet that was restored from its seed may
// have no invoice for it.
func (a *Agent) tell(s Status) {
	now := make(map[string]bool, len(s.Waiting))
	a.mu.Lock()
	before := a.told[s.Name]
	a.told[s.Name] = now
	a.mu.Unlock()
	for _, w := range s.Waiting {
		now[w.GetId()] = true
		if before[w.GetId()] {
			continue
		}
		fields := []zap.Field{
			zap.String("gateway", s.Name), zap.Stringer("payment_hash", w.Hash), zap.Stringer("amount", ln.Msat(w.GetAmountMsat())),
			zap.Time("until", time.UnixMilli(w.GetUntilMs()).UTC()), zap.Int32("blocks_left", w.GetBlocksLeft()),
		}
		if w.Invoice == InvoiceUnknown {
			a.log.Warn("a payment waits for this wallet whose invoice its node does not have, as after a restore from the seed: it cannot take it; `sluice-wallet holds return` sends it back", fields...)
			continue
		}
		a.log.Info("a payment waits for this wallet: it comes once a channel with the gateway is active", fields...)
	}
}

func (a *Agent) client(g Gateway, self ln.PubKey) (lwsv1.HoldsServiceClient, error) {
	return a.links.Client(g, self, a.ports.Connect)
}
