package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
)

// Config is how the agent behaves. DataDir is made with mode 0700.
type Config struct {
	DataDir string
	Policy  Policy
	// CallTimeout bounds one call to an LSP (default 20 s).
	CallTimeout time.Duration
	// KeepEvery is how often a lost connection to an LSP's node is tried again
	// (default 10 s).
	KeepEvery time.Duration
	// Trust is how far LSPs are trusted to fund channels afterwards.
	Trust TrustConfig
}

// The files in DataDir.
const (
	lspsFile       = "lsps.toml"
	agreementsFile = "agreements.json"
	ordersFile     = "orders.json"
)

// Agent is the wallet's side of on-demand channels. All methods may be used
// concurrently; Run must be running for channels to be accepted.
type Agent struct {
	cfg        Config
	ports      Ports
	log        *zap.Logger
	now        func() time.Time
	book       *Book
	agreements *agreements
	orders     *ordered
	trusts     *trusts
	gateways   gateways

	accepting atomic.Bool
	// known caches what does not change while lnd runs: key and network.
	known atomic.Pointer[ln.NodeInfo]
	ready chan struct{}

	mu sync.Mutex
	// keepers maintain the connection to each LSP's node, by node key.
	keepers map[ln.PubKey]keeper
	running context.Context //nolint:containedctx // the life of Run, for LSPs added later
	wg      sync.WaitGroup
}

type keeper struct {
	lsp  LSP
	stop context.CancelFunc
	// poke asks for a look at the connection now.
	poke chan struct{}
}

// New opens the agent's files; it makes no call.
func New(cfg Config, ports Ports) (*Agent, error) {
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = 20 * time.Second
	}
	if cfg.KeepEvery == 0 {
		cfg.KeepEvery = 10 * time.Second
	}
	if ports.Now == nil {
		ports.Now = time.Now
	}
	if ports.Random == nil {
		ports.Random = rand.Reader
	}
	if ports.Log == nil {
		ports.Log = zap.NewNop()
	}
	if ports.Connect == nil {
		ports.Connect = DialGateway(func(ctx context.Context, message string) (string, error) {
			return ports.Node.SignMessage(ctx, []byte(message))
		}, ports.Now)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	book, err := OpenBook(filepath.Join(cfg.DataDir, lspsFile))
	if err != nil {
		return nil, err
	}
	agreed, err := openAgreements(filepath.Join(cfg.DataDir, agreementsFile))
	if err != nil {
		return nil, err
	}
	bought, err := openOrders(filepath.Join(cfg.DataDir, ordersFile))
	if err != nil {
		return nil, err
	}
	trusted, err := openTrusts(filepath.Join(cfg.DataDir, trustedFile))
	if err != nil {
		return nil, err
	}
	return &Agent{
		cfg: cfg, ports: ports, log: ports.Log, now: ports.Now, book: book, agreements: agreed, orders: bought, trusts: trusted,
		gateways: gateways{connect: ports.Connect}, ready: make(chan struct{}), keepers: map[ln.PubKey]keeper{},
	}, nil
}

// Ready is closed once lnd has answered and the channel acceptor is attached.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// LSPs is the configured list.
func (a *Agent) LSPs() []LSP { return a.book.List() }

// Gateways are those of them that run Sluice.
func (a *Agent) Gateways() []LSP {
	return slices.DeleteFunc(a.book.List(), func(l LSP) bool { return l.GRPC == "" })
}

// Run accepts channels and keeps connections until the context ends. It goes
// on through lnd's restarts, and returns nil at an orderly end.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.mu.Lock()
	if a.running != nil {
		a.mu.Unlock()
		return errors.New("the agent runs already")
	}
	a.running = ctx
	a.mu.Unlock()
	defer func() {
		cancel()
		a.wg.Wait()
		a.gateways.closeAll()
	}()
	a.spawn(func() { a.again(ctx, "lnd's channel acceptor", a.accept) })
	a.spawn(func() { a.again(ctx, "lnd's peer events", a.watchPeers) })
	for _, l := range a.book.List() {
		a.keep(l)
	}
	for _, p := range a.trusts.all() {
		a.followTrusted(p.Hash)
	}
	<-ctx.Done()
	return nil
}

func (a *Agent) spawn(f func()) { a.wg.Go(f) }

// again runs something for as long as the agent runs, waiting longer after
// each failure and briefly after a long success.
func (a *Agent) again(ctx context.Context, what string, run func(context.Context) error) {
	const least, most, good = 50 * time.Millisecond, 5 * time.Second, 10 * time.Second
	wait := least
	for {
		began := a.now()
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		if a.now().Sub(began) > good {
			wait = least
		}
		a.log.Warn(what+" ended; trying again", zap.Duration("in", wait), zap.Error(err))
		if pace.Pause(ctx, wait) != nil {
			return
		}
		wait = min(2*wait, most)
	}
}

// accept answers channel proposals until lnd lets go.
func (a *Agent) accept(ctx context.Context) error {
	if _, err := a.self(ctx); err != nil {
		return err
	}
	a.accepting.Store(true)
	defer a.accepting.Store(false)
	a.mu.Lock()
	select {
	case <-a.ready:
	default:
		close(a.ready)
	}
	a.mu.Unlock()
	return a.ports.Node.RunAcceptor(ctx, a.decide)
}

// decide answers one proposal from memory.
func (a *Agent) decide(o ln.OpenProposal) ln.AcceptVerdict {
	var proposer *LSP
	var wish Wish
	if l, ok := a.book.ByNode(o.Peer); ok {
		proposer, wish = &l, a.agreements.wish(o.Peer, a.now())
		wish.Joint = a.ports.Expects != nil && a.ports.Expects(o)
		wish.Ordered = a.orders.expected(o.Peer, a.now())
		if a.ports.Awaits != nil {
			if confs, waits := a.ports.Awaits(o.Peer); waits {
				wish = wish.confirmed(confs)
			}
		}
	}
	v := a.cfg.Policy.Decide(o, proposer, wish)
	fields := []zap.Field{
		zap.Stringer("peer", o.Peer), zap.Uint64("capacity_sat", uint64(o.CapacitySat)),
		zap.Bool("wants_zero_conf", o.WantsZeroConf), zap.Bool("accepted", v.Accept),
	}
	if proposer != nil {
		fields = append(fields, zap.String("lsp", proposer.Name))
	}
	if !v.Accept {
		a.log.Warn("channel refused", append(fields, zap.String("reason", v.Refusal))...)
		return v
	}
	a.log.Info("channel accepted", append(fields, zap.Bool("zero_conf", v.ZeroConf), zap.Uint32("min_depth", v.MinDepth))...)
	return v
}

// self is the node's identity, asked once.
func (a *Agent) self(ctx context.Context) (ln.NodeInfo, error) {
	if info := a.known.Load(); info != nil {
		return *info, nil
	}
	info, err := a.ports.Node.Info(ctx)
	if err != nil {
		return ln.NodeInfo{}, nodeError(err)
	}
	a.known.Store(&info)
	return info, nil
}

// nodeError says what a person can do about an error of lnd's.
func nodeError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ln.ErrPermission):
		return errkind.Wrap(errkind.Denied, err, "lnd's macaroon does not allow this: bake one as `sluice-wallet macaroon` prints, and name it in lnd.macaroon")
	case errors.Is(err, ln.ErrUnavailable):
		return errkind.Wrap(errkind.Unavailable, err, "lnd does not answer: is it running and unlocked, and are lnd.address and lnd.tls right?")
	default:
		return err
	}
}

// watchPeers looks at an LSP's connection the moment lnd reports a change.
func (a *Agent) watchPeers(ctx context.Context) error {
	a.pokeAll()
	return a.ports.Peers.SubscribePeers(ctx, func(e ln.PeerEvent) {
		a.mu.Lock()
		k, ok := a.keepers[e.Peer]
		a.mu.Unlock()
		if ok && !e.Online {
			k.look()
		}
	})
}

func (a *Agent) pokeAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.keepers {
		k.look()
	}
}

func (k keeper) look() {
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

// keep starts, or restarts with what was changed, the keeper of an LSP's
// connection and the ear for its word. Before Run it does nothing: Run starts
// all.
func (a *Agent) keep(l LSP) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running == nil || a.running.Err() != nil {
		return
	}
	if old, ok := a.keepers[l.NodeKey]; ok {
		if old.lsp == l {
			return
		}
		old.stop()
	}
	ctx, stop := context.WithCancel(a.running)
	k := keeper{lsp: l, stop: stop, poke: make(chan struct{}, 1)}
	a.keepers[l.NodeKey] = k
	a.spawn(func() { a.keepConnected(ctx, l, k.poke) })
	if l.GRPC != "" {
		a.spawn(func() { a.listen(ctx, l, k) })
	}
}

func (a *Agent) unkeep(key ln.PubKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if k, ok := a.keepers[key]; ok {
		k.stop()
		delete(a.keepers, key)
	}
}

func (a *Agent) keepConnected(ctx context.Context, l LSP, poke <-chan struct{}) {
	log := a.log.With(zap.String("lsp", l.Name))
	ticker := time.NewTicker(a.cfg.KeepEvery)
	defer ticker.Stop()
	connected := false
	for {
		is, err := a.connectOnce(ctx, l)
		switch {
		case is && !connected:
			log.Info("connected to the LSP's node", zap.String("address", l.Address))
		case !is && ctx.Err() == nil:
			log.Warn("the LSP's node is not connected", zap.String("address", l.Address), zap.Error(err))
		}
		connected = is
		select {
		case <-ctx.Done():
			return
		case <-poke:
		case <-ticker.C:
		}
	}
}

// connectOnce asks lnd to connect unless it is connected.
func (a *Agent) connectOnce(ctx context.Context, l LSP) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	online, err := a.ports.Peers.ConnectedPeers(ctx)
	if err != nil {
		return false, err
	}
	if slices.Contains(online, l.NodeKey) {
		return true, nil
	}
	if err := a.ports.Peers.ConnectPeer(ctx, l.NodeKey, l.Address); err != nil {
		return false, err
	}
	// lnd connects in the background: its peer list decides.
	if online, err = a.ports.Peers.ConnectedPeers(ctx); err != nil {
		return false, err
	}
	return slices.Contains(online, l.NodeKey), nil
}

var errNotConnected = errors.New("the node is not connected")

// AddLSP adds an LSP, or replaces the one of its name. Unless unchecked it
// must answer, on the right network and with the right node key, first.
func (a *Agent) AddLSP(ctx context.Context, l LSP, replace, unchecked bool) error {
	if err := l.Validate(); err != nil {
		return err
	}
	if _, err := with(a.book.List(), l, replace); err != nil {
		return err
	}
	if !unchecked {
		if l.GRPC == "" {
			// It is asked over the connection of the nodes.
			if is, err := a.connectOnce(ctx, l); err != nil || !is {
				return errkind.Wrap(errkind.Unavailable, errors.Join(errNotConnected, err), fmt.Sprintf("LSP %s: its node at %s cannot be connected (nothing was added; --unchecked adds it all the same)", l.Name, l.Address))
			}
		}
		if _, err := a.menu(ctx, l); err != nil {
			a.gateways.drop(l.Name)
			return fmt.Errorf("%w (nothing was added; --unchecked adds it all the same)", err)
		}
	}
	if old, err := a.book.ByName(l.Name); err == nil && old.NodeKey != l.NodeKey {
		a.unkeep(old.NodeKey)
	}
	if err := a.book.Put(l, replace); err != nil {
		return err
	}
	a.keep(l)
	return nil
}

// RemoveLSP leaves an LSP: nothing is asked of it any more and its zero-conf
// channels are refused. Channels that exist stay; their number is returned.
func (a *Agent) RemoveLSP(ctx context.Context, name string) (channels int, err error) {
	l, err := a.book.Remove(name)
	if err != nil {
		return 0, err
	}
	a.unkeep(l.NodeKey)
	a.gateways.drop(name)
	all, err := a.ports.Channels.ListChannels(ctx)
	if err != nil {
		// It is removed all the same; only the count is unknown.
		a.log.Warn("channels of the LSP that was left are not known", zap.Error(err))
		return 0, nil
	}
	for _, ch := range all {
		if ch.Peer == l.NodeKey {
			channels++
		}
	}
	return channels, nil
}
