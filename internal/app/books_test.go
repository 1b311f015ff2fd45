package app

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// bookDay is a day in the life of a gateway whose books are held against lnd
// after everything that happens.
type bookDay struct {
	*rig
	rng  *rand.Rand
	done []string
	// held are payments that wait at the wallet for its settlement.
	held []heldPayment
}

type heldPayment struct {
	preimage ln.Preimage
	paid     <-chan *lnrpc.Payment
}

// TestBooksFollowEverything plays random days: payments of each kind, channels
// opened on demand, by hand and by others, closed in every way with and without
// HTLCs, transactions replaced, double-spent and thrown out of the chain, and
// sluiced dying at commits. After each step the books must equal lnd's to the
// sat, and in the end to the msat what the gateway really owns.
func TestBooksFollowEverything(t *testing.T) {
	base := drawnSeed(t)
	for i := range runs(24) {
		s := base + uint64(i)
		t.Run(fmt.Sprintf("seed-%d", s), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(t *testing.T) { playBookDay(t, s, false) })
		})
	}
}

// TestBooksFollowEverythingOnPostgres is the same on the other database, in
// real time.
func TestBooksFollowEverythingOnPostgres(t *testing.T) {
	base := drawnSeed(t)
	for i := range max(1, runs(0)/20) {
		s := base + uint64(i)
		t.Run(fmt.Sprintf("seed-%d", s), func(t *testing.T) { playBookDay(t, s, true) })
	}
}

func playBookDay(t *testing.T, seed uint64, postgres bool) {
	t.Helper()
	d := &bookDay{rng: rand.New(rand.NewPCG(seed, 0xb00c))}
	d.rig = newRig(t, rigConfig{seed: seed, job: jobs()[0], postgres: postgres})
	defer func() {
		if t.Failed() {
			t.Logf("%s\nagain: SLUICE_SEED=%d SLUICE_RUNS=1 go test -run %s", strings.Join(d.done, "\n"), seed, t.Name())
		}
	}()
	_, err := d.wallet.Fund(3_000_000)
	require.NoError(t, err)
	// Issued coins are below any reorganisation.
	d.w.Mine(6)
	d.up()
	d.exact("at the start")
	steps := []struct {
		name string
		do   func() error
	}{
		{"payer pays on demand", d.payOnDemand(0)},
		{"receiver pays on demand", d.payOnDemand(1)},
		{"open by hand", d.openByHand},
		{"open to the gateway", d.openToGateway},
		{"pay from the gateway", d.payFromGateway},
		{"pay to the gateway", d.payToGateway},
		{"forward", d.forward},
		{"hold", d.hold},
		{"hold a payment of the gateway's own", d.holdOwn},
		{"settle what is held", d.settleHeld},
		{"close cooperatively", func() error { return d.close(false) }},
		{"force close", func() error { return d.close(true) }},
		{"breach", d.breach},
		{"send", d.send},
		{"be paid on chain", d.bePaid},
		{"replace", func() error { return d.replace(false) }},
		{"double-spend", func() error { return d.replace(true) }},
		{"drop from the mempool", d.drop},
		{"reorganise", d.reorganise},
		{"a block", func() error { d.w.Mine(1); return nil }},
		{"some blocks", func() error { d.w.Mine(1 + d.rng.IntN(6)); return nil }},
		{"many blocks", func() error { d.w.Mine(150); return nil }},
		{"sluiced dies", func() error { d.killProcess(); return nil }},
	}
	for range 24 {
		step := steps[d.rng.IntN(len(steps))]
		err := step.do()
		d.done = append(d.done, fmt.Sprintf("%s (%v)", step.name, err))
		d.pause(3 * d.step)
		if d.rng.IntN(3) == 0 {
			d.crashWhileReconciling()
		}
		d.exact(step.name)
	}
	d.atRest()
}

// exact demands that the books equal lnd's, and that nothing is unexplained. A
// payment may still be ending: that is waited for, briefly, and then with blocks,
// for it may end in a channel whose close no block has.
func (d *bookDay) exact(after string) *lspv1.ReconcileResponse {
	d.t.Helper()
	var got *lspv1.ReconcileResponse
	var err error
	for i := range 60 {
		if i > 30 && i%3 == 0 {
			d.w.Mine(1)
		}
		d.calm()
		s := d.service.Load()
		if s == nil {
			continue
		}
		if got, err = s.operator.Reconcile(d.ctx, &lspv1.ReconcileRequest{}); err == nil && got.Balanced && len(got.Details) == 0 {
			break
		}
		d.pause(d.step)
	}
	require.NoError(d.t, err, "after %s", after)
	require.True(d.t, got.Balanced, "after %s: %s\n%s", after, lines(got), strings.Join(d.done, "\n"))
	require.Empty(d.t, got.Details, "after %s: %s\n%s", after, lines(got), strings.Join(d.done, "\n"))
	for _, l := range got.Lines {
		if l.Account == "onchain" || l.Account == "trial balance" {
			require.Zero(d.t, l.DifferenceMsat, "after %s: %s", after, lines(got))
		}
	}
	require.NoError(d.t, d.w.Err())
	return got
}

func lines(r *lspv1.ReconcileResponse) string {
	out := ""
	for _, l := range r.GetLines() {
		out += fmt.Sprintf("\n  %s: books %d lnd %d (%s)", l.Account, l.BooksMsat, l.LndMsat, l.Note)
	}
	for _, x := range r.GetDetails() {
		out += fmt.Sprintf("\n    %s %s: books %d lnd %d (%s)", x.Account, x.Reference, x.BooksMsat, x.LndMsat, x.Note)
	}
	return out
}

// crashWhileReconciling lets sluiced die at one of the next commits, which are
// the reconciliation's or a payment's.
func (d *bookDay) crashWhileReconciling() {
	d.up()
	d.crashAt(int64(1+d.rng.IntN(5)), storetest.Point(d.rng.IntN(2)))
	if s := d.service.Load(); s != nil {
		_, err := s.operator.Reconcile(d.ctx, &lspv1.ReconcileRequest{})
		d.done = append(d.done, fmt.Sprintf("reconcile, with a crash (%v)", err))
	}
}

// atRest brings everything home and compares the books with the truth.
func (d *bookDay) atRest() *lspv1.ReconcileResponse {
	d.t.Helper()
	for len(d.held) > 0 {
		_ = d.settleHeld()
	}
	// A wallet that saw a payment to it taken back by its payer shows it until
	// lnd starts again.
	require.NoError(d.t, d.gateway.Restart())
	d.pause(3 * d.step)
	var got *lspv1.ReconcileResponse
	for range 6 {
		d.w.Mine(150)
		d.pause(3 * d.step)
		got = d.exact("the end")
	}
	sums := map[string]int64{}
	for _, l := range got.Lines {
		sums[l.Account] = l.BooksMsat
	}
	truth := d.w.Wealth(d.gateway)
	require.Zero(d.t, sums["closing"], lines(got))
	require.Zero(d.t, sums["held"], lines(got))
	require.Equal(d.t, truth.OnChainMsat, sums["onchain"], "the wallet")
	require.Equal(d.t, truth.ChannelMsat+truth.InFlightMsat, sums["channels"], "the channels, to the msat: %s", lines(got))
	return got
}

func (d *bookDay) payOnDemand(kind int) func() error {
	return func() error {
		d.job = jobs()[kind]
		d.job.amountSat = 20_000 + d.rng.Int64N(80_000)
		d.up()
		for range 5 {
			a, err := d.ask()
			if err != nil {
				d.pause(d.step)
				continue
			}
			m := d.outcome(d.pay(a.bolt11))
			if m.Status != lnrpc.Payment_SUCCEEDED {
				return errors.New(m.FailureReason.String())
			}
			return nil
		}
		return errors.New("no agreement")
	}
}

func (d *bookDay) openByHand() error {
	req := &lnrpc.OpenChannelRequest{
		NodePubkey: d.walletKey[:], LocalFundingAmount: 100_000 + d.rng.Int64N(200_000), SatPerVbyte: 2, SpendUnconfirmed: true,
		CommitmentType: lnrpc.CommitmentType_ANCHORS, Private: d.rng.IntN(2) == 0,
	}
	if d.rng.IntN(2) == 0 {
		req.PushSat = d.rng.Int64N(50_000)
	}
	if req.Private && d.rng.IntN(2) == 0 {
		req.ZeroConf = true
	}
	_, err := d.ln(d.gateway).OpenChannelSync(d.ctx, req)
	return err
}

func (d *bookDay) openToGateway() error {
	key, err := hex.DecodeString(d.gateway.PubKey())
	require.NoError(d.t, err)
	_, err = d.ln(d.payer).OpenChannelSync(d.ctx, &lnrpc.OpenChannelRequest{
		NodePubkey: key, LocalFundingAmount: 500_000 + d.rng.Int64N(500_000), PushSat: d.rng.Int64N(100_000), SatPerVbyte: 2,
		CommitmentType: lnrpc.CommitmentType_ANCHORS,
	})
	return err
}

// anyMsat is an amount with a fraction of a satoshi: what commitments round.
func (d *bookDay) anyMsat() int64 { return 1_000_000 + d.rng.Int64N(9_000_000) }

func (d *bookDay) payFrom(n *lndfake.Node, bolt11 string) error {
	stream, err := routerrpc.NewRouterClient(d.conns[n]).SendPaymentV2(d.ctx, &routerrpc.SendPaymentRequest{
		PaymentRequest: bolt11, TimeoutSeconds: 10, NoInflightUpdates: true, FeeLimitMsat: 10_000_000, MaxParts: 4,
	})
	if err != nil {
		return err
	}
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	if m.Status != lnrpc.Payment_SUCCEEDED {
		return errors.New(m.FailureReason.String())
	}
	return nil
}

func (d *bookDay) payFromGateway() error {
	to := []*lndfake.Node{d.payer, d.wallet}[d.rng.IntN(2)]
	inv, err := d.ln(to).AddInvoice(d.ctx, &lnrpc.Invoice{ValueMsat: d.anyMsat(), Private: true})
	if err != nil {
		return err
	}
	return d.payFrom(d.gateway, inv.PaymentRequest)
}

func (d *bookDay) payToGateway() error {
	from := []*lndfake.Node{d.payer, d.wallet}[d.rng.IntN(2)]
	inv, err := d.ln(d.gateway).AddInvoice(d.ctx, &lnrpc.Invoice{ValueMsat: d.anyMsat(), Private: true})
	if err != nil {
		return err
	}
	return d.payFrom(from, inv.PaymentRequest)
}

func (d *bookDay) forward() error {
	d.up()
	inv, err := d.ln(d.wallet).AddInvoice(d.ctx, &lnrpc.Invoice{ValueMsat: d.anyMsat(), Private: true})
	if err != nil {
		return err
	}
	return d.payFrom(d.payer, inv.PaymentRequest)
}

// hold is a payment through the gateway that the wallet keeps waiting.
func (d *bookDay) hold() error {
	d.up()
	return d.holdFrom(func(bolt11 string) <-chan *lnrpc.Payment { return d.pay(bolt11) })
}

// holdOwn is a payment of the gateway's own that the wallet keeps waiting,
// while later ones go on.
func (d *bookDay) holdOwn() error {
	return d.holdFrom(func(bolt11 string) <-chan *lnrpc.Payment {
		d.running.Go(func() { _ = d.payFrom(d.gateway, bolt11) })
		return nil
	})
}

func (d *bookDay) holdFrom(pay func(bolt11 string) <-chan *lnrpc.Payment) error {
	var h heldPayment
	for i := range h.preimage {
		h.preimage[i] = byte(d.rng.Uint32())
	}
	hash := h.preimage.Hash()
	inv, err := invoicesrpc.NewInvoicesClient(d.conns[d.wallet]).AddHoldInvoice(d.ctx, &invoicesrpc.AddHoldInvoiceRequest{
		Hash: hash[:], ValueMsat: d.anyMsat(), Private: true, CltvExpiry: 80, Expiry: 3600,
	})
	if err != nil {
		return err
	}
	h.paid = pay(inv.PaymentRequest)
	d.held = append(d.held, h)
	return nil
}

func (d *bookDay) settleHeld() error {
	if len(d.held) == 0 {
		return errors.New("nothing is held")
	}
	h := d.held[0]
	d.held = d.held[1:]
	_, err := invoicesrpc.NewInvoicesClient(d.conns[d.wallet]).SettleInvoice(d.ctx, &invoicesrpc.SettleInvoiceMsg{Preimage: h.preimage[:]})
	return err
}

// pick is a random channel of the gateway's, and the node at its other end.
func (d *bookDay) pick() (string, *lndfake.Node, error) {
	list, err := d.ln(d.gateway).ListChannels(d.ctx, &lnrpc.ListChannelsRequest{})
	if err != nil {
		return "", nil, err
	}
	if len(list.Channels) == 0 {
		return "", nil, errors.New("no channels")
	}
	ch := list.Channels[d.rng.IntN(len(list.Channels))]
	if ch.RemotePubkey == d.wallet.PubKey() {
		return ch.ChannelPoint, d.wallet, nil
	}
	// The last channel with the payer stays, so that payments go on.
	payers := 0
	for _, c := range list.Channels {
		if c.RemotePubkey == d.payer.PubKey() {
			payers++
		}
	}
	if payers < 2 {
		return "", nil, errors.New("the only channel with the payer")
	}
	return ch.ChannelPoint, d.payer, nil
}

func (d *bookDay) close(force bool) error {
	point, peer, err := d.pick()
	if err != nil {
		return err
	}
	by := d.gateway
	if d.rng.IntN(2) == 0 {
		by = peer
	}
	if force {
		return d.w.ForceClose(by, point)
	}
	op, err := ln.ParseOutpoint(point)
	require.NoError(d.t, err)
	s, err := d.ln(by).CloseChannel(d.ctx, &lnrpc.CloseChannelRequest{
		ChannelPoint: &lnrpc.ChannelPoint{FundingTxid: &lnrpc.ChannelPoint_FundingTxidBytes{FundingTxidBytes: op.TxID[:]}, OutputIndex: op.Index},
		NoWait:       true, SatPerVbyte: 2,
	})
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

func (d *bookDay) breach() error {
	point, peer, err := d.pick()
	if err != nil {
		return err
	}
	if err := d.w.Breach(peer, point); err != nil {
		return err
	}
	// lnd lists the channel nowhere until it has taken everything back.
	d.w.Mine(8)
	d.pause(d.step)
	return nil
}

func (d *bookDay) address(n *lndfake.Node) string {
	a, err := d.ln(n).NewAddress(d.ctx, &lnrpc.NewAddressRequest{})
	require.NoError(d.t, err)
	return a.Address
}

func (d *bookDay) send() error {
	_, err := d.ln(d.gateway).SendCoins(d.ctx, &lnrpc.SendCoinsRequest{
		Addr: d.address(d.payer), Amount: 10_000 + d.rng.Int64N(100_000), SatPerVbyte: 2, SpendUnconfirmed: true, Label: "by hand",
	})
	return err
}

func (d *bookDay) bePaid() error {
	_, err := d.ln(d.payer).SendCoins(d.ctx, &lnrpc.SendCoinsRequest{
		Addr: d.address(d.gateway), Amount: 10_000 + d.rng.Int64N(100_000), SatPerVbyte: 2, SpendUnconfirmed: true,
	})
	return err
}

// replace bumps an unconfirmed transaction of the gateway's wallet or of the
// payer's, or takes it back.
func (d *bookDay) replace(takeBack bool) error {
	last := errors.New("nothing to replace")
	for _, tx := range d.w.Mempool() {
		for _, n := range []*lndfake.Node{d.gateway, d.payer} {
			if _, err := d.w.ReplaceTx(n, tx.TxHash(), 500+d.rng.Int64N(1000), takeBack); err == nil {
				return nil
			} else {
				last = err
			}
		}
	}
	return last
}

func (d *bookDay) drop() error {
	pool := d.w.Mempool()
	if len(pool) == 0 {
		return errors.New("the mempool is empty")
	}
	d.w.DropFromMempool(pool[d.rng.IntN(len(pool))].TxHash())
	return nil
}

func (d *bookDay) reorganise() error {
	d.w.Reorg(1+d.rng.IntN(2), d.rng.IntN(2) == 0)
	return nil
}

// TestBooksOpenAtFirstStart: what happens between the first start and the first
// reconciliation is in the books.
func TestBooksOpenAtFirstStart(t *testing.T) {
	virtual(t, func(t *testing.T) {
		d := &bookDay{rng: rand.New(rand.NewPCG(1, 2))}
		d.rig = newRig(t, rigConfig{seed: 1, job: jobs()[0]})
		d.up()
		before := d.w.Wealth(d.gateway)
		require.NoError(t, d.send())
		require.NoError(t, d.payToGateway())
		require.NoError(t, d.payOnDemand(0)())
		d.w.Mine(6)
		d.pause(time.Second)
		d.exact("the first look")
		require.NotEqual(t, before, d.w.Wealth(d.gateway))
		d.atRest()
	})
}

// TestBooksSurviveACrashAtEveryCommit: whatever commit of a reconciliation
// sluiced dies at, the next one ends with the truth. The days differ: which
// channel carries what is chance.
func TestBooksSurviveACrashAtEveryCommit(t *testing.T) {
	virtual(t, func(t *testing.T) {
		require.Greater(t, busyBooks(t, 0, 0), int64(3))
		for n := int64(1); ; n++ {
			before := busyBooks(t, n, storetest.BeforeCommit)
			after := busyBooks(t, n, storetest.AfterCommit)
			if before < n && after < n {
				t.Logf("crashed at each of %d commits", n-1)
				return
			}
		}
	})
}

// busyBooks lets a bit of everything happen and then reconciles, dying at the
// n-th commit, and holds the books against the truth. It returns how many
// commits the reconciliation took.
func busyBooks(t *testing.T, n int64, point storetest.Point) int64 {
	t.Helper()
	d := &bookDay{rng: rand.New(rand.NewPCG(5, 5))}
	d.rig = newRig(t, rigConfig{seed: 5, job: jobs()[0]})
	defer d.rig.cancel()
	d.w.Mine(6)
	d.up()
	require.NoError(t, d.payOnDemand(0)())
	d.w.Mine(6)
	require.NoError(t, d.openToGateway())
	d.w.Mine(6)
	d.pause(d.step)
	require.NoError(t, d.forward())
	require.NoError(t, d.payToGateway())
	require.NoError(t, d.payFromGateway())
	require.NoError(t, d.hold())
	require.NoError(t, d.holdOwn())
	d.pause(d.step)
	require.NoError(t, d.payFromGateway())
	require.NoError(t, d.close(true))
	require.NoError(t, d.send())
	require.NoError(t, d.replace(false))
	d.w.Mine(1)
	require.NoError(t, d.send())
	// Everything else must have come to rest: commits are counted.
	d.pause(20 * d.step)
	before := d.faults.Commits()
	if n > 0 {
		d.crashAt(n, point)
	}
	starts := d.starts.Load()
	_, err := d.service.Load().operator.Reconcile(d.ctx, &lspv1.ReconcileRequest{})
	commits := d.faults.Commits() - before
	crashes := n > 0 && commits >= n
	require.Equal(t, crashes, err != nil, "the crash must come, and only then: %v", err)
	if crashes {
		for range 100 {
			d.pause(d.step)
		}
		require.Greater(t, d.starts.Load(), starts)
	}
	d.exact("the reconciliation after")
	require.NoError(t, d.settleHeld())
	d.atRest()
	return commits
}

// TestBooksOfClosesWithHTLCs plays a channel that goes on chain with a payment
// in it: the incoming or the outgoing channel, closed by either side, the HTLC
// claimed or timed out.
func TestBooksOfClosesWithHTLCs(t *testing.T) {
	for _, outgoing := range []bool{true, false} {
		for _, byGateway := range []bool{true, false} {
			for _, settles := range []bool{true, false} {
				name := fmt.Sprintf("outgoing=%t/by-gateway=%t/settles=%t", outgoing, byGateway, settles)
				t.Run(name, func(t *testing.T) {
					virtual(t, func(t *testing.T) { closeWithHTLC(t, outgoing, byGateway, settles) })
				})
			}
		}
	}
}

func closeWithHTLC(t *testing.T, outgoing, byGateway, settles bool) {
	t.Helper()
	d := &bookDay{rng: rand.New(rand.NewPCG(3, 3))}
	j := jobs()[0]
	j.channelSat = 500_000
	d.rig = newRig(t, rigConfig{seed: 3, job: j, latency: lndfake.Observed()})
	_, err := d.wallet.Fund(1_000_000)
	require.NoError(t, err)
	d.w.Mine(6)
	d.up()
	d.exact("the start")
	// The wallet needs the gateway's policy for its hint.
	d.pause(5 * time.Second)
	require.NoError(t, d.hold())
	held := d.held[0]
	d.pause(5 * time.Second)
	require.NotZero(t, d.w.Wealth(d.gateway).InFlightMsat, "the HTLC must be on its way")
	d.exact("a payment that waits")
	by, peer := d.gateway, d.payer
	if outgoing {
		peer = d.wallet
	}
	if !byGateway {
		by = peer
	}
	list, err := d.ln(d.gateway).ListChannels(d.ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(t, err)
	for _, c := range list.Channels {
		if c.RemotePubkey == peer.PubKey() {
			require.NoError(t, d.w.ForceClose(by, c.ChannelPoint))
		}
	}
	d.exact("the close")
	if settles {
		require.NoError(t, d.settleHeld())
	}
	d.held = nil
	for i := range 60 {
		d.w.Mine(6)
		d.pause(d.step)
		if i%6 == 0 {
			d.exact("some blocks")
		}
	}
	got := d.atRest()
	m := d.outcome(held.paid)
	require.Equal(t, settles, m.Status == lnrpc.Payment_SUCCEEDED, m.FailureReason)
	require.Empty(t, got.Details)
}
