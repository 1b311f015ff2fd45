package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/order"
)

// LSPS asks LSPs over the node's own peer connection (bLIP-50 and those on it).
// What an LSP says is not to be trusted: an agent checks it.
type LSPS interface {
	Protocols(ctx context.Context, lsp ln.PubKey) ([]int, error)
	OrderOptions(ctx context.Context, lsp ln.PubKey) (lsps1.Options, error)
	// CreateOrder may have made an order although it gives an error: one that
	// nobody pays lapses.
	CreateOrder(ctx context.Context, lsp ln.PubKey, r lsps1.CreateOrderRequest) (lsps1.Order, error)
	Order(ctx context.Context, lsp ln.PubKey, id string) (lsps1.Order, error)
	OnDemand
}

// OrderRequest is a channel to buy outright (LSPS1).
type OrderRequest struct {
	// LSP may be empty if there is one only.
	LSP string
	// LspBalanceSat is what can be received through the channel, ClientBalanceSat
	// what the wallet has in it from the start, and pays for beside the fee.
	LspBalanceSat    ln.Sat
	ClientBalanceSat ln.Sat
	// Confirmations before the channel is used; negative: none if the LSP is
	// trusted with that and sells such, else as few as it sells and
	// DefaultConfirmations at least.
	Confirmations int
	// ConfirmWithin is within how many blocks the funding shall confirm; 0 means
	// sixBlocks, or the LSP's fewest. With time it may share a transaction with others.
	ConfirmWithin uint32
	// LeaseBlocks is how long the channel stays; 0 means three months, or what the
	// LSP has at most.
	LeaseBlocks uint32
	Announce    bool
	Token       string
	// RefundAddress allows payment on chain.
	RefundAddress string
	// MaxFeeSat refuses a dearer one; 0 means no limit.
	MaxFeeSat ln.Sat
}

// Order is a channel that was ordered, as its LSP last told, checked.
type Order struct {
	LSP     string    `json:"lsp"`
	NodeKey ln.PubKey `json:"node_key"`
	ID      string    `json:"order_id"`
	order.Wish
	FeeSat   ln.Sat `json:"fee_sat"`
	TotalSat ln.Sat `json:"total_sat"`
	Bolt11   string `json:"bolt11,omitempty"`
	// On chain it may cost something else.
	Address       string `json:"address,omitempty"`
	ChainFeeSat   ln.Sat `json:"chain_fee_sat,omitempty"`
	ChainTotalSat ln.Sat `json:"chain_total_sat,omitempty"`
	RefundAddress string `json:"refund_address,omitempty"`
	// Promise is what the LSP's node signed for the case that no channel comes of
	// a payment on chain; empty if it signed nothing.
	Promise          string             `json:"refund_promise,omitempty"`
	PromiseSignature string             `json:"refund_promise_signature,omitempty"`
	State            order.OrderState   `json:"state"`
	PaymentState     order.PaymentState `json:"payment_state"`
	Outpoint         string             `json:"funding_outpoint,omitempty"`
	LeaseEndsAt      time.Time          `json:"lease_ends_at,omitzero"`
	CreatedAt        time.Time          `json:"created_at"`
	ExpiresAt        time.Time          `json:"expires_at"`
}

// Over says that an order changes no more.
func (o Order) Over() bool { return o.State == order.WireCompleted || o.State == order.WireFailed }

// ThreeMonths is how long a channel stays if nobody says, in blocks.
const ThreeMonths = 3 * order.MonthBlocks

const (
	// sixBlocks is in how many blocks the funding shall confirm, where the LSP
	// does not take longer.
	sixBlocks = 6
	// orderGrace is how long after its last moment the channel of a paid order may
	// come: a payment on chain has to confirm first.
	orderGrace = 7 * 24 * time.Hour
	// keepOrders is for how long they are remembered, maxOrders how many.
	keepOrders = 365 * 24 * time.Hour
	maxOrders  = 1_000
	pollEvery  = 3 * time.Second
)

var errNoLSPS = errkind.New(errkind.Unavailable, "this daemon does not speak LSPS over the peer connection")

// Order orders a channel and gives what is to be paid, once that was checked and
// stored.
func (a *Agent) Order(ctx context.Context, r OrderRequest) (Order, error) {
	l, err := a.orderLSP(r.LSP)
	if err != nil {
		return Order{}, err
	}
	o, err := a.order(ctx, l, r)
	if err != nil {
		return Order{}, prefixed(l.Name, err)
	}
	if err := a.orders.put(o, a.now()); err != nil {
		return Order{}, err
	}
	a.log.Info("ordered a channel", zap.String("lsp", l.Name), zap.String("order_id", o.ID),
		zap.Uint64("total_sat", uint64(o.TotalSat)), zap.Uint64("fee_sat", uint64(o.FeeSat)))
	return o, nil
}

func (a *Agent) orderLSP(name string) (LSP, error) {
	if a.ports.LSPS == nil {
		return LSP{}, errNoLSPS
	}
	if name != "" {
		return a.book.ByName(name)
	}
	switch all := a.book.List(); len(all) {
	case 0:
		return LSP{}, errNoLSP
	case 1:
		return all[0], nil
	}
	return LSP{}, errkind.New(errkind.Invalid, "there are several LSPs: say which with --lsp (`sluice-wallet offers AMOUNT --orders` compares them)")
}

// order asks one LSP, and checks what it answers.
func (a *Agent) order(ctx context.Context, l LSP, r OrderRequest) (Order, error) {
	self, err := a.self(ctx)
	if err != nil {
		return Order{}, err
	}
	options, err := a.ports.LSPS.OrderOptions(ctx, l.NodeKey)
	if err != nil {
		return Order{}, err
	}
	ask, err := r.ask(l, options, a.cfg.Policy)
	if err != nil {
		return Order{}, err
	}
	got, err := a.ports.LSPS.CreateOrder(ctx, l.NodeKey, ask)
	if err != nil {
		return Order{}, err
	}
	o, err := CheckOrder(l, ask, got, func(text string) (ln.Bolt11, error) { return a.ports.Decode(self.Network, text) }, a.now())
	if err != nil {
		return Order{}, err
	}
	if r.MaxFeeSat > 0 && o.FeeSat > r.MaxFeeSat {
		return Order{}, errkind.Newf(errkind.Invalid, "the fee would be %s, above your limit of %s (the order lapses unpaid): raise --max-fee, or order less", o.FeeSat, r.MaxFeeSat)
	}
	return o, nil
}

// ask fills in what was left open, and holds the wish against what the LSP sells
// and the wallet takes.
func (r OrderRequest) ask(l LSP, options lsps1.Options, policy Policy) (lsps1.CreateOrderRequest, error) {
	w := order.Wish{
		LspBalanceSat: r.LspBalanceSat, ClientBalanceSat: r.ClientBalanceSat, Token: r.Token, Announce: r.Announce,
		ConfirmWithin: max(options.MinConfirmWithin, sixBlocks), ExpiryBlocks: r.LeaseBlocks,
	}
	if r.ConfirmWithin > 0 {
		w.ConfirmWithin = uint16(min(r.ConfirmWithin, 1<<16-1)) //nolint:gosec // bounded just here
	}
	if w.ExpiryBlocks == 0 {
		w.ExpiryBlocks = min(ThreeMonths, options.MaxExpiryBlocks)
	}
	switch {
	case r.Confirmations > maxConfirmations:
		return lsps1.CreateOrderRequest{}, errkind.Newf(errkind.Invalid, "%d confirmations: ask for %d at most", r.Confirmations, maxConfirmations)
	case r.Confirmations == 0 && !l.ZeroConf:
		return lsps1.CreateOrderRequest{}, errkind.New(errkind.Invalid, "its channels may not be used unconfirmed, as you said when you added it: order with confirmations (--confs 3)")
	case r.Confirmations >= 0:
		w.RequiredConfs = uint16(r.Confirmations) //nolint:gosec // bounded just here
	case !l.ZeroConf || options.MinRequiredConfs > 0:
		w.RequiredConfs = max(options.MinRequiredConfs, DefaultConfirmations)
	}
	capacity, err := w.CapacitySat()
	if err != nil || capacity > policy.MaxChannelSat {
		return lsps1.CreateOrderRequest{}, errkind.Newf(errkind.Invalid, "this wallet takes channels up to %s (channels.max_channel_sat): order less", policy.MaxChannelSat)
	}
	if err := options.Check(w); err != nil {
		return lsps1.CreateOrderRequest{}, errkind.Wrap(errkind.Invalid, err, "it sells no such channel: "+err.Error())
	}
	return lsps1.CreateOrderRequest{Wish: w, RefundAddress: r.RefundAddress}, nil
}

// RefreshOrder asks the LSP how an order stands.
func (a *Agent) RefreshOrder(ctx context.Context, id string) (Order, error) {
	if a.ports.LSPS == nil {
		return Order{}, errNoLSPS
	}
	o, err := a.orders.byID(id)
	if err != nil || o.Over() {
		return o, err
	}
	got, err := a.ports.LSPS.Order(ctx, o.NodeKey, o.ID)
	if err != nil {
		return o, prefixed(o.LSP, err)
	}
	o.follow(got)
	return o, a.orders.put(o, a.now())
}

// follow takes how the order stands, and nothing that was agreed.
func (o *Order) follow(got lsps1.Order) {
	o.State, o.PaymentState = got.State, paymentState(got)
	if ch := got.Channel; ch != nil {
		o.Outpoint, o.LeaseEndsAt = printable(ch.Outpoint), time.Time(ch.ExpiresAt)
	}
}

// paymentState is how the payment stands, whichever way it went. CANCELLED is an
// older word of bLIP-51's.
func paymentState(got lsps1.Order) order.PaymentState {
	const cancelled order.PaymentState = "CANCELLED"
	state := order.ExpectPayment
	if p := got.Payment.Bolt11; p != nil {
		state = p.State
	}
	if p := got.Payment.OnChain; p != nil && p.State != order.ExpectPayment && state != order.PaymentPaid && state != order.Hold {
		state = p.State
	}
	switch state {
	case cancelled:
		return order.Refunded
	case order.ExpectPayment, order.Hold, order.PaymentPaid, order.Refunded:
		return state
	}
	return order.ExpectPayment
}

// WatchOrder reports an order now and at every change until it is over. It goes on
// while the LSP is away.
func (a *Agent) WatchOrder(ctx context.Context, id string, report func(Order)) (Order, error) {
	last, err := a.orders.byID(id)
	if err != nil {
		return last, err
	}
	for first := true; ; first = false {
		o, err := a.RefreshOrder(ctx, id)
		switch {
		case errors.Is(err, errkind.NotFound):
			return last, err
		case err != nil:
			a.log.Debug("the LSP does not say how an order stands; asking again", zap.String("order_id", id), zap.Error(err))
			o = last
		}
		if first || o != last {
			report(o)
		}
		if last = o; o.Over() {
			return o, nil
		}
		if !first && o.PaymentState == order.ExpectPayment && a.now().After(o.ExpiresAt.Add(orderGrace)) {
			return o, nil
		}
		if err := pace.Pause(ctx, pollEvery); err != nil {
			return o, err
		}
	}
}

// Orders are those that were ordered here, newest first.
func (a *Agent) Orders() []Order { return a.orders.all() }

// ordered is what was ordered, in a file that is always whole.
type ordered struct {
	path string

	mu   sync.Mutex
	list []Order
}

func openOrders(path string) (*ordered, error) {
	list, err := readList[Order]("orders", path)
	if err != nil {
		return nil, err
	}
	return &ordered{path: path, list: list}, nil
}

// put stores an order, or how it stands now.
func (s *ordered) put(o Order, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(s.list), func(old Order) bool { return now.After(old.CreatedAt.Add(keepOrders)) })
	if i := slices.IndexFunc(next, func(old Order) bool { return old.ID == o.ID && old.NodeKey == o.NodeKey }); i >= 0 {
		if next[i] == o {
			return nil
		}
		next[i] = o
	} else if len(next) >= maxOrders {
		return errkind.Newf(errkind.Exhausted, "%d orders are remembered already: move %s away", len(next), s.path)
	} else {
		next = append(next, o)
	}
	if err := writeList("orders", s.path, next); err != nil {
		return err
	}
	s.list = next
	return nil
}

// byID finds an order by its id, or by the beginning of it.
func (s *ordered) byID(id string) (Order, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Order
	for _, o := range s.list {
		if o.ID == id {
			return o, nil
		}
		if len(id) >= 4 && len(o.ID) > len(id) && o.ID[:len(id)] == id {
			found = append(found, o)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Order{}, errkind.Newf(errkind.NotFound, "no order %q was made here: `sluice-wallet order list` shows them", clip(id))
	}
	return Order{}, errkind.Newf(errkind.Invalid, "%d orders begin with %q: write more of it", len(found), clip(id))
}

func (s *ordered) all() []Order {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.list)
	slices.Reverse(out)
	return out
}

// expected are the channels that a node still owes.
func (s *ordered) expected(node ln.PubKey, now time.Time) []Expected {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Expected
	for _, o := range s.list {
		capacity, err := o.CapacitySat()
		// An LSP may call an order completed only after the channel is there.
		if err != nil || o.NodeKey != node || o.Over() || now.After(o.ExpiresAt.Add(orderGrace)) {
			continue
		}
		out = append(out, Expected{CapacitySat: capacity, PushSat: o.ClientBalanceSat, Announce: o.Announce, Confirmations: uint32(o.RequiredConfs)})
	}
	return out
}
