package agent

import (
	"context"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/gateways"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
)

// Gateway is one that runs Sluice.
type Gateway = gateways.Gateway

// Node is the wallet's lnd.
type Node interface {
	Info(ctx context.Context) (ln.NodeInfo, error)
	AddInvoice(ctx context.Context, r ln.InvoiceRequest) (bolt11 string, hash ln.Hash, err error)
	LookupInvoice(ctx context.Context, hash ln.Hash) (ln.Invoice, error)
	// CancelInvoice takes a cancelled invoice as success; a settled one is
	// ln.ErrInvoiceClosed.
	CancelInvoice(ctx context.Context, hash ln.Hash) error
}

// Chain is the chain as the wallet's own node sees it.
type Chain interface {
	NewAddress(ctx context.Context) (string, error)
	EstimateFee(ctx context.Context, targetBlocks int32) (rate, relay ln.FeeRateSatPerKW, err error)
	// Publish takes a known transaction as success.
	Publish(ctx context.Context, rawTx []byte, label string) error
	// WatchConf and WatchSpend block until their stream ends and tell the present
	// state first, if there is one.
	WatchConf(ctx context.Context, id ln.TxID, script []byte, since uint32, handle func(ln.ConfEvent)) error
	WatchSpend(ctx context.Context, op ln.Outpoint, script []byte, since uint32, handle func(ln.SpendEvent)) error
}

// Connect reaches a gateway's service as the node self.
type Connect = gateways.Connect[swapsv1.ChannelSwapsServiceClient]

// Ports are what the agent works with.
type Ports struct {
	Node  Node
	Chain Chain
	// Gateways are those of now.
	Gateways func() []Gateway
	Connect  Connect
	Now      func() time.Time
	Random   io.Reader
	Log      *zap.Logger
}

// Config is how the agent behaves. Every (2 s) is how often swaps under way are
// looked at, CallTimeout (20 s) bounds a call.
type Config struct {
	DataDir            string
	Every, CallTimeout time.Duration
}

// Agent is the wallet's side. All methods may be used concurrently; Run must be
// running for swaps to go on.
type Agent struct {
	links gateways.Links[swapsv1.ChannelSwapsServiceClient]

	cfg     Config
	ports   Ports
	log     *zap.Logger
	records *Records

	mu       sync.Mutex
	followed map[string]bool
	// asked is when a gateway was last asked about a swap, by swap and question.
	asked map[string]time.Time
	// since is from when on a deposit's spend has been followed without a break.
	since map[ln.Outpoint]time.Time
	wg    sync.WaitGroup
}

// New opens the records; it makes no call.
func New(cfg Config, ports Ports) (*Agent, error) {
	if cfg.Every == 0 {
		cfg.Every = 2 * time.Second
	}
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = 20 * time.Second
	}
	if ports.Log == nil {
		ports.Log = zap.NewNop()
	}
	records, err := OpenRecords(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	return &Agent{cfg: cfg, ports: ports, log: ports.Log, records: records, followed: map[string]bool{}, asked: map[string]time.Time{}, since: map[ln.Outpoint]time.Time{}}, nil
}

// Records are all swaps, newest first.
func (a *Agent) Records() []Record { return a.records.All() }

// Record is one of them.
func (a *Agent) Record(hash ln.Hash) (Record, error) { return a.records.Get(hash) }

// Awaits says how many confirmations a channel of this gateway must have before the
// wallet takes a payment over it: with one over a channel that never confirms the gateway
// would have the preimage, and with that the deposit.
func (a *Agent) Awaits(gateway ln.PubKey) (confs uint32, waits bool) {
	for _, r := range a.records.All() {
		if r.Phase == PhaseAgreed && r.GatewayKey == gateway {
			confs, waits = max(confs, r.ChannelConfs, 1), true
		}
	}
	return confs, waits
}

// Run takes swaps further until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	defer a.links.Keep()
	defer a.wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pace.Every(ctx, a.cfg.Every, a.look)
	return nil
}

// gateway finds one by name; none is the only one there is.
func (a *Agent) gateway(name string) (Gateway, error) {
	all := a.ports.Gateways()
	if name == "" && len(all) == 1 {
		return all[0], nil
	}
	for _, g := range all {
		if g.Name == name {
			return g, nil
		}
	}
	switch {
	case len(all) == 0:
		return Gateway{}, errkind.New(errkind.Invalid, "no LSP that runs Sluice is known: add one with `sluice-wallet lsps add`")
	case name == "":
		return Gateway{}, errkind.New(errkind.Invalid, "there are several LSPs: name one with --lsp")
	}
	return Gateway{}, errkind.Newf(errkind.NotFound, "there is no LSP %q that runs Sluice", ln.Clip(name, 60))
}

// askEvery keeps questions to a gateway apart, for its limits' sake.
const askEvery = 10 * time.Second

// due says that a gateway may be asked this again.
func (a *Agent) due(question string) bool {
	now := a.ports.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Before(a.asked[question].Add(askEvery)) {
		return false
	}
	a.asked[question] = now
	return true
}

func (a *Agent) client(g Gateway, self ln.PubKey) (swapsv1.ChannelSwapsServiceClient, error) {
	return a.links.Client(g, self, a.ports.Connect)
}
