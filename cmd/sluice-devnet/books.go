package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// booksStep ends the story: whatever happened, the books tell it to the sat.
func (s *story) booksStep() step {
	return step{"The operator compares the books with lnd: sluicectl reconcile", paymentLimit, func(ctx context.Context) (string, error) {
		if _, err := s.settled(ctx); err != nil {
			return "", err
		}
		said, err := s.services.sluiced.WaitBooks(ctx)
		if err != nil {
			return "", err
		}
		indented := strings.ReplaceAll(strings.TrimSpace(said), "\n", "\n    ")
		return strings.ReplaceAll(indented, "\n    \n", "\n\n"), nil
	}}
}

// shares are what each node has in channels, in msat. A node that pays for a
// channel's commitment has less by that fee, which changes.
type shares map[string]int64

// moves are by how much shares have to change.
type moves map[string]int64

// settled waits until no payment is in any node's commitments, and tells what
// each has: a payer knows of its success a moment before that.
func (s *story) settled(ctx context.Context) (shares, error) {
	out := shares{}
	for _, node := range s.net.Nodes() {
		if err := node.WaitNoHTLCs(ctx); err != nil {
			return nil, err
		}
	}
	for _, node := range s.net.Nodes() {
		b, err := node.Balances(ctx)
		if err != nil {
			return nil, err
		}
		out[node.Name] = int64(b.LocalMsat) //nolint:gosec // bounded by all bitcoin
	}
	return out, nil
}

func (s shares) moved(after shares, want moves) error {
	var wrong []error
	for _, name := range []string{"payer", "gateway", "wallet"} {
		if got := after[name] - s[name]; got != want[name] {
			wrong = append(wrong, fmt.Errorf("%s msat were to come to the %s in channels, and %s came", groupDigits(want[name]), name, groupDigits(got)))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the payment did not go as the story tells it: %w", errors.Join(wrong...))
	}
	return nil
}

// gatewaySat is the gateway's side of the payer's channel. The payer pays for the
// commitment, so nothing but payments changes it.
func (s *story) gatewaySat(ctx context.Context) (int64, error) {
	if err := errors.Join(s.net.Payer.WaitNoHTLCs(ctx), s.net.Gateway.WaitNoHTLCs(ctx)); err != nil {
		return 0, err
	}
	c, err := s.net.Gateway.FindChannel(ctx, s.net.PayerChannel.Point)
	switch {
	case err != nil:
		return 0, err
	case c == nil:
		return 0, errors.New("the payer's channel to the gateway is gone")
	}
	return c.LocalBalance, nil
}

// swapped checks what a swap has moved over the payer's channel.
func swapped(before, after int64, over *devnet.LoopSwap, amountSat int64) error {
	want := amountSat + over.CostServer
	if over.Type == loopIn {
		want = over.CostServer - amountSat
	}
	if after-before != want || over.Amount != amountSat {
		return fmt.Errorf("the swap did not go as the story tells it: %s sat for %s sat of fees, and the gateway's side of the channel changed by %s",
			groupDigits(over.Amount), groupDigits(over.CostServer), groupDigits(after-before))
	}
	return nil
}
