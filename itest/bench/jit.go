package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

const (
	// maxRatio is the gate: Sluice's median against the bare program's.
	maxRatio = 1.15
	// jitAmountMsat is more than the headroom that an earlier channel has left.
	jitAmountMsat = 100_000_000
	// warmups are payments per arm that are not measured: lnd's first open is
	// slower than every other.
	warmups = 3
	// seenOpenToActiveMs is what stock lnd was seen to take elsewhere, to compare with.
	seenOpenToActiveMs = 103
)

// sample is one payment that opened its channel, by the clock of this machine.
type sample struct {
	sent, intercepted, pending, active, aliased, resumed, success time.Time

	// paymentID and hash find what sluiced wrote down; story is the rest of it.
	paymentID string
	hash      ln.Hash
	story     []*lspv1.StoryEvent
}

func runJit(ctx context.Context, b *bench) (_ result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 14*time.Minute)
	defer cancel()
	n, err := b.startNodes(ctx, devnet.GatewayArgs(), devnet.GatewayArgs())
	if err != nil {
		return nil, err
	}
	defer func() { err = b.finish(n, err) }()
	coins := b.payments + warmups + 10
	if err := n.Fund(ctx, devnet.Funding{Node: n.first, CoinSat: 2_000_000, Coins: coins},
		devnet.Funding{Node: n.second, CoinSat: 2_000_000, Coins: coins},
		devnet.Funding{Node: n.payer, CoinSat: 17_000_000, Coins: 2}); err != nil {
		return nil, err
	}
	if _, err := n.openAll(ctx, wish{n.payer, n.first, 16_000_000}, wish{n.payer, n.second, 16_000_000}); err != nil {
		return nil, err
	}
	s, err := startSluice(ctx, n.Net, n.first, n.receiver)
	if err != nil {
		return nil, err
	}
	defer s.hangUp()
	streams, stop := context.WithCancel(ctx)
	defer stop()
	acceptZeroConf(streams, s.wallet)
	program, err := startBare(streams, n.second)
	if err != nil {
		return nil, err
	}
	b.say("sluiced is attached to the first gateway, the bare program to the second")

	ours, theirs, err := jitRounds(ctx, b, n, s, program)
	if err != nil {
		return nil, err
	}
	if err := readRecords(ctx, s, ours); err != nil {
		return nil, err
	}
	return jitReport(b, ours, theirs)
}

// jitRounds pays by turns. The order within a pair alternates, so that neither
// arm always follows the other.
func jitRounds(ctx context.Context, b *bench, n *nodes, s *sluice, program *bare) (ours, theirs []sample, err error) {
	var capacity uint64
	arms := []func() error{
		func() error {
			one, agreed, err := paySluice(ctx, n, s)
			ours, capacity = append(ours, one), agreed
			return err
		},
		func() error {
			one, err := payBare(ctx, n, program, int64(capacity)) //nolint:gosec // a channel's capacity
			theirs = append(theirs, one)
			return err
		},
	}
	for i := range warmups + b.payments {
		if i == warmups {
			ours, theirs = nil, nil
		}
		for j := range arms {
			// Sluice goes first at first: it names the capacity for both.
			if err := arms[(i+j)%2](); err != nil {
				return nil, nil, fmt.Errorf("payment %d: %w", i+1, err)
			}
			// The next payment starts on quiet channels.
			if err := n.receiver.WaitNoHTLCs(ctx); err != nil {
				return nil, nil, err
			}
		}
		if done := i - warmups + 1; done > 0 && done%5 == 0 {
			last := len(ours) - 1
			b.say("%d of %d pairs; the last bare one took %.0f ms from intercept to success", done, b.payments,
				ms(theirs[last].success.Sub(theirs[last].intercepted)))
		}
	}
	return ours, theirs, nil
}

// pay sends and notes the payer's own two clock points.
func pay(ctx context.Context, payer *devnet.Node, bolt11 string, one *sample) error {
	payment, err := payer.Send(ctx, &routerrpc.SendPaymentRequest{
		PaymentRequest: bolt11, MaxParts: 1, TimeoutSeconds: 60, FeeLimitMsat: jitAmountMsat / 10,
	})
	one.success = time.Now()
	if err != nil {
		return err
	}
	if payment.Status != lnrpc.Payment_SUCCEEDED {
		return fmt.Errorf("the payment failed: %s", payment.FailureReason)
	}
	one.sent = time.Unix(0, payment.Htlcs[len(payment.Htlcs)-1].AttemptTimeNs)
	return nil
}

func paySluice(ctx context.Context, n *nodes, s *sluice) (sample, uint64, error) {
	secret, err := newSecret()
	if err != nil {
		return sample{}, 0, err
	}
	agreed, err := s.negotiate(ctx, secret.hash, jitAmountMsat)
	if err != nil {
		return sample{}, 0, err
	}
	scid, err := ln.ParseSCID(agreed.JitScid)
	if err != nil {
		return sample{}, 0, err
	}
	bolt11, err := invoice(ctx, n.receiver, secret, jitAmountMsat, hint{
		gateway: n.first.PubKey, scid: uint64(scid), baseMsat: agreed.HintBaseFeeMsat, ppm: agreed.HintFeePpm, cltvDelta: agreed.HintCltvDeltaBlocks,
	})
	if err != nil {
		return sample{}, 0, err
	}
	one := sample{paymentID: agreed.PaymentId, hash: secret.hash}
	err = pay(ctx, n.payer, bolt11, &one)
	return one, agreed.ChannelCapacitySat, err
}

func payBare(ctx context.Context, n *nodes, program *bare, capacity int64) (sample, error) {
	secret, err := newSecret()
	if err != nil {
		return sample{}, err
	}
	scid := ln.NewSCID(16_100_000+rand.Uint32N(100_000), rand.Uint32N(1<<24), uint16(rand.Uint32N(1<<16))) //nolint:gosec // no secret
	open, err := program.expect(uint64(scid), n.receiver.PubKey, capacity)
	if err != nil {
		return sample{}, err
	}
	bolt11, err := invoice(ctx, n.receiver, secret, jitAmountMsat, hint{gateway: n.second.PubKey, scid: uint64(scid), cltvDelta: 80})
	if err != nil {
		return sample{}, err
	}
	one := sample{hash: secret.hash}
	payErr := pay(ctx, n.payer, bolt11, &one)
	select {
	case err := <-program.failures:
		return one, err
	default:
	}
	if payErr != nil {
		return one, payErr
	}
	<-open.done
	one.intercepted, one.pending, one.active = open.intercepted, open.pending, open.active
	one.aliased, one.resumed = open.aliased, open.resumed
	return one, nil
}
