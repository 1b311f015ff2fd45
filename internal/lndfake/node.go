package lndfake

import (
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
)

// NodeConfig is the part of lnd.conf that matters here. The zero value is a stock node with the protocol flags
// zero-conf and option-scid-alias set.
type NodeConfig struct {
	// RequireInterceptor is --requireinterceptor.
	RequireInterceptor bool
	// BaseFeeMsat and FeeRatePPM are bitcoin.basefee and bitcoin.feerate; nil means stock: 1000 and 1.
	BaseFeeMsat, FeeRatePPM *int64
	// TimeLockDelta is bitcoin.timelockdelta, 80 if zero.
	TimeLockDelta uint32
	// HoldExpiryDelta is invoices.holdexpirydelta, 18 if zero.
	HoldExpiryDelta uint32
	// NoZeroConf and NoScidAlias clear the protocol flags.
	NoZeroConf, NoScidAlias bool
	// RejectPush is rejectpush.
	RejectPush bool
	// MaxPendingChannels is maxpendingchannels, 1 per peer if zero.
	MaxPendingChannels int
	// MPPTimeout is how long an incomplete set of parts is kept, 120 s if zero.
	MPPTimeout time.Duration
	// MailboxTimeout is how long an HTLC waits for an outgoing link that went down, 60 s if zero.
	MailboxTimeout time.Duration
	// Version is what GetInfo and the versioner report, 0.21.2-beta if empty.
	Version string
	// TakesExtraFeeMsat makes the node what lnd never is, an LSPS2 client: it takes parts of which so much in all was
	// withheld, as the record extra_fee of their update_add_htlc says (bLIP-25).
	TakesExtraFeeMsat int64
	// TCP serves on a loopback port that stays the same over restarts, instead of in memory.
	TCP bool
}

func (c NodeConfig) withDefaults() NodeConfig {
	base, rate := int64(1000), int64(1)
	if c.BaseFeeMsat == nil {
		c.BaseFeeMsat = &base
	}
	if c.FeeRatePPM == nil {
		c.FeeRatePPM = &rate
	}
	if c.TimeLockDelta == 0 {
		c.TimeLockDelta = 80
	}
	if c.HoldExpiryDelta == 0 {
		c.HoldExpiryDelta = 18
	}
	if c.MaxPendingChannels == 0 {
		c.MaxPendingChannels = 1
	}
	if c.MPPTimeout == 0 {
		c.MPPTimeout = 120 * time.Second
	}
	if c.MailboxTimeout == 0 {
		c.MailboxTimeout = time.Minute
	}
	if c.Version == "" {
		c.Version = "0.21.2-beta"
	}
	return c
}

// Node is one lnd: what it keeps on disk, and, while it runs, what it keeps in memory.
type Node struct {
	w    *World
	name string
	cfg  NodeConfig
	key  *btcec.PrivateKey
	pub  string

	endpoint *endpoint

	// On disk.
	wallet     *wallet
	invoices   invoiceRegistry
	payments   paymentStore
	circuits   map[circuitKey]*circuit
	aliases    map[uint64]*side // every alias the node gave to a channel of its own
	nextAlias  uint64
	seenOnions map[[32]byte]circuitKey
	forwards   []*lnrpc.ForwardingEvent
	preimages  map[[32]byte][32]byte // the witness cache
	resolved   map[circuitKey]bool   // final on-chain or off-chain resolutions, for LookupHtlcResolution
	mission    missionControl
	addedAlias map[*side][]uint64

	owing func(to *Node) bool // see KillOwing

	// In memory.
	started time.Time
	up      bool
	frozen  bool
	behind  bool // HoldWallet
	// keepsSignatures: KeepSignatures.
	keepsSignatures bool
	seen            []*lnrpc.Transaction // what the wallet listed then
	inst            *instance
	mem             *memory
}

// memory is what a kill loses.
type memory struct {
	intercept    interceptor
	acceptors    []*acceptor
	peerEvents   topic[*lnrpc.PeerEvent]
	chanEvents   topic[*lnrpc.ChannelEventUpdate]
	custom       topic[*lnrpc.CustomMessage]
	htlcEvents   topic[*routerrpc.HtlcEvent]
	invoices     topic[*lnrpc.Invoice]
	oneInvoice   map[[32]byte]*topic[*lnrpc.Invoice]
	payments     topic[*lnrpc.Payment]
	transactions topic[*lnrpc.Transaction]
	blocks       topic[blockEvent]
	chainTopic   topic[chainEvent]
	shims        map[[32]byte]*shim
	hodl         map[circuitKey]addRef
	delivered    map[circuitKey]bool
	mppTimers    map[[32]byte]int
	// switched are aliases that were taken from a zero-conf channel: the switch
	// forwards them until the node restarts.
	switched map[uint64]*side
	// children are those that the sweeper was asked for: made with the next block.
	children []childRequest
}

func newMemory() *memory {
	return &memory{
		intercept: interceptor{held: map[circuitKey]*held{}}, oneInvoice: map[[32]byte]*topic[*lnrpc.Invoice]{},
		shims: map[[32]byte]*shim{}, hodl: map[circuitKey]addRef{}, delivered: map[circuitKey]bool{},
		mppTimers: map[[32]byte]int{}, switched: map[uint64]*side{},
	}
}

// AddNode creates a node and starts it, connected to nobody.
func (w *World) AddNode(name string, cfg NodeConfig) (*Node, error) {
	seed := w.bytes32("node " + name)
	key, pub := btcec.PrivKeyFromBytes(seed[:])
	n := &Node{
		w: w, name: name, cfg: cfg.withDefaults(), key: key,
		pub:      hex.EncodeToString(pub.SerializeCompressed()),
		circuits: map[circuitKey]*circuit{}, aliases: map[uint64]*side{}, nextAlias: firstAlias,
		seenOnions: map[[32]byte]circuitKey{}, preimages: map[[32]byte][32]byte{},
		resolved: map[circuitKey]bool{}, addedAlias: map[*side][]uint64{},
	}
	n.wallet = newWallet(n)
	n.invoices = newInvoiceRegistry(n)
	n.payments = newPaymentStore(n)
	ep, err := newEndpoint(cfg.TCP)
	if err != nil {
		return nil, err
	}
	n.endpoint = ep
	w.mu.Lock()
	if w.closed || w.nodes[name] != nil {
		w.mu.Unlock()
		return nil, fmt.Errorf("node %q cannot be added: the world is closed or has one of that name", name)
	}
	w.nodes[name], w.byPub[n.pub] = n, n
	w.order = append(w.order, n)
	w.chain.owned[n] = map[opKey]*coin{}
	w.mu.Unlock()
	return n, n.Start()
}

// Name is the name the node was added under.
func (n *Node) Name() string { return n.name }

// PubKey is the node's public key in hex.
func (n *Node) PubKey() string { return n.pub }

// Up says whether the node runs.
func (n *Node) Up() bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.up
}

// Start runs a node that was killed: what it had on disk is loaded, links come up, forwarding packages replay.
func (n *Node) Start() error {
	n.w.mu.Lock()
	if n.up {
		n.w.mu.Unlock()
		return nil
	}
	if n.w.closed {
		n.w.mu.Unlock()
		return errWorldClosed
	}
	n.up, n.mem, n.started = true, newMemory(), time.Now()
	n.inst = newInstance(n)
	inst := n.inst
	n.wallet.rebroadcast()
	n.loadCircuits()
	n.payments.load()
	n.invoices.load()
	for _, c := range n.w.conns {
		if c.has(n) {
			c.reconnect()
		}
	}
	n.w.drain()
	n.w.mu.Unlock()
	return inst.serve()
}

// KillTaking is Kill after an invoice accepted HTLCs of this hash, and before the link recorded that their packages
// were processed: once the peer is back they are failed as if their onions had been seen before, and the invoice goes
// on calling them accepted (seen in lnd 0.21.2).
func (n *Node) KillTaking(hash [32]byte) {
	n.w.mu.Lock()
	for _, c := range n.w.channels {
		for _, s := range c.sides {
			if s.node != n {
				continue
			}
			for _, p := range s.pkgs {
				p.taking = p.taking || slices.ContainsFunc(p.adds, func(h *htlc) bool { return h.hash == hash })
			}
		}
	}
	n.w.mu.Unlock()
	n.Kill()
}

// KillOwing kills the node when it next has revoked a commitment for the peer, and has not yet signed the one that
// the peer added or removed something in; the channel is closed when it is dead. With Config.ForgetsSignatures it
// does not know of that debt any more when it starts again.
func (n *Node) KillOwing(peer *Node) (dead <-chan struct{}) {
	done := make(chan struct{})
	n.w.do(func() {
		n.owing = func(to *Node) bool {
			if to != peer {
				return false
			}
			n.owing, n.frozen = nil, true
			go func() {
				n.Kill()
				close(done)
			}()
			return true
		}
	})
	return done
}

// Kill is kill -9: every stream and call ends, memory is lost, disk stays.
func (n *Node) Kill() {
	n.w.mu.Lock()
	if !n.up {
		n.w.mu.Unlock()
		return
	}
	inst := n.inst
	n.up, n.frozen, n.inst = false, false, nil
	for _, c := range n.w.conns {
		if c.has(n) {
			c.drop()
		}
	}
	for _, c := range n.w.channels {
		for _, s := range c.sides {
			if s.node == n {
				s.forget()
			}
		}
		if n.w.cfg.ForgetsSignatures {
			c.forgetSignatures(n)
		}
	}
	n.mem = newMemory()
	n.w.drain()
	n.w.mu.Unlock()
	inst.stop()
}

// Restart kills and starts the node.
func (n *Node) Restart() error {
	n.Kill()
	return n.Start()
}

// ForgetInvoices is what a restore from the seed does to those that nobody has begun
// to pay: they, and their preimages, are in no seed. The node's channels stay, which a
// real restore does not do for it.
func (n *Node) ForgetInvoices() {
	n.w.do(func() { n.invoices.forgetOpen() })
}

// Freeze is SIGSTOP: connections stay, nothing is read or answered between peers.
func (n *Node) Freeze() {
	n.w.do(func() { n.frozen = true })
}

// Thaw lets a frozen node go on.
func (n *Node) Thaw() {
	n.w.do(func() {
		n.frozen = false
		for _, c := range n.w.conns {
			if c.has(n) && !c.up {
				c.reconnect()
			}
		}
		for _, c := range n.w.channels {
			if c.sides[0].node == n || c.sides[1].node == n {
				c.resume()
			}
		}
	})
}
