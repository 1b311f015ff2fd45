package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
)

// wish is a payment to the wallet, and how it has to go.
type wish struct {
	what string // for the table
	sat  int64
	// payerPays the opening fee, on top; otherwise the wallet gets less by it.
	payerPays bool
	// opens a channel of its own. Otherwise there is one, and it takes that.
	opens bool
}

// holdings are what the wallet has in channels, and the chain's tip.
type holdings struct {
	tip      int64
	msat     uint64
	channels map[string]int64 // sat, by channel point
}

// received is what the story can tell of a payment.
type received struct {
	payerSat, onTopMsat int64 // as the payer's lnd says
	feeMsat             int64 // as the wallet was told before
	before, after       holdings
}

// receive has the wallet make an invoice with sluice-wallet and the payer pay
// it with its stock lnd. The money arrives before any block.
func (s *story) receive(ctx context.Context, w wish) (string, error) {
	before, err := s.walletHoldings(ctx)
	if err != nil {
		return "", err
	}
	args := []string{"receive", "--json", strconv.FormatInt(w.sat, 10)}
	if w.payerPays {
		args = append(args, "--payer-pays")
	}
	out, err := s.services.wallet.Command(ctx, args...)
	if err != nil {
		return "", err
	}
	var invoice struct {
		Bolt11  string `json:"bolt11"`
		FeeMsat int64  `json:"fee_msat,string"`
	}
	if err := json.Unmarshal(out, &invoice); err != nil {
		return "", fmt.Errorf("what `sluice-wallet receive --json` printed: %w", err)
	}
	begin := time.Now()
	payment, err := s.net.Payer.Pay(ctx, invoice.Bolt11)
	if err != nil {
		return "", err
	}
	took := time.Since(begin).Round(time.Millisecond)
	if payment.Status != lnrpc.Payment_SUCCEEDED {
		return "", fmt.Errorf("the payment failed: %s", payment.FailureReason)
	}
	if err := s.net.Wallet.WaitNoHTLCs(ctx); err != nil {
		return "", err
	}
	after, err := s.walletHoldings(ctx)
	if err != nil {
		return "", err
	}
	got := received{payerSat: payment.ValueSat, onTopMsat: payment.FeeMsat, feeMsat: invoice.FeeMsat, before: before, after: after}
	if err := w.check(got); err != nil {
		return "", err
	}
	channel := "the same"
	if w.opens {
		channel = "opened by this payment"
	}
	s.payments = append(s.payments, paid{
		what: w.what, payerSat: got.payerSat, arrived: got.arrivedMsat() / 1000, feeMsat: got.feeMsat,
		routeMsat: got.onTopMsat, took: took, channel: channel,
	})
	return fmt.Sprintf("paid in %s; %s sat arrived; %s; channel: %s, the wallet has %d; blocks mined: none, the tip is still %d",
		took, groupDigits(got.arrivedMsat()/1000), w.fee(got), channel, len(after.channels), after.tip), nil
}

func (s *story) walletHoldings(ctx context.Context) (h holdings, err error) {
	if h.tip, err = s.net.Miner().Height(ctx); err != nil {
		return h, fmt.Errorf("the chain's tip: %w", err)
	}
	list, err := s.net.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	if err != nil {
		return h, fmt.Errorf("the wallet's channels: %w", err)
	}
	h.channels = make(map[string]int64, len(list.Channels))
	for _, c := range list.Channels {
		h.channels[c.ChannelPoint] = c.LocalBalance
	}
	balances, err := s.net.Wallet.Balances(ctx)
	h.msat = balances.LocalMsat
	return h, err
}

func (r received) arrivedMsat() int64 { return int64(r.after.msat) - int64(r.before.msat) } //nolint:gosec // bounded by all bitcoin

// fee says who paid what for the opening.
func (w wish) fee(r received) string {
	switch {
	case r.feeMsat == 0:
		return "no fee"
	case w.payerPays:
		return "the payer paid the opening fee of " + groupDigits(r.feeMsat) + " msat on top"
	default:
		return "the opening fee of " + groupDigits(r.feeMsat) + " msat was taken out of it"
	}
}

// check compares what happened with what the step's title says.
func (w wish) check(r received) error {
	var wrong []error
	differs := func(what string, want, got int64) {
		if want != got {
			wrong = append(wrong, fmt.Errorf("%s: want %s, got %s", what, groupDigits(want), groupDigits(got)))
		}
	}
	if w.opens != (r.feeMsat > 0) {
		wrong = append(wrong, fmt.Errorf("opening fee: %s msat, and a channel to open: %t", groupDigits(r.feeMsat), w.opens))
	}
	onTop, off := r.feeMsat, int64(0)
	if !w.payerPays {
		onTop, off = 0, r.feeMsat
	}
	differs("sat that the payer sent to the wallet", w.sat, r.payerSat)
	differs("msat that the payer paid on top", onTop, r.onTopMsat)
	differs("msat that arrived", w.sat*1000-off, r.arrivedMsat())
	differs("the chain's tip, as no block is needed", r.before.tip, r.after.tip)

	channels := len(r.before.channels)
	if w.opens {
		channels++
	}
	differs("the wallet's channels", int64(channels), int64(len(r.after.channels)))
	for _, point := range slices.Sorted(maps.Keys(r.before.channels)) {
		sat, still := r.after.channels[point]
		switch {
		case !still:
			wrong = append(wrong, fmt.Errorf("channel %s is gone", point))
		case w.opens && sat != r.before.channels[point]:
			wrong = append(wrong, fmt.Errorf("the money was to come over the channel that it opened, and %s sat came over channel %s", groupDigits(sat-r.before.channels[point]), point))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the payment did not go as the story tells it: %w", errors.Join(wrong...))
	}
	return nil
}
