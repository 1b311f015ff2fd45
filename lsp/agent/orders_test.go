package agent_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lsp/order"
)

// fakeLSPS is every LSP on the wire, each with its own prices; bend changes what
// one answers to an order.
type fakeLSPS struct {
	w *wallet

	mu     sync.Mutex
	fees   map[ln.PubKey]ln.Sat
	menus  map[ln.PubKey][]lsp.OpeningFeeParams
	orders map[string]lsps1.Order
	bend   func(*lsps1.Order)
	hooks  []string
	sign   *btcec.PrivateKey
	silent bool
}

var errAway = errkind.New(errkind.Unavailable, "the LSP did not answer")

func (f *fakeLSPS) Protocols(_ context.Context, node ln.PubKey) ([]int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.silent {
		return nil, errAway
	}
	served := []int{1, 5}
	if len(f.menus[node]) > 0 {
		served = append(served, 2)
	}
	return served, nil
}

func (f *fakeLSPS) OrderOptions(_ context.Context, node ln.PubKey) (lsps1.Options, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.silent {
		return lsps1.Options{}, errAway
	}
	if _, sells := f.fees[node]; !sells {
		return lsps1.Options{}, errkind.New(errkind.NotFound, "the LSP does not serve lsps1.get_info")
	}
	return lsps1.Options{
		MinConfirmWithin: 8, MaxExpiryBlocks: 10_000, MaxClientSat: 1_000_000, MinLspSat: 50_000, MaxLspSat: 10_000_000,
		MinChannelSat: 100_000, MaxChannelSat: 10_000_000,
	}, nil
}

func (f *fakeLSPS) CreateOrder(_ context.Context, node ln.PubKey, r lsps1.CreateOrderRequest) (lsps1.Order, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fee := f.fees[node]
	total := fee + r.ClientBalanceSat
	id := "f81d4fae-7dec-11d0-a765-00a0c91e6bf" + string(rune('0'+len(f.orders)))
	msat, err := total.Msat()
	if err != nil {
		return lsps1.Order{}, err
	}
	text := "lnbcrt-order-" + id
	f.w.mu.Lock()
	f.w.decoded[text] = ln.Bolt11{Text: text, Network: network, Payee: node, AmountMsat: msat, HasPaymentAddr: true, CreatedAt: startTime(), Expiry: time.Hour}
	f.w.mu.Unlock()
	o := lsps1.Order{
		OrderID: id, LspBalanceSat: lsps0.Sat(r.LspBalanceSat), ClientBalanceSat: lsps0.Sat(r.ClientBalanceSat), RequiredConfs: r.RequiredConfs,
		ConfirmWithin: r.ConfirmWithin, ExpiryBlocks: r.ExpiryBlocks, Token: &r.Token, Announce: r.Announce, State: order.WireCreated,
		CreatedAt: lsps0.Datetime(startTime()),
		Payment: lsps1.Payment{Bolt11: &lsps1.Bolt11{
			State: order.ExpectPayment, ExpiresAt: lsps0.Datetime(startTime().Add(time.Hour)), FeeSat: lsps0.Sat(fee), TotalSat: lsps0.Sat(total), Invoice: text,
		}},
	}
	if r.RefundAddress != "" {
		o.Payment.OnChain = &lsps1.OnChain{
			State: order.ExpectPayment, ExpiresAt: lsps0.Datetime(startTime().Add(time.Hour)), FeeSat: lsps0.Sat(fee + 100), TotalSat: lsps0.Sat(total + 100),
			Address: "bcrt1qorder", MinConfs: 3, RefundAddress: r.RefundAddress,
		}
		if f.sign != nil {
			const promise = "I pay back what no channel comes of"
			o.Payment.OnChain.RefundPromise = lsps1.RefundPromise{Message: promise, Signature: signMessage(f.sign, promise)}
		}
	}
	if f.bend != nil {
		f.bend(&o)
	}
	f.orders[o.OrderID] = o
	return o, nil
}

func (f *fakeLSPS) Order(_ context.Context, _ ln.PubKey, id string) (lsps1.Order, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.silent {
		return lsps1.Order{}, errAway
	}
	return f.orders[id], nil
}

func (f *fakeLSPS) change(id string, change func(*lsps1.Order)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.orders[id]
	change(&o)
	f.orders[id] = o
}

func (f *fakeLSPS) Menu(_ context.Context, node ln.PubKey, _ string) ([]lsp.OpeningFeeParams, error) {
	return f.menus[node], nil
}

func (f *fakeLSPS) SetWebhook(_ context.Context, _ ln.PubKey, app, url string) (lsps5.SetResult, error) {
	f.hooks = append(f.hooks, app+" "+url)
	return lsps5.SetResult{NumWebhooks: len(f.hooks), MaxWebhooks: 10}, nil
}

func (f *fakeLSPS) Webhooks(context.Context, ln.PubKey) (lsps5.ListResult, error) {
	return lsps5.ListResult{AppNames: []string{"a\x1b[2J"}, MaxWebhooks: 10}, nil
}

func (f *fakeLSPS) RemoveWebhook(context.Context, ln.PubKey, string) error { return nil }

// signMessage is lnd's SignMessage.
func signMessage(key *btcec.PrivateKey, text string) string {
	first := sha256.Sum256([]byte("Lightning Signed Message:" + text))
	digest := sha256.Sum256(first[:])
	sig := ecdsa.SignCompact(key, digest[:], true)
	const alphabet = "ybndrfg8ejkmcpqxot1uwisza345h769"
	var out strings.Builder
	var window uint32
	bits := 0
	for _, b := range sig {
		window, bits = window<<8|uint32(b), bits+8
		for bits >= 5 {
			bits -= 5
			out.WriteByte(alphabet[window>>bits&31])
		}
	}
	return out.String()
}

// startForeign is a wallet with LSPs that speak LSPS and nothing else.
func startForeign(t *testing.T, f *fakeLSPS, w *wallet, names map[string]ln.PubKey) *world {
	t.Helper()
	world := startWith(t, nil, w, f)
	for name, key := range names {
		require.NoError(t, world.agent.AddLSP(t.Context(), agent.LSP{Name: name, NodeKey: key, Address: "127.0.0.1:9735", ZeroConf: true}, false, false))
	}
	return world
}

func newFakeLSPS(w *wallet) *fakeLSPS {
	return &fakeLSPS{w: w, fees: map[ln.PubKey]ln.Sat{}, menus: map[ln.PubKey][]lsp.OpeningFeeParams{}, orders: map[string]lsps1.Order{}}
}

// Who has time says so: the LSP may open the channel together with others'.
func TestOrderThatCanWait(t *testing.T) {
	w := newWallet()
	f := newFakeLSPS(w)
	key, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	node, err := ln.PubKeyFromBytes(key.PubKey().SerializeCompressed())
	require.NoError(t, err)
	f.fees[node], f.sign = 2_500, key
	world := startForeign(t, f, w, map[string]ln.PubKey{"other": node})
	a := world.agent

	patient, err := a.Order(t.Context(), agent.OrderRequest{LspBalanceSat: 400_000, Confirmations: 1, ConfirmWithin: 144})
	require.NoError(t, err)
	require.EqualValues(t, 144, patient.ConfirmWithin)
	_, err = a.Order(t.Context(), agent.OrderRequest{LspBalanceSat: 400_000, Confirmations: 1, ConfirmWithin: 7})
	require.ErrorContains(t, err, "at least 8")
}

// A channel is ordered, its order is kept over a restart and followed until the
// channel is there, and the acceptor takes exactly that channel.
func TestOrderOfAForeignLSP(t *testing.T) {
	w := newWallet()
	f := newFakeLSPS(w)
	key, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	node, err := ln.PubKeyFromBytes(key.PubKey().SerializeCompressed())
	require.NoError(t, err)
	f.fees[node], f.sign = 2_500, key
	world := startForeign(t, f, w, map[string]ln.PubKey{"other": node})
	a := world.agent

	o, err := a.Order(t.Context(), agent.OrderRequest{LspBalanceSat: 400_000, ClientBalanceSat: 20_000, Confirmations: -1, RefundAddress: "bcrt1qmine"})
	require.NoError(t, err)
	require.EqualValues(t, 22_500, o.TotalSat)
	require.EqualValues(t, 22_600, o.ChainTotalSat)
	require.Zero(t, o.RequiredConfs, "a trusted LSP's channel is used at once")
	require.EqualValues(t, 8, o.ConfirmWithin, "no sooner than the LSP confirms")
	require.EqualValues(t, 10_000, o.ExpiryBlocks, "no longer than the LSP keeps one")
	require.NotEmpty(t, o.Promise)

	proposal := ln.OpenProposal{
		Peer: node, CapacitySat: 420_000, PushMsat: 20_000_000, WantsZeroConf: true, CommitmentType: ln.CommitmentAnchors,
		CsvDelay: 144, ReserveSat: 4_200, MaxHtlcs: 483,
	}
	for name, bend := range map[string]func(*ln.OpenProposal){
		"less pushed":    func(p *ln.OpenProposal) { p.PushMsat-- },
		"more pushed":    func(p *ln.OpenProposal) { p.PushMsat++ },
		"smaller":        func(p *ln.OpenProposal) { p.CapacitySat-- },
		"announced":      func(p *ln.OpenProposal) { p.Announce = true },
		"somebody else":  func(p *ln.OpenProposal) { p.Peer = nodeKey(8) },
		"a long delay":   func(p *ln.OpenProposal) { p.CsvDelay = 2_017 },
		"without anchor": func(p *ln.OpenProposal) { p.CommitmentType = "LEGACY" },
	} {
		p := proposal
		bend(&p)
		require.False(t, world.ask(t, p).Accept, name)
	}
	require.True(t, world.ask(t, proposal).ZeroConf)

	again, err := agent.New(agent.Config{DataDir: world.dir, Policy: agent.DefaultPolicy()}, agent.Ports{Node: w, LSPS: f})
	require.NoError(t, err)
	require.Equal(t, []agent.Order{o}, again.Orders())

	seen := make(chan agent.Order, 20)
	done := make(chan error, 1)
	go func() {
		_, err := a.WatchOrder(t.Context(), o.ID[:8], func(o agent.Order) { seen <- o })
		done <- err
	}()
	require.Equal(t, order.ExpectPayment, (<-seen).PaymentState)
	f.change(o.ID, func(o *lsps1.Order) { o.Payment.Bolt11.State = order.Hold })
	require.Equal(t, order.Hold, (<-seen).PaymentState)
	f.change(o.ID, func(o *lsps1.Order) {
		o.Payment.Bolt11.State, o.State = order.PaymentPaid, order.WireCompleted
		o.Channel = &lsps1.Channel{Outpoint: "00:1", ExpiresAt: lsps0.Datetime(startTime().Add(24 * time.Hour))}
	})
	last := <-seen
	require.True(t, last.Over())
	require.Equal(t, "00:1", last.Outpoint)
	require.NoError(t, <-done)
	require.False(t, world.ask(t, proposal).Accept, "the channel has come")
	f.silent = true
	kept, err := a.RefreshOrder(t.Context(), o.ID)
	require.NoError(t, err, "an order that is over is not asked about")
	require.Equal(t, last, kept)
}

// An order that is not what was asked for, or does not add up, is never shown.
func TestOrdersThatLie(t *testing.T) {
	ask := func(t *testing.T, bend func(*lsps1.Order)) error {
		w := newWallet()
		f := newFakeLSPS(w)
		f.fees[nodeKey(7)] = 2_500
		f.bend = bend
		world := startForeign(t, f, w, map[string]ln.PubKey{"other": nodeKey(7)})
		_, err := world.agent.Order(t.Context(), agent.OrderRequest{
			LspBalanceSat: 400_000, ClientBalanceSat: 20_000, Confirmations: 3, RefundAddress: "bcrt1qmine", MaxFeeSat: 3_000,
		})
		if err != nil {
			require.Empty(t, world.agent.Orders(), "nothing of it is kept")
		}
		return err
	}
	require.NoError(t, ask(t, func(*lsps1.Order) {}))
	for name, bend := range map[string]func(*lsps1.Order){
		"less inbound":        func(o *lsps1.Order) { o.LspBalanceSat-- },
		"less for the wallet": func(o *lsps1.Order) { o.ClientBalanceSat-- },
		"more confirmations":  func(o *lsps1.Order) { o.RequiredConfs++ },
		"a slower funding":    func(o *lsps1.Order) { o.ConfirmWithin++ },
		"a shorter lease":     func(o *lsps1.Order) { o.ExpiryBlocks-- },
		"announced":           func(o *lsps1.Order) { o.Announce = true },
		"over already":        func(o *lsps1.Order) { o.State = order.WireFailed },
		"an unknown state":    func(o *lsps1.Order) { o.State = "SOON" },
		"another total":       func(o *lsps1.Order) { o.Payment.Bolt11.TotalSat++ },
		"no invoice":          func(o *lsps1.Order) { o.Payment.Bolt11.Invoice = "" },
		"a dear fee":          func(o *lsps1.Order) { o.Payment.Bolt11.FeeSat = 3_001 },
		"expired": func(o *lsps1.Order) {
			o.Payment.Bolt11.ExpiresAt = lsps0.Datetime(startTime())
		},
		"nothing to pay":           func(o *lsps1.Order) { o.Payment = lsps1.Payment{} },
		"another refund address":   func(o *lsps1.Order) { o.Payment.OnChain.RefundAddress = "bcrt1qtheirs" },
		"no address":               func(o *lsps1.Order) { o.Payment.OnChain.Address = "" },
		"an address with controls": func(o *lsps1.Order) { o.Payment.OnChain.Address = "bc\x1b[2J" },
		"a false promise": func(o *lsps1.Order) {
			o.Payment.OnChain.RefundPromise = lsps1.RefundPromise{Message: "x", Signature: strings.Repeat("y", 104)}
		},
		"an id that steers a terminal": func(o *lsps1.Order) { o.OrderID = "\x1b[2J" },
	} {
		t.Run(name, func(t *testing.T) {
			err := ask(t, bend)
			require.Error(t, err)
			require.NotEmpty(t, errkind.Told(err))
		})
	}
}

func TestOrdersThatCannotBe(t *testing.T) {
	w := newWallet()
	f := newFakeLSPS(w)
	f.fees[nodeKey(7)], f.fees[nodeKey(8)] = 2_500, 2_000
	world := startForeign(t, f, w, map[string]ln.PubKey{"one": nodeKey(7), "two": nodeKey(8), "none": nodeKey(9)})
	for says, r := range map[string]agent.OrderRequest{
		"several LSPs":              {LspBalanceSat: 400_000},
		"no LSP named x":            {LSP: "x", LspBalanceSat: 400_000},
		"does not serve":            {LSP: "none", LspBalanceSat: 400_000, Confirmations: -1},
		"at least 50000":            {LSP: "one", LspBalanceSat: 1_000, Confirmations: -1},
		"at most 10000":             {LSP: "one", LspBalanceSat: 400_000, LeaseBlocks: 10_001, Confirmations: -1},
		"channels.max_channel_sat":  {LSP: "one", LspBalanceSat: 17_000_000, Confirmations: -1},
		"ask for 100 at most":       {LSP: "one", LspBalanceSat: 400_000, Confirmations: 101},
		"above your limit of 1 sat": {LSP: "one", LspBalanceSat: 400_000, Confirmations: -1, MaxFeeSat: 1},
	} {
		_, err := world.agent.Order(t.Context(), r)
		require.ErrorContains(t, err, says)
	}
	_, err := world.agent.RefreshOrder(t.Context(), "none")
	require.ErrorIs(t, err, errkind.NotFound)

	// Who declines zero-conf of an LSP gets confirmations, and cannot order without.
	require.NoError(t, world.agent.AddLSP(t.Context(), agent.LSP{Name: "one", NodeKey: nodeKey(7), Address: "127.0.0.1:9735"}, true, true))
	o, err := world.agent.Order(t.Context(), agent.OrderRequest{LSP: "one", LspBalanceSat: 400_000, Confirmations: -1})
	require.NoError(t, err)
	require.EqualValues(t, 3, o.RequiredConfs)
	_, err = world.agent.Order(t.Context(), agent.OrderRequest{LSP: "one", LspBalanceSat: 400_000})
	require.ErrorContains(t, err, "may not be used unconfirmed")
	verdict := world.ask(t, ln.OpenProposal{Peer: nodeKey(7), CapacitySat: 400_000, CommitmentType: ln.CommitmentAnchors, CsvDelay: 144, ReserveSat: 4_000, MaxHtlcs: 483})
	require.True(t, verdict.Accept)
	require.EqualValues(t, 3, verdict.MinDepth, "as many confirmations as were ordered")

	require.NoError(t, os.WriteFile(filepath.Join(t.TempDir(), "orders.json"), []byte("["), 0o600))
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "orders.json"), []byte("["), 0o600))
	_, err = agent.New(agent.Config{DataDir: dir}, agent.Ports{Node: w})
	require.ErrorContains(t, err, "damaged")
}

// What costs least in all comes first, and what a stock lnd cannot take is shown
// with the reason; receive says so and what to do.
func TestOffersOfForeignLSPs(t *testing.T) {
	w := newWallet()
	f := newFakeLSPS(w)
	dear, cheap, silent := nodeKey(7), nodeKey(8), nodeKey(9)
	f.fees[dear], f.fees[cheap] = 5_000, 900
	f.menus[cheap] = []lsp.OpeningFeeParams{{
		MinFeeMsat: 700_000, ProportionalPPM: 1_000, ValidUntil: startTime().Add(time.Hour), MinLifetimeBlocks: 1, MaxClientToSelfDelay: 2016,
		MinPaymentSizeMsat: 1, MaxPaymentSizeMsat: ln.MaxMsat, Promise: "p",
	}}
	world := startForeign(t, f, w, map[string]ln.PubKey{"dear": dear, "cheap": cheap, "silent": silent})
	ranked, _ := world.agent.Offers(t.Context(), amount)
	require.Len(t, ranked, 1)
	require.Equal(t, "cheap", ranked[0].Menu.LSP.Name)
	require.ErrorContains(t, ranked[0].Unfit, "LSPS2 only")
	require.NotZero(t, ranked[0].Quote.FeeMsat)

	offers := world.agent.OrderOffers(t.Context(), amount)
	require.Len(t, offers, 3)
	require.Equal(t, []string{"cheap", "dear", "silent"}, []string{offers[0].LSP.Name, offers[1].LSP.Name, offers[2].LSP.Name})
	require.EqualValues(t, 900, offers[0].Order.FeeSat)
	require.GreaterOrEqual(t, offers[0].LspSat, amount.ToSatCeil())
	require.Error(t, offers[2].Err)
	require.Empty(t, world.agent.Orders(), "asking for a price keeps nothing")

	_, err := world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount})
	require.ErrorContains(t, err, "sluice-wallet order")

	// With a channel that has room it receives like any other.
	w.channels = []ln.Channel{roomy(cheap, 900_000)}
	w.ownHints = []ln.RouteHint{{Node: cheap, SCID: 5, CltvDelta: 80}}
	g, err := world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount})
	require.NoError(t, err)
	require.False(t, g.OpensChannel)

	f.silent = true
	all, err := world.agent.LSPStatus(t.Context())
	require.NoError(t, err)
	for _, l := range all {
		require.ErrorIs(t, l.Problem, errkind.Unavailable, l.Name)
	}
	require.Error(t, world.agent.AddLSP(t.Context(), agent.LSP{Name: "new", NodeKey: nodeKey(10), Address: "127.0.0.1:9735"}, false, false))
}

func TestWebhooksOfAForeignLSP(t *testing.T) {
	w := newWallet()
	f := newFakeLSPS(w)
	world := startForeign(t, f, w, map[string]ln.PubKey{"one": nodeKey(7)})
	r, err := world.agent.SetWebhook(t.Context(), "", "phone", "https://push.example.com/x")
	require.NoError(t, err)
	require.Equal(t, 1, r.NumWebhooks)
	for _, bad := range [][2]string{{"", "https://a.example/x"}, {"phone", "http://a.example/x"}, {"phone", "https://a.example/\n"}, {strings.Repeat("x", 65), "https://a.example/x"}, {"phone", "https://a.example/" + strings.Repeat("x", 1024)}} {
		_, err := world.agent.SetWebhook(t.Context(), "one", bad[0], bad[1])
		require.ErrorIs(t, err, errkind.Invalid, "%q", bad)
	}
	require.Equal(t, []string{"phone https://push.example.com/x"}, f.hooks)
	list, err := world.agent.Webhooks(t.Context(), "one")
	require.NoError(t, err)
	require.Equal(t, []string{"a [2J"}, list.AppNames, "no name steers a terminal")
	require.NoError(t, world.agent.RemoveWebhook(t.Context(), "one", "phone"))

	none, err := agent.New(agent.Config{DataDir: t.TempDir()}, agent.Ports{Node: w})
	require.NoError(t, err)
	_, err = none.Webhooks(t.Context(), "")
	require.True(t, errors.Is(err, errkind.Unavailable))
}
