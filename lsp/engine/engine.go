package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/batch"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/links"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/refund"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// The machines' engines, by their types.
type (
	openings = fsm.Engine[opening.State, opening.Event, opening.Effect]
	jits     = fsm.Engine[jit.State, jit.Event, jit.Effect]
	wraps    = fsm.Engine[wrap.State, wrap.Event, wrap.Effect]
	orders   = fsm.Engine[order.State, order.Event, order.Effect]
	refunds  = fsm.Engine[refund.State, refund.Event, refund.Effect]
	batches  = fsm.Engine[batch.State, batch.Event, batch.Effect]
)

// Options are what the engine runs on.
type Options struct {
	Node   Node
	Routes Routes
	Held   Held
	// Waker nil wakes nobody: that a wallet is waited for is only logged.
	Waker Waker
	// Notices nil: clients are told nothing while they are away.
	Notices Notices
	Books   Bookkeeping
	Closes  CloseRecords
	DB      *store.DB
	// Fence refuses every transition of a process that lost its lease; may be
	// nil.
	Fence func(ctx context.Context, tx *store.Tx) error
	// Restored: the database is an older copy of itself, so that lnd may have
	// channels of payments that it takes for unopened.
	Restored bool
	// RestoredWhy is how that, or the same of the interceptor, was recognised; empty
	// where nothing is distrusted. It is shown to people.
	RestoredWhy string
	// DecodeBolt11 reads and verifies an invoice of the configured network.
	DecodeBolt11 func(text string) (ln.Bolt11, error)
	Config       Config
	Now          func() time.Time
	Random       io.Reader
	Log          *zap.Logger
}

// Engine is the gateway's side of on-demand channels.
type Engine struct {
	opt      Options
	cfg      Config
	node     Node
	world    *world
	db       *store.DB
	log      *zap.Logger
	keys     *keyring
	fees     *feeSource
	menus    *menus
	policies policies
	// inbound is what the network can bring.
	inbound inbound
	// htlcs are what the interceptor reported and nobody has taken yet.
	htlcs inbox
	// claims are short channel ids that are being claimed.
	claims claims
	payers payers
	// coins are what the wallet can fund.
	coins    fundableView
	demanded demandView
	// loads are what limits are asked of.
	loads *loads

	openings *openings
	jits     *jits
	wraps    *wraps
	orders   *orders
	refunds  *refunds
	batches  *batches

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu sync.Mutex
	// bySCID finds the offer that an intercepted HTLC is for.
	bySCID map[ln.SCID]string
	// waiting are payments that hold HTLCs or wait for their wallet: those that
	// blocks and wallets coming online concern.
	waitingJit  map[string]ln.PubKey
	waitingWrap map[string]ln.PubKey
	// spots are what payments on their way will take of channels, by payment;
	// promises what agreements without a fee count on, until they end.
	spots map[string]spot
	// over are payments to wallets that ended lately, the oldest first.
	over []links.OnItsWay
	// tracked ends the waiting for lnd's word about a wrap's payment, by wrap.
	tracked map[string]context.CancelFunc
	// gates are the wallets to which something is being handed on.
	gates gates
	// lines are who waits for a turn, by wallet.
	lines    map[ln.PubKey]*line
	promises map[string]spot
	// byOutpoint finds the open that a channel belongs to.
	byOutpoint map[ln.Outpoint]string
	// unfunded are channels of ours whose funding transaction was not published,
	// never will be, or is contested: see funded.go.
	unfunded map[ln.Outpoint]bool
	// dying counts the channels of a client that lnd is being made to forget.
	dying map[ln.PubKey]int
	// watched are openings whose transaction is awaited on the chain.
	watched      map[string]opening.WatchChain
	negotiations map[ln.PendingChanID]*negotiation
	// signatures are asked for and not stored yet.
	signatures map[ln.Outpoint]*signature
	invoices   map[ln.Hash]context.CancelFunc
	// liveOpenings are the unfinished opens; true for those whose channel cannot
	// carry payments yet.
	liveOpenings map[string]bool
	// coming are coins that opens are about to leave or give back.
	coming comings
	// strays are leases of ours whose open is not on record.
	strays map[[32]byte]bool
	// liveOrders and liveRefunds are those that are not over; payable those of the
	// orders whose address is watched, waitingOrder those that wait for their
	// client's node.
	liveOrders, liveRefunds map[string]bool
	payable                 map[string]watchedOrder
	waitingOrder            map[string]ln.PubKey
	// queued are the orders that wait for others to share their transaction with;
	// batchDue wakes who looks whether their moment has come.
	queued map[string]queuedOrder
	// returning are the orders of a batch that was undone, until they are back.
	returning   map[string]time.Time
	liveBatches map[string]bool
	batchDue    chan struct{}

	business business
	// limitsSet are limits that were set at run time, by their names.
	limitsSet map[string]uint64
	// trusts is what the operator set for single clients, by node key.
	trusts map[string]lsp.TrustMode
	ids    *ulid.MonotonicEntropy
	// pruned counts stories that were deleted since start.
	pruned uint64

	// lookMu lets one look at the payments of orders run at a time.
	lookMu sync.Mutex
	// looks counts those who wait to look once lnd's wallet is there; the last one does.
	looks atomic.Uint64
	// blockMu lets orders and refunds hear of one block after the other.
	blockMu sync.Mutex
	// poolMu lets one look after the pool of coins at a time.
	poolMu sync.Mutex
	// unusedMu lets one look for unused channels at a time.
	unusedMu sync.Mutex
	// bookMu lets one reconciliation run at a time.
	bookMu sync.Mutex
	// noted are open channels that the books know.
	noted    map[ln.Outpoint]bool
	progress progress
	// reconciled: see Reconciled.
	reconciled chan struct{}
}

// New prepares the engine; Run starts it.
func New(opt Options) (*Engine, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Random == nil {
		opt.Random = rand.Reader
	}
	if opt.Log == nil {
		opt.Log = zap.NewNop()
	}
	if err := opt.Config.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Engine{
		opt: opt, cfg: opt.Config, node: opt.Node, db: opt.DB, log: opt.Log,
		world:    newWorld(opt.Node.Events, opt.Node.Channels, opt.Log),
		fees:     newFeeSource(opt.Config.Fees, opt.Node.Chain, opt.Now, opt.Log),
		keys:     &keyring{db: opt.DB, fence: opt.Fence, every: opt.Config.PromiseKeyFor, now: opt.Now, random: opt.Random, log: opt.Log},
		menus:    &menus{configured: configuredMenus(opt.Config)},
		policies: newPolicies(),
		loads:    newLoads(),
		ctx:      ctx,
		cancel:   cancel,
		bySCID:   make(map[ln.SCID]string), waitingJit: make(map[string]ln.PubKey),
		waitingWrap: make(map[string]ln.PubKey), spots: make(map[string]spot), lines: make(map[ln.PubKey]*line), tracked: make(map[string]context.CancelFunc), promises: make(map[string]spot),
		byOutpoint: make(map[ln.Outpoint]string), unfunded: make(map[ln.Outpoint]bool), dying: make(map[ln.PubKey]int),
		watched: make(map[string]opening.WatchChain), strays: make(map[[32]byte]bool), negotiations: make(map[ln.PendingChanID]*negotiation), signatures: make(map[ln.Outpoint]*signature),
		invoices: make(map[ln.Hash]context.CancelFunc), liveOpenings: make(map[string]bool), coming: newComings(),
		liveOrders: make(map[string]bool), liveRefunds: make(map[string]bool),
		payable: make(map[string]watchedOrder), waitingOrder: make(map[string]ln.PubKey),
		queued: make(map[string]queuedOrder), returning: make(map[string]time.Time), liveBatches: make(map[string]bool), batchDue: make(chan struct{}, 1),
		ids: ulid.Monotonic(opt.Random, 0), noted: make(map[ln.Outpoint]bool),
		htlcs: inbox{woken: make(chan struct{}, 1)}, reconciled: make(chan struct{}),
	}
	if e.node.Coins != nil {
		e.node.Coins = watchedCoins{Coins: e.node.Coins, changed: e.coins.changed}
	}
	e.world.onBlock, e.world.onPeer, e.world.onChannel, e.world.onClosed = e.onBlock, e.onPeer, e.onChannel, e.onClosed
	var err error
	e.openings, err = fsm.New(opening.Machine(), fsm.Options[opening.State, opening.Event, opening.Effect]{
		Context: e.ctx, DB: opt.DB, Execute: e.executeOpening, Reconcile: e.reconcileOpening, InTx: e.recordOpening, Follow: followed[opening.State, opening.Event](e.openingMoved), Fence: opt.Fence,
		Concurrent: concurrentOpening, RetryMax: 5 * time.Second, Log: opt.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("lsp: %w", err)
	}
	e.jits, err = fsm.New(jit.Machine(), fsm.Options[jit.State, jit.Event, jit.Effect]{
		Context: e.ctx, DB: opt.DB, Execute: e.executeJit, InTx: e.recordJit, Follow: followed[jit.State, jit.Event](e.jitMoved), Fence: opt.Fence,
		RetryMax: 5 * time.Second, Log: opt.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("lsp: %w", err)
	}
	e.wraps, err = fsm.New(wrap.Machine(), fsm.Options[wrap.State, wrap.Event, wrap.Effect]{
		Context: e.ctx, DB: opt.DB, Execute: e.executeWrap, Reconcile: e.reconcileWrap, InTx: e.recordWrap, Follow: followed[wrap.State, wrap.Event](e.wrapMoved), Fence: opt.Fence,
		Concurrent: concurrentWrap, RetryMax: 5 * time.Second, Log: opt.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("lsp: %w", err)
	}
	e.orders, err = fsm.New(order.Machine(), fsm.Options[order.State, order.Event, order.Effect]{
		Context: e.ctx, DB: opt.DB, Execute: e.executeOrder, Reconcile: e.reconcileOrder, InTx: e.recordOrder, Follow: followed[order.State, order.Event](e.orderMoved), Fence: opt.Fence,
		Concurrent: concurrentOrder, RetryMax: 5 * time.Second, Log: opt.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("lsp: %w", err)
	}
	e.refunds, err = fsm.New(refund.Machine(), fsm.Options[refund.State, refund.Event, refund.Effect]{
		Context: e.ctx, DB: opt.DB, Execute: e.executeRefund, InTx: e.recordRefund, Follow: followed[refund.State, refund.Event](e.refundMoved), Fence: opt.Fence, RetryMax: 5 * time.Second, Log: opt.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("lsp: %w", err)
	}
	e.batches, err = fsm.New(batch.Machine(), fsm.Options[batch.State, batch.Event, batch.Effect]{
		Context: e.ctx, DB: opt.DB, Execute: e.executeBatch, InTx: e.recordBatch, Follow: followed[batch.State, batch.Event](e.batchMoved), Fence: opt.Fence, RetryMax: 5 * time.Second, Log: opt.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("lsp: %w", err)
	}
	return e, nil
}

// followed is fsm.Options.Follow of what only needs the state.
func followed[S fsm.State, V fsm.Event](moved func(id string, s S)) func(fsm.Transition[S, V]) {
	return func(t fsm.Transition[S, V]) { moved(t.ID, t.To) }
}

// Run reconciles what an earlier process left and serves until ctx ends. ready
// is called once new business can be accepted.
func (e *Engine) Run(ctx context.Context, ready func()) error {
	defer e.stop()
	stop := context.AfterFunc(ctx, e.cancel)
	defer stop()
	if err := e.load(ctx); err != nil {
		return fmt.Errorf("lsp: load what is unfinished: %w", err)
	}
	if err := e.beginHeld(ctx); err != nil {
		return fmt.Errorf("lsp: book what is held: %w", err)
	}
	e.world.run(e.ctx, e.spawn)
	e.fees.run(e.ctx, e.spawn)
	e.keys.run(e.ctx, e.spawn)
	// Without a first estimate every request would be refused for stale fees;
	// an lnd that has none yet is asked again in the background.
	if err := e.fees.refresh(ctx); err != nil {
		e.log.Warn("there is no fee estimate yet: no channels are opened until there is", zap.Error(err))
	}
	if err := e.world.ready(ctx); err != nil {
		return fmt.Errorf("lsp: waiting for the node's state: %w", err)
	}
	if err := e.forgetPolicies(ctx); err != nil {
		return fmt.Errorf("lsp: forget the policies of closed channels: %w", err)
	}
	if err := e.beginBooks(ctx); err != nil {
		return fmt.Errorf("lsp: open the books: %w", err)
	}
	for _, recover := range []func(context.Context) (fsm.Report, error){
		e.openings.Recover, e.jits.Recover, e.wraps.Recover, e.orders.Recover, e.refunds.Recover, e.batches.Recover,
	} {
		report, err := recover(ctx)
		if err != nil {
			return fmt.Errorf("lsp: recover: %w", err)
		}
		if report.Unfinished > 0 {
			e.log.Info("took up what was unfinished",
				zap.Int("unfinished", report.Unfinished), zap.Int("reconciled", report.Reconciled))
		}
	}
	if e.opt.Restored {
		if err := e.doubtOffers(ctx); err != nil {
			return fmt.Errorf("lsp: recover: %w", err)
		}
		e.spawn(func() { e.settleForgotten(e.ctx) })
	} else {
		close(e.reconciled)
	}
	e.spawn(func() {
		// The tip came before there was anything to look for.
		e.lookAtChain(e.ctx)
		e.lookAtOrders(e.ctx, true)
		e.ordersOnBlock(e.ctx)
		e.ordersOnChain(e.ctx)
	})
	e.spawn(func() { e.keepBatches(e.ctx) })
	wake(e.batchDue)
	e.spawn(func() { e.takeHtlcs(e.ctx) })
	e.spawn(func() { e.keepAttached(e.ctx) })
	e.spawn(func() { e.keepPruned(e.ctx) })
	e.spawn(func() { e.keepLoadsChecked(e.ctx) })
	ready()
	<-ctx.Done()
	return nil
}

func (e *Engine) stop() {
	e.cancel()
	e.jits.Close()
	e.wraps.Close()
	e.orders.Close()
	e.refunds.Close()
	e.batches.Close()
	e.openings.Close()
	e.wg.Wait()
}

func (e *Engine) spawn(f func()) { e.wg.Go(f) }

// moment is now, as events carry it.
func (e *Engine) moment() lsp.Moment {
	return lsp.Moment{At: e.opt.Now().UTC(), Height: e.world.tip()}
}

// newID makes an id that sorts by time.
func (e *Engine) newID() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, err := ulid.New(ulid.Timestamp(e.opt.Now()), e.ids)
	if err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return id.String(), nil
}

// tell sends an event to a machine from outside its effects, going on until it
// is durable, was refused by the machine, or the engine stops. What a machine
// refuses came too late and is only logged.
func tell[S fsm.State, V fsm.Event, F fsm.Effect](e *Engine, m *fsm.Engine[S, V, F], id string, event V) {
	_ = tellJudged(e, m, id, func(context.Context, *store.Tx) (V, func(), error) { return event, nil, nil })
}

// judge makes an event whose content depends on what the transaction that stores
// it sees. What it returns besides is called once that is durable, when the
// machine's own records have followed.
type judge[V fsm.Event] func(context.Context, *store.Tx) (event V, settle func(), err error)

// tellJudged is tell for judged events that follow one another: all are taken in
// one transaction. The error is that of a machine that does not admit one, or does
// not know the instance.
func tellJudged[S fsm.State, V fsm.Event, F fsm.Effect](e *Engine, m *fsm.Engine[S, V, F], id string, judges ...judge[V]) error {
	wait := 20 * time.Millisecond
	for {
		var events []V
		err := e.db.WriteTogether(e.ctx, func(ctx context.Context, tx *store.Tx) error {
			events = events[:0]
			var settled []func()
			for _, judged := range judges {
				event, settle, err := judged(ctx, tx)
				if err != nil {
					return err
				}
				events = append(events, event)
				if settle != nil {
					settled = append(settled, settle)
				}
			}
			if _, err := m.SendAllTx(ctx, tx, id, events...); err != nil {
				return err
			}
			for _, settle := range settled {
				tx.OnCommit(settle)
			}
			return nil
		})
		name := ""
		if len(events) > 0 {
			name = events[0].EventName()
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, fsm.ErrIllegal), errors.Is(err, store.ErrNotFound):
			e.log.Debug("an event came too late", zap.String("id", id), zap.String("event", name), zap.Error(err))
			return err
		case e.ctx.Err() != nil:
			return nil //nolint:nilerr // the engine stops: what the machine would say is not known
		}
		e.log.Warn("an event could not be stored; trying again",
			zap.String("id", id), zap.String("event", name), zap.Error(err))
		select {
		case <-time.After(wait):
		case <-e.ctx.Done():
			return nil
		}
		wait = min(2*wait, time.Second)
	}
}

// keepAttached stays attached to the interceptor.
func (e *Engine) keepAttached(ctx context.Context) {
	wait := 20 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		err := e.opt.Held.Attach(ctx, e.htlcs.put)
		if ctx.Err() != nil {
			return
		}
		e.log.Warn("the interceptor let go; attaching again", zap.Error(err))
		if time.Since(began) > 10*time.Second {
			wait = 20 * time.Millisecond
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, time.Second)
	}
}
