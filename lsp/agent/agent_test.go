package agent_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

const amount ln.Msat = 100_000_000

func zeroConf(peer ln.PubKey) ln.OpenProposal {
	return ln.OpenProposal{
		Peer: peer, CapacitySat: 200_000, CsvDelay: 144, ReserveSat: 2_000, MaxHtlcs: 483, MinHtlcMsat: 1_000,
		WantsZeroConf: true, WantsScidAlias: true, CommitmentType: ln.CommitmentAnchors,
	}
}

func one(t *testing.T) (*world, *fakeLSP) {
	t.Helper()
	w := newWallet()
	f := newFakeLSP(w, nodeKey(1), 2_000_000, 10_000)
	return start(t, map[string]*fakeLSP{"alice": f}, w), f
}

// roomy is a channel with inbound liquidity.
func roomy(peer ln.PubKey, remote ln.Sat) ln.Channel {
	return ln.Channel{
		Outpoint: ln.Outpoint{Index: 7}, Peer: peer, Active: true, CapacitySat: remote + 10_000, RemoteSat: remote,
		RemoteReserveSat: 1_000, LocalReserveSat: 1_000, CommitFeeSat: 300, CommitmentType: "ANCHORS", ZeroConf: true,
	}
}

func TestPayerPays(t *testing.T) {
	w, f := one(t)
	g, err := w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount, Mode: agent.PayerPays, Description: "tea", Expiry: 10 * time.Minute})
	require.NoError(t, err)
	require.Equal(t, amount, g.WalletMsat)
	require.Equal(t, ln.Msat(2_000_000), g.FeeMsat)
	require.Equal(t, ln.Msat(102_000_000), g.PayerMsat)
	require.True(t, g.OpensChannel)

	b, err := w.decode(network, g.Bolt11)
	require.NoError(t, err)
	require.Equal(t, [][]ln.RouteHint{{{Node: f.key, SCID: ln.NewSCID(16_100_000, 1, 1), FeePPM: 20_000, CltvDelta: 80}}}, b.RouteHints,
		"the hint is explicit, with the whole fee as a proportion")
	require.Equal(t, amount, b.AmountMsat)
	require.Equal(t, b.Hash[:], f.asked[0].PaymentHash, "the LSP was asked for the invoice's own hash")
	require.Equal(t, "tea", b.Description)
	require.Equal(t, 10*time.Minute, b.Expiry)
	require.Equal(t, "v1.abc", f.asked[0].OpeningFeeParams.Promise)

	// The offer ends before a long expiry does: so does the invoice.
	g, err = w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount, Mode: agent.PayerPays, Expiry: 5 * time.Hour})
	require.NoError(t, err)
	b, err = w.decode(network, g.Bolt11)
	require.NoError(t, err)
	require.Equal(t, 30*time.Minute, b.Expiry)
}

func TestReceiverPays(t *testing.T) {
	w, f := one(t)
	g, err := w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount, Expiry: 10 * time.Minute})
	require.NoError(t, err)
	require.Equal(t, agent.ReceiverPays, g.Mode)
	require.Equal(t, amount, g.PayerMsat)
	require.Equal(t, amount-2_000_000, g.WalletMsat)
	require.Contains(t, g.Bolt11, "wrapped", "the LSP's invoice is shown, not the wallet's own")
	own, err := w.decode(network, f.wrapped[0].Bolt11)
	require.NoError(t, err)
	require.Empty(t, own.RouteHints)
	require.Greater(t, own.Expiry, 10*time.Minute, "what is held when the payer's time is over can still be paid")
}

// Each lie of an LSP ends the agreement: nothing is shown, the wallet's invoice
// can no longer be paid, and the LSP is told.
func TestLies(t *testing.T) {
	for name, bend := range map[string]func(*lspv1.NegotiateResponse){
		"fee":        func(r *lspv1.NegotiateResponse) { r.FeeMsat++ },
		"ppm":        func(r *lspv1.NegotiateResponse) { r.HintFeePpm++ },
		"ppm short":  func(r *lspv1.NegotiateResponse) { r.HintFeePpm-- },
		"base fee":   func(r *lspv1.NegotiateResponse) { r.HintBaseFeeMsat = 1 },
		"cltv":       func(r *lspv1.NegotiateResponse) { r.HintCltvDeltaBlocks = 2000 },
		"no cltv":    func(r *lspv1.NegotiateResponse) { r.HintCltvDeltaBlocks = 0 },
		"scid":       func(r *lspv1.NegotiateResponse) { r.JitScid = "16x1" },
		"zero scid":  func(r *lspv1.NegotiateResponse) { r.JitScid = "0x0x0" },
		"fee for no": func(r *lspv1.NegotiateResponse) { r.OpensChannel = false },
		"capacity":   func(r *lspv1.NegotiateResponse) { r.ChannelCapacitySat = 1 << 40 },
		"expired":    func(r *lspv1.NegotiateResponse) { r.ExpiresMs = startTime().UnixMilli() },
	} {
		t.Run(name, func(t *testing.T) {
			w, f := one(t)
			f.bendHint = bend
			_, err := w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount, Mode: agent.PayerPays})
			require.ErrorIs(t, err, errkind.Invalid)
			require.Empty(t, w.invoices, "no invoice was made")
			require.Equal(t, []string{"pay-1"}, f.cancelled)
		})
	}
	for name, bend := range map[string]func(*lspv1.WrapResponse, *ln.Bolt11){
		"hash":        func(_ *lspv1.WrapResponse, b *ln.Bolt11) { b.Hash[0]++ },
		"payee":       func(_ *lspv1.WrapResponse, b *ln.Bolt11) { b.Payee = nodeKey(7) },
		"network":     func(_ *lspv1.WrapResponse, b *ln.Bolt11) { b.Network = "mainnet" },
		"amount":      func(_ *lspv1.WrapResponse, b *ln.Bolt11) { b.AmountMsat++ },
		"less":        func(_ *lspv1.WrapResponse, b *ln.Bolt11) { b.AmountMsat-- },
		"description": func(_ *lspv1.WrapResponse, b *ln.Bolt11) { b.Description = "other" },
		"expiry":      func(_ *lspv1.WrapResponse, b *ln.Bolt11) { b.Expiry = 100 * time.Hour },
		"expired":     func(_ *lspv1.WrapResponse, b *ln.Bolt11) { b.Expiry = 0 },
		"cltv":        func(_ *lspv1.WrapResponse, b *ln.Bolt11) { b.FinalCltvDelta = 90 },
		"fee":         func(r *lspv1.WrapResponse, _ *ln.Bolt11) { r.FeeMsat = 2_000_001 },
		"no channel":  func(r *lspv1.WrapResponse, _ *ln.Bolt11) { r.OpensChannel = false },
		"no secret":   func(_ *lspv1.WrapResponse, b *ln.Bolt11) { b.HasPaymentAddr = false },
		"capacity":    func(r *lspv1.WrapResponse, _ *ln.Bolt11) { r.ChannelCapacitySat = 1 << 40 },
		"short wait":  func(r *lspv1.WrapResponse, _ *ln.Bolt11) { r.MaxWaitBlocks = 2 },
		"long wait":   func(r *lspv1.WrapResponse, b *ln.Bolt11) { r.MaxWaitBlocks = b.FinalCltvDelta + 1 },
	} {
		t.Run("wrapped "+name, func(t *testing.T) {
			w, f := one(t)
			f.bendWrap = bend
			_, err := w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount, NoZeroConf: strings.HasSuffix(name, "wait")})
			require.ErrorIs(t, err, errkind.Invalid)
			require.Equal(t, 1, w.cancelled, "the wallet's own invoice cannot be paid any more")
			require.Equal(t, []string{"wrap-1"}, f.cancelled)
		})
	}
	for name, bend := range map[string]func(*lspv1.GetMenuResponse){
		"other node":    func(r *lspv1.GetMenuResponse) { k := nodeKey(9); r.GatewayNodeKey = k[:] },
		"other network": func(r *lspv1.GetMenuResponse) { r.Network = "mainnet" },
		"csv":           func(r *lspv1.GetMenuResponse) { r.MaxWalletToSelfDelayBlocks = 5_000 },
		"overflow":      func(r *lspv1.GetMenuResponse) { r.OpeningFeeParamsMenu[0].ProportionalPpm = 1 << 40 },
	} {
		t.Run("menu "+name, func(t *testing.T) {
			w, f := one(t)
			f.bendMenu = bend
			_, err := w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount})
			require.ErrorIs(t, err, errkind.Invalid)
			require.Empty(t, w.invoices)
		})
	}
}

func TestCheapestAndFallback(t *testing.T) {
	w := newWallet()
	dear, cheap := newFakeLSP(w, nodeKey(1), 5_000_000, 0), newFakeLSP(w, nodeKey(2), 3_000_000, 0)
	world := start(t, map[string]*fakeLSP{"dear": dear, "cheap": cheap}, w)
	g, err := world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount})
	require.NoError(t, err)
	require.Equal(t, "cheap", g.LSP)
	g, err = world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount, LSP: "dear"})
	require.NoError(t, err)
	require.Equal(t, "dear", g.LSP)

	cheap.refuse = status.Error(codes.ResourceExhausted, "no coins left")
	g, err = world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount})
	require.NoError(t, err)
	require.Equal(t, "dear", g.LSP, "the next one does what the cheapest cannot")

	_, err = world.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount, MaxFeeMsat: 4_000_000})
	require.ErrorContains(t, err, "no coins left")
	require.ErrorContains(t, err, "--max-fee")
}

// TestNothingOffered: while the LSP offers no channels its words reach the
// person, and what a present channel can receive still comes over it.
func TestNothingOffered(t *testing.T) {
	w, f := one(t)
	f.bendMenu = func(r *lspv1.GetMenuResponse) {
		r.OpeningFeeParamsMenu, r.Refusal = nil, "the chain's fees are too high: try again in about 10 minutes"+strings.Repeat("!", 1_000)
	}
	for _, mode := range []agent.Mode{agent.PayerPays, agent.ReceiverPays} {
		_, err := w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount, Mode: mode})
		require.ErrorIs(t, err, errkind.Unavailable)
		require.Contains(t, errkind.Sentence(err), "try again in about 10 minutes")
		require.Less(t, len(errkind.Sentence(err)), 600)
	}
	offers, away := w.agent.Offers(t.Context(), amount)
	require.Empty(t, offers)
	require.ErrorContains(t, away[0].Err, "too high")
	stand, err := w.agent.LSPStatus(t.Context())
	require.NoError(t, err)
	require.True(t, stand[0].LoggedIn)
	require.False(t, stand[0].Accepting)

	f.room = true
	w.channels = []ln.Channel{roomy(f.key, 200_000)}
	g, err := w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount})
	require.NoError(t, err)
	require.Zero(t, g.FeeMsat)
	require.Nil(t, f.asked[0].OpeningFeeParams)
}

func TestRoomNeedsNoChannel(t *testing.T) {
	w, f := one(t)
	f.room = true
	w.channels = []ln.Channel{roomy(f.key, 200_000)}
	g, err := w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount})
	require.NoError(t, err)
	require.False(t, g.OpensChannel)
	require.Zero(t, g.FeeMsat)
	require.Equal(t, amount, g.WalletMsat)
	b, err := w.decode(network, g.Bolt11)
	require.NoError(t, err)
	require.Equal(t, ln.NewSCID(16_100_000, 1, 1), b.RouteHints[0][0].SCID, "an explicit hint, not lnd's own")
	require.Empty(t, f.wrapped)
	require.False(t, f.asked[0].Channel.AllowAnotherChannel)

	// The LSP's service is away: lnd's own hint serves if it is there, and an
	// invoice without any is never shown.
	f.refuse = status.Error(codes.Unavailable, "restarting")
	w.ownHints = []ln.RouteHint{{Node: f.key, SCID: 5, CltvDelta: 80}}
	g, err = w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount})
	require.NoError(t, err)
	require.Empty(t, g.PaymentID)
	w.ownHints = nil
	_, err = w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount})
	require.ErrorIs(t, err, errkind.Unavailable)

	// Who declines zero-conf does not trust an unconfirmed channel either.
	f.refuse = nil
	g, err = w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount, NoZeroConf: true})
	require.NoError(t, err)
	require.Equal(t, agent.ReceiverPays, g.Mode)
	require.EqualValues(t, 3, f.wrapped[len(f.wrapped)-1].Channel.MinConfirmations)
}

// The acceptor follows the list of LSPs and the agreements, over restarts.
func TestAcceptor(t *testing.T) {
	w, f := one(t)
	require.Equal(t, ln.AcceptVerdict{Accept: true, ZeroConf: true}, w.ask(t, zeroConf(f.key)))
	require.False(t, w.ask(t, zeroConf(nodeKey(50))).Accept, "a stranger's zero-conf channel")
	ordinary := zeroConf(nodeKey(50))
	ordinary.WantsZeroConf = false
	require.Equal(t, ln.AcceptVerdict{Accept: true}, w.ask(t, ordinary))

	_, err := w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount, NoZeroConf: true, Confirmations: 4})
	require.NoError(t, err)
	require.False(t, w.ask(t, zeroConf(f.key)).Accept, "zero-conf was declined")
	confirmed := zeroConf(f.key)
	confirmed.WantsZeroConf = false
	require.Equal(t, ln.AcceptVerdict{Accept: true, MinDepth: 4}, w.ask(t, confirmed))

	again, err := agent.New(agent.Config{DataDir: w.dir, Policy: agent.DefaultPolicy()}, agent.Ports{Node: w.wallet, Now: startTime})
	require.NoError(t, err)
	require.Len(t, again.LSPs(), 1)

	n, err := w.agent.RemoveLSP(t.Context(), "alice")
	require.NoError(t, err)
	require.Zero(t, n)
	require.False(t, w.ask(t, zeroConf(f.key)).Accept, "it is an LSP of ours no more")
	_, err = w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount})
	require.ErrorIs(t, err, errkind.NotFound)
}

func TestReconnects(t *testing.T) {
	w, f := one(t)
	wait := func() {
		select {
		case key := <-w.connects:
			require.Equal(t, f.key, key)
		case <-time.After(10 * time.Second):
			t.Fatal("the agent did not connect")
		}
	}
	wait()
	w.dropPeer(f.key)
	wait()
}

// A payment that waits makes the wallet's node connect at once, also after the
// LSP's stream was cut off. Looking at the connection by itself would take an
// hour here.
func TestAPaymentThatWaitsMakesTheNodeConnect(t *testing.T) {
	w, f := one(t)
	wait := func() {
		t.Helper()
		select {
		case key := <-w.connects:
			require.Equal(t, f.key, key)
		case <-time.After(10 * time.Second):
			t.Fatal("the agent does not connect")
		}
	}
	wait()
	for range 2 {
		// lnd has not noticed yet: no event tells of it.
		w.mu.Lock()
		w.online[f.key] = false
		w.mu.Unlock()
		f.waiting <- &lspv1.WatchWaitingResponse{PaymentId: "pay-1", AmountMsat: uint64(amount)}
		wait()
		f.waiting <- nil
	}
}

func TestWatch(t *testing.T) {
	w, f := one(t)
	receive := func() agent.Agreement {
		g, err := w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: amount})
		require.NoError(t, err)
		return g
	}
	g := receive()
	seen := make(chan string, 20)
	end := make(chan agent.Payment, 1)
	watch := func(hash ln.Hash) {
		p, err := w.agent.Watch(t.Context(), hash, func(p agent.Payment) { seen <- p.State })
		if err == nil {
			end <- p
		}
	}
	go watch(g.Hash)
	require.Equal(t, "agreed", <-seen)
	f.states <- &lspv1.Payment{PaymentHash: g.Hash[:], State: "opening\x1b[2J"}
	require.Equal(t, "opening [2J", <-seen, "an LSP's words cannot steer the terminal")
	// The LSP says that it is done: only lnd's word ends it.
	f.states <- &lspv1.Payment{PaymentHash: g.Hash[:], State: "settled", Terminal: true}
	require.Equal(t, "settled", <-seen)
	w.set(g.Hash, ln.InvoiceSettled)
	require.Equal(t, "paid", <-seen)
	p := <-end
	require.True(t, p.Paid)
	require.Equal(t, g.WalletMsat, p.AmountMsat)

	g = receive()
	go watch(g.Hash)
	require.Equal(t, "agreed", <-seen)
	f.states <- &lspv1.Payment{PaymentHash: g.Hash[:], State: "refunded", Reason: "no coins", Terminal: true}
	require.Equal(t, "refunded", <-seen)
	p = <-end
	require.False(t, p.Paid)
	require.Equal(t, "no coins", p.Reason)

	// An LSP that says "refunded" of a payment that the wallet has is not believed.
	g = receive()
	w.mu.Lock()
	w.invoices[g.Hash].State = ln.InvoiceSettled
	w.mu.Unlock()
	go watch(g.Hash)
	require.True(t, (<-end).Paid)
}

func TestOffline(t *testing.T) {
	w, f := one(t)
	ch := roomy(f.key, 200_000)
	ch.Htlcs = []ln.ChannelHtlc{{Incoming: true}}
	w.mu.Lock()
	w.channels = []ln.Channel{ch}
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var kinds []string
	err := w.agent.WatchOffline(ctx, func(b []agent.Blocker) {
		kind := ""
		if len(b) > 0 {
			kind = b[0].Kind
		}
		kinds = append(kinds, kind)
		switch kind {
		case agent.BlockClosing:
			w.mu.Lock()
			switch p := &w.pending[0]; p.Kind {
			case ln.PendingWaitingClose:
				p.Kind, p.OpenHtlcSat = ln.PendingForceClose, 700
			case ln.PendingForceClose, ln.PendingOpen:
				p.OpenHtlcSat = 0 // claimed
			}
			w.mu.Unlock()
		case agent.BlockHTLC:
			w.mu.Lock()
			w.pending = []ln.PendingChannel{{Kind: ln.PendingWaitingClose, Commitment: true}, {Kind: ln.PendingWaitingClose}}
			w.mu.Unlock()
			f.mu.Lock()
			f.held = []*lspv1.Payment{{PaymentHash: make([]byte, 32), ReceivedMsat: 5, State: "opening"}}
			f.mu.Unlock()
			w.mu.Lock()
			w.channels[0].Htlcs = nil
			w.mu.Unlock()
		case agent.BlockArriving:
			f.mu.Lock()
			f.held = nil
			f.mu.Unlock()
		}
	})
	require.NoError(t, err)
	require.Equal(t, []string{agent.BlockHTLC, agent.BlockClosing, agent.BlockClosing, agent.BlockArriving, ""}, kinds)

	// The LSP lags behind: what the wallet has is not on its way any more.
	g, err := w.agent.Receive(t.Context(), agent.ReceiveRequest{AmountMsat: 2 * amount})
	require.NoError(t, err)
	f.held = []*lspv1.Payment{{PaymentHash: g.Hash[:], ReceivedMsat: 5, State: "forwarded"}}
	s, err := w.agent.Status(ctx)
	require.NoError(t, err)
	require.Len(t, s.Blockers, 1)
	w.set(g.Hash, ln.InvoiceSettled)
	s, err = w.agent.Status(ctx)
	require.NoError(t, err)
	require.Empty(t, s.Blockers)
}

// TestStatusTellsOfAChannelWithoutLink: lnd shows a connected peer and a dead
// channel side by side, and says nothing.
func TestStatusTellsOfAChannelWithoutLink(t *testing.T) {
	w, f := one(t)
	ch := roomy(f.key, 200_000)
	problem := func(active, online bool) string {
		ch.Active = active
		w.mu.Lock()
		w.channels, w.online[f.key] = []ln.Channel{ch}, online
		w.mu.Unlock()
		s, err := w.agent.Status(t.Context())
		require.NoError(t, err)
		require.Len(t, s.LSPs, 1)
		if s.LSPs[0].Problem == nil {
			return ""
		}
		return s.LSPs[0].Problem.Error()
	}
	require.Empty(t, problem(true, true))
	require.Contains(t, problem(false, true), ch.Outpoint.String())
	require.NotContains(t, problem(false, false), "closechannel", "a node that is away comes back")
}

func TestControlSocket(t *testing.T) {
	w, f := one(t)
	dir, err := os.MkdirTemp("", "sw")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, agent.SocketFile)
	listener, err := agent.ListenControl(t.Context(), path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- w.agent.ServeControl(ctx, listener) }()
	_, err = agent.ListenControl(t.Context(), path)
	require.ErrorIs(t, err, errkind.Conflict, "two daemons never share a socket")

	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	client := agentv1.NewWalletClient(conn)
	r, err := client.Receive(t.Context(), &agentv1.ReceiveRequest{AmountMsat: uint64(amount), FeePayer: agentv1.FeePayer_FEE_PAYER_PAYER})
	require.NoError(t, err)
	require.EqualValues(t, 102_000_000, r.PayerPaysMsat)
	s, err := client.GetStatus(t.Context(), &agentv1.GetStatusRequest{})
	require.NoError(t, err)
	require.True(t, s.AcceptorAttached)
	require.True(t, s.Lsps[0].LoggedIn)
	require.Equal(t, f.key.String(), s.Lsps[0].NodeKey)
	_, err = client.Receive(t.Context(), &agentv1.ReceiveRequest{AmountMsat: 1, FeePayer: agentv1.FeePayer_FEE_PAYER_PAYER})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	require.Contains(t, err.Error(), "ask to receive more")
	_, err = client.AddLsp(t.Context(), &agentv1.AddLspRequest{Lsp: &agentv1.Lsp{
		Name: "bob", NodeKey: nodeKey(8).String(), Address: "h:1", Grpc: "h:2",
	}})
	require.Error(t, err, "an LSP that does not answer is not added")
	require.Len(t, w.agent.LSPs(), 1)
	cancel()
	require.NoError(t, <-served)
}

func TestRequestsThatCannotBe(t *testing.T) {
	w, _ := one(t)
	for i, r := range []agent.ReceiveRequest{
		{},
		{AmountMsat: ln.MaxMsat + 1},
		{AmountMsat: amount, Mode: "nobody"},
		{AmountMsat: amount, Confirmations: 2},
		{AmountMsat: amount, Mode: agent.PayerPays, NoZeroConf: true},
		{AmountMsat: amount, Expiry: time.Second},
		{AmountMsat: amount, NoZeroConf: true, Confirmations: 1000},
		{AmountMsat: amount, Description: string(make([]byte, 1000))},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			_, err := w.agent.Receive(t.Context(), r)
			require.ErrorIs(t, err, errkind.Invalid)
			require.NotEmpty(t, errkind.Sentence(err))
		})
	}
}

// A payment that shall wait for the wallet is the LSP's own invoice, with or without room;
// the wallet's lives so much longer, and an LSP whose invoice cannot wait so long is caught.
func TestHoldFor(t *testing.T) {
	for _, room := range []bool{false, true} {
		w, f := one(t)
		fee := ln.Msat(2_000_000)
		if f.room = room; room {
			w.channels, fee = []ln.Channel{roomy(f.key, 200_000)}, 0
		}
		r := agent.ReceiveRequest{AmountMsat: amount, Expiry: 10 * time.Minute, HoldFor: 10 * time.Hour}
		g, err := w.agent.Receive(t.Context(), r)
		require.NoError(t, err)
		require.Contains(t, g.Bolt11, "wrapped")
		require.Equal(t, amount-fee, g.WalletMsat)
		require.EqualValues(t, 36_000, f.wrapped[0].Channel.HoldForSeconds)
		own, err := w.decode(network, f.wrapped[0].Bolt11)
		require.NoError(t, err)
		require.Greater(t, own.Expiry, 10*time.Hour+10*time.Minute)

		f.bendWrap = func(_ *lspv1.WrapResponse, b *ln.Bolt11) { b.FinalCltvDelta = own.FinalCltvDelta + 60 }
		_, err = w.agent.Receive(t.Context(), r)
		require.ErrorContains(t, err, "no time to pay")
		r.Mode = agent.PayerPays
		_, err = w.agent.Receive(t.Context(), r)
		require.ErrorIs(t, err, errkind.Invalid)
	}
}
