package engine

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

const heldOver = ln.SCID(7 << 40)

// wrapped is an lnd that holds a wrapped invoice's payment.
type wrapped struct {
	Events
	Channels
	Invoices
	Payments

	height   uint32
	delta    uint32
	deltaErr error
	state    ln.InvoiceState
	expiries []uint32
	channels []ln.Channel
	gone     bool
	sent     int
}

func (w *wrapped) Info(context.Context) (ln.NodeInfo, error) {
	return ln.NodeInfo{BlockHeight: w.height}, nil
}
func (w *wrapped) HoldExpiryDelta(context.Context) (uint32, error) { return w.delta, w.deltaErr }

// ListChannels has HTLCs in each channel, unless they are gone.
func (w *wrapped) ListChannels(context.Context) ([]ln.Channel, error) {
	out := slices.Clone(w.channels)
	for i := range out {
		for index := range uint64(4) {
			if !w.gone {
				out[i].Htlcs = append(out[i].Htlcs, ln.ChannelHtlc{Incoming: true, Index: index})
			}
		}
	}
	return out, nil
}

func (w *wrapped) LookupInvoice(context.Context, ln.Hash) (ln.Invoice, error) {
	inv := ln.Invoice{State: w.state}
	for i, e := range w.expiries {
		inv.Htlcs = append(inv.Htlcs, ln.InvoiceHtlc{Key: ln.CircuitKey{ChanID: heldOver, HtlcID: uint64(i)}, Expiry: e, State: ln.InvoiceAccepted}) //nolint:gosec // small
	}
	// One that was given back already says nothing.
	inv.Htlcs = append(inv.Htlcs, ln.InvoiceHtlc{Expiry: 1, State: ln.InvoiceCanceled})
	return inv, nil
}

func (w *wrapped) TrackPayment(context.Context, ln.Hash) (ln.Payment, error) {
	return ln.Payment{State: ln.PaymentUnknown}, nil
}

func (w *wrapped) PayDirect(context.Context, ln.DirectPayment) (ln.Payment, error) {
	w.sent++
	return ln.Payment{State: ln.PaymentSucceeded}, nil
}

func wrapEngine(w *wrapped) *Engine {
	return &Engine{
		opt: Options{Now: time.Now}, cfg: Defaults(), log: zap.NewNop(), world: newWorld(w, w, zap.NewNop()),
		node: Node{Channels: w, Invoices: w, Payments: w, Settings: w, Events: w},
	}
}

// TestMarginAtTheMomentOfSending is law 4: whatever was computed when the
// payment was decided, it is sent only if lnd, by its present word, cannot take
// back a held part before the payment is resolved.
func TestMarginAtTheMomentOfSending(t *testing.T) {
	pay := wrap.Pay{
		Attempt: 1, Payment: ln.DirectPayment{ExpiryHeight: 183}, SendUntilHeight: 103, MarginBlocks: 60,
	}
	good := func() *wrapped {
		return &wrapped{
			height: 100, delta: 18, state: ln.InvoiceAccepted, expiries: []uint32{300, 183 + 60 + 18}, channels: []ln.Channel{{ChanID: heldOver}},
		}
	}
	for name, c := range map[string]struct {
		change func(*wrapped)
		sent   bool
	}{
		"as agreed, to the block":                         {func(*wrapped) {}, true},
		"a part expires a block earlier":                  {func(w *wrapped) { w.expiries[1]-- }, false},
		"lnd was started with a larger holdexpirydelta":   {func(w *wrapped) { w.delta = 19 }, false},
		"with a smaller one the configured one stands":    {func(w *wrapped) { w.delta = 2; w.expiries[1]-- }, false},
		"the macaroon may not ask, the configured stands": {func(w *wrapped) { w.delta, w.deltaErr = 0, ln.ErrPermission }, true},
		"the same, a block short":                         {func(w *wrapped) { w.deltaErr = ln.ErrPermission; w.expiries[1]-- }, false},
		"the wallet would find its delta too short":       {func(w *wrapped) { w.height = 104 }, false},
		"the last block":                                  {func(w *wrapped) { w.height = 103 }, true},
		"a channel of a part is closed":                   {func(w *wrapped) { w.channels = nil }, false},
		"the held set is gone":                            {func(w *wrapped) { w.state = ln.InvoiceCanceled }, false},
		"lnd has failed it, and says accepted":            {func(w *wrapped) { w.gone = true }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := good()
			c.change(w)
			events, err := wrapEngine(w).pay(t.Context(), pay)
			require.NoError(t, err)
			require.Len(t, events, 1)
			if c.sent {
				require.Equal(t, 1, w.sent)
				return
			}
			require.Zero(t, w.sent)
			require.IsType(t, wrap.PaymentNotSent{}, events[0])
		})
	}
	t.Run("lnd does not answer", func(t *testing.T) {
		w := good()
		w.deltaErr = ln.ErrUnavailable
		_, err := wrapEngine(w).pay(t.Context(), pay)
		require.ErrorIs(t, err, ln.ErrUnavailable, "it is asked again")
		require.Zero(t, w.sent)
	})
}

// TestMarginAfterTheGate: a payment that waited for what is handed on to its wallet is
// sent by what is true once it has waited.
func TestMarginAfterTheGate(t *testing.T) {
	client := ln.PubKey{2, 1}
	for name, c := range map[string]struct {
		meanwhile func(*wrapped)
		sent      bool
	}{
		"nothing changes": {func(*wrapped) {}, true},
		"blocks come":     {func(w *wrapped) { w.height = 104 }, false},
		"lnd is started with a larger holdexpirydelta": {func(w *wrapped) { w.delta = 19 }, false},
		"a channel of a part closes":                   {func(w *wrapped) { w.channels = nil }, false},
		"the held set goes":                            {func(w *wrapped) { w.state = ln.InvoiceCanceled }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wrapped{
				height: 100, delta: 18, state: ln.InvoiceAccepted, expiries: []uint32{183 + 60 + 18}, channels: []ln.Channel{{ChanID: heldOver}},
			}
			e := wrapEngine(w)
			leave, err := e.gates.enter(t.Context(), client)
			require.NoError(t, err)
			var events []wrap.Event
			done := make(chan error, 1)
			go func() {
				var err error
				events, err = e.pay(t.Context(), wrap.Pay{
					Attempt: 1, Payment: ln.DirectPayment{Peer: client, ExpiryHeight: 183}, SendUntilHeight: 103, MarginBlocks: 60,
				})
				done <- err
			}()
			require.Eventually(t, func() bool {
				e.gates.mu.Lock()
				defer e.gates.mu.Unlock()
				return e.gates.of[client].users == 2
			}, time.Minute, time.Millisecond)
			c.meanwhile(w)
			leave()
			require.NoError(t, <-done)
			require.Len(t, events, 1)
			if c.sent {
				require.Equal(t, 1, w.sent)
				return
			}
			require.Zero(t, w.sent)
			require.IsType(t, wrap.PaymentNotSent{}, events[0])
		})
	}
}

// TestIncomingChannelIsCheckedBeforeItsMoneyIsTaken is law 12: the channel that
// an HTLC of a hold invoice came in on decides.
func TestIncomingChannelIsCheckedBeforeItsMoneyIsTaken(t *testing.T) {
	const alias, confirmed, own, ordinary = ln.SCID(16_000_001 << 40), ln.SCID(701 << 40), ln.SCID(16_000_002 << 40), ln.SCID(700 << 40)
	w := &wrapped{channels: []ln.Channel{
		{ChanID: ordinary},
		{ChanID: alias, ZeroConf: true},
		{ChanID: own, ZeroConf: true, Initiator: true},
		{ChanID: 16_000_003 << 40, ZeroConf: true, ConfirmedSCID: confirmed, Aliases: []ln.SCID{16_000_004 << 40}},
	}}
	for name, c := range map[string]struct {
		over []ln.SCID
		safe bool
	}{
		"an ordinary channel":                     {[]ln.SCID{ordinary}, true},
		"a zero-conf one of a peer's":             {[]ln.SCID{alias}, false},
		"one good part does not excuse a bad one": {[]ln.SCID{ordinary, alias}, false},
		"one that we funded":                      {[]ln.SCID{own}, true},
		"a zero-conf one once it has confirmed":   {[]ln.SCID{confirmed, 16_000_003 << 40, 16_000_004 << 40}, true},
		"one that is not open any more":           {[]ln.SCID{705 << 40}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var htlcs []ln.InvoiceHtlc
			for _, scid := range c.over {
				htlcs = append(htlcs, ln.InvoiceHtlc{Key: ln.CircuitKey{ChanID: scid}})
			}
			events, err := wrapEngine(w).checkIncoming(t.Context(), wrap.CheckIncoming{Htlcs: htlcs})
			require.NoError(t, err)
			require.Len(t, events, 1)
			checked, ok := events[0].(wrap.IncomingChecked)
			require.True(t, ok)
			require.Equal(t, c.safe, checked.Safe)
			if !c.safe {
				require.NotEmpty(t, checked.Text)
			}
		})
	}
}
