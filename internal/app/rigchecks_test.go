package app

import (
	"fmt"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// settle brings everything back and waits until nothing moves any more.
func (r *rig) settle() {
	r.t.Helper()
	r.w.OnRPC(nil)
	var why string
	for i := range 3000 {
		for _, n := range r.nodes() {
			require.NoError(r.t, n.Start())
		}
		r.w.Connect(r.payer, r.gateway)
		r.w.Connect(r.gateway, r.wallet)
		if why = r.moving(); why == "" {
			r.forgetGivenUp()
			return
		}
		if r.realTime {
			r.withdraw()
		}
		r.pause(r.step)
		if i%20 == 19 {
			r.w.Mine(1)
		}
	}
	r.t.Fatalf("it does not come to rest: %s\n%s", why, r.stories())
}

// withdraw has the operator end what nobody pays any more, where nobody waits minutes
// for it to expire.
func (r *rig) withdraw() {
	s := r.service.Load()
	if s == nil {
		return
	}
	open, err := s.operator.FindPayments(r.ctx, &lspv1.FindPaymentsRequest{OpenOnly: true})
	if err != nil {
		return
	}
	for _, p := range open.Payments {
		if p.State == "offered" || p.State == "invoice_made" {
			// Refused once money has come.
			_, _ = s.operator.WithdrawPayment(r.ctx, &lspv1.WithdrawPaymentRequest{PaymentId: p.PaymentId, Reason: "its test is over"})
		}
	}
}

// forgetGivenUp is what a wallet's agent does with channels that its gateway gave
// up: nothing is in them, and only it can have its node forget them.
func (r *rig) forgetGivenUp() {
	r.t.Helper()
	// A crash that is planned may come at this very moment.
	var payments *lspv1.ListPaymentsResponse
	var err error
	for range 500 {
		if s := r.service.Load(); s != nil {
			if payments, err = s.channels.ListPayments(r.asWallet(), &lspv1.ListPaymentsRequest{Limit: 500}); err == nil {
				break
			}
		}
		r.pause(r.step)
	}
	require.NoError(r.t, err)
	require.NotNil(r.t, payments, "sluiced is away")
	gone := make(map[string]bool)
	for _, p := range payments.Payments {
		for _, op := range p.GivenUpOutpoints {
			gone[op] = true
		}
	}
	open, err := r.ln(r.wallet).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(r.t, err)
	for _, c := range open.Channels {
		if !gone[c.ChannelPoint] {
			continue
		}
		require.Zero(r.t, c.LocalBalance, "a channel with money of the wallet's was given up\n%s", r.stories())
		require.Empty(r.t, c.PendingHtlcs)
		op, err := ln.ParseOutpoint(c.ChannelPoint)
		require.NoError(r.t, err)
		// A strike may have just taken the wallet's lnd.
		for range 500 {
			if err = r.walletClient.AbandonChannel(r.ctx, op); err == nil {
				break
			}
			r.pause(r.step)
		}
		require.NoError(r.t, err)
	}
}

// moving names something that is not at rest.
func (r *rig) moving() string {
	for _, n := range r.nodes() {
		if v := r.w.Wealth(n).InFlightMsat; v != 0 {
			return fmt.Sprintf("%s has %d msat in flight", n.Name(), v)
		}
	}
	if len(r.w.Mempool()) > 0 {
		return "transactions are unconfirmed"
	}
	s := r.service.Load()
	if s == nil {
		return "sluiced is away"
	}
	payments, err := s.operator.FindPayments(r.ctx, &lspv1.FindPaymentsRequest{OpenOnly: true})
	if err != nil {
		return err.Error()
	}
	for _, p := range payments.Payments {
		return fmt.Sprintf("payment %s is %s", p.PaymentId, p.State)
	}
	opens, err := s.operator.ListOpenings(r.ctx, &lspv1.ListOpeningsRequest{OpenOnly: true})
	if err != nil {
		return err.Error()
	}
	for _, o := range opens.Openings {
		return fmt.Sprintf("opening %s is %s (%s)", o.OpeningId, o.State, o.Reason)
	}
	if r.restored.Load() {
		return ""
	}
	// Coins are released after the state that lets go of them is stored. (An older
	// copy may not know the open whose they are; then they stay leased for a day.)
	leases, err := walletrpc.NewWalletKitClient(r.conns[r.gateway]).ListLeases(r.ctx, &walletrpc.ListLeasesRequest{})
	if err != nil {
		return err.Error()
	}
	for _, l := range leases.LockedUtxos {
		return fmt.Sprintf("coin %s is leased", l.Outpoint)
	}
	return ""
}

// stories is everything that happened, for people.
func (r *rig) stories() string {
	s := r.service.Load()
	if s == nil {
		return "sluiced is away"
	}
	payments, err := s.operator.FindPayments(r.ctx, &lspv1.FindPaymentsRequest{})
	if err != nil {
		return err.Error()
	}
	out := ""
	for _, p := range payments.Payments {
		shown, err := s.operator.ShowPayment(r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: p.PaymentId})
		if err != nil {
			return err.Error()
		}
		out += fmt.Sprintf("payment %s: %s (%s)\n", p.PaymentId, p.State, p.Reason)
		for _, e := range shown.Story {
			out += fmt.Sprintf("  %s\n", e)
		}
	}
	return out
}

// check holds the run against what must be true after every day, good or bad.
func (r *rig) check(a agreement, m *lnrpc.Payment) {
	t := r.t
	t.Helper()
	s := r.service.Load()
	require.NotNil(t, s)
	require.NoError(t, r.w.Err())
	paid := m.Status == lnrpc.Payment_SUCCEEDED
	spent := r.before[r.payer] - r.w.Wealth(r.payer).TotalMsat()
	got := r.w.Wealth(r.wallet).TotalMsat() - r.before[r.wallet]
	if r.closed && got == 330_000 {
		got = 0 // its anchor on chain, which the gateway paid
	}
	if paid {
		require.Equal(t, m.ValueMsat+m.FeeMsat, spent, "what the payer spent\n%s", r.stories())
		require.Equal(t, a.walletMsat, got, "what the wallet got\n%s", r.stories())
		require.GreaterOrEqual(t, spent, a.payerMsat, "the payer owes the fee agreed")
		// The hint's rate is rounded up to a part per million.
		require.LessOrEqual(t, spent, a.payerMsat+a.walletMsat/1_000_000+1, "the payer owes no more than the fee agreed")
	} else {
		require.Zero(t, spent, "a payer who was refunded lost money\n%s", r.stories())
		require.Zero(t, got, "a payer who was refunded paid all the same\n%s", r.stories())
	}
	payments, err := s.operator.FindPayments(r.ctx, &lspv1.FindPaymentsRequest{Limit: 500})
	require.NoError(t, err)
	for _, p := range payments.Payments {
		done := p.State == "paid" || p.State == "settled"
		require.Equal(t, p.PaymentId == a.id && paid, done, "payment %s is %s, the payer saw %s\n%s", p.PaymentId, p.State, m.Status, r.stories())
		if !done {
			require.NotEmpty(t, p.Reason, "payment %s ended %s without a reason", p.PaymentId, p.State)
		}
		shown, err := s.operator.ShowPayment(r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: p.PaymentId})
		require.NoError(t, err)
		channels := 0
		for _, o := range shown.Openings {
			require.True(t, o.Terminal)
			if o.State == "buried" {
				channels++
			} else {
				require.NotEmpty(t, o.Reason, "opening %s ended %s without a reason", o.OpeningId, o.State)
			}
		}
		require.LessOrEqual(t, channels, 1, "channels for one payment\n%s", r.stories())
	}
	require.LessOrEqual(t, r.channels(), r.channelsBefore+1, "channels of the wallet\n%s", r.stories())
	leases, err := walletrpc.NewWalletKitClient(r.conns[r.gateway]).ListLeases(r.ctx, &walletrpc.ListLeasesRequest{})
	require.NoError(t, err)
	require.Empty(t, leases.LockedUtxos, "leases left over\n%s", r.stories())
	books := r.reconcile()
	require.True(t, books.Balanced, "the books: %s\n%s", books, r.stories())
	holdsNothing(t, books)
	for _, l := range books.Lines {
		if l.Account == "trial balance" {
			require.Zero(t, l.BooksMsat, "trial balance")
		}
	}
	status, err := s.operator.GetStatus(r.ctx, &lspv1.GetStatusRequest{})
	require.NoError(t, err)
	require.EqualValues(t, spent-got, status.FeesEarnedMsat, "fees in the books")
	earned := r.w.Wealth(r.gateway).TotalMsat() - r.before[r.gateway]
	if r.closed {
		require.Less(t, earned, spent-got-int64(status.ChainFeesMsat))
		return
	}
	require.Equal(t, spent-got-int64(status.ChainFeesMsat), earned, "the gateway earns the fees less what the chain took\n%s", r.stories())
}

// channels counts what the gateway and the wallet have with each other,
// pending or open.
func (r *rig) channels() int {
	r.t.Helper()
	open, err := r.ln(r.wallet).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(r.t, err)
	pending, err := r.ln(r.gateway).PendingChannels(r.ctx, &lnrpc.PendingChannelsRequest{})
	require.NoError(r.t, err)
	return len(open.Channels) + len(pending.PendingOpenChannels)
}
