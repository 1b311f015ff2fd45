package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

const (
	swapOutSat = 500_000
	swapInSat  = 400_000
	swapLimit  = 2 * time.Minute

	// loopIn is how loop calls a swap in.
	loopIn = "LOOP_IN"
)

// swapSteps are played with the unmodified loopd beside the payer's lnd.
func (s *story) swapSteps() []step {
	return []step{
		{"The payer moves 500,000 sat from its channel to the chain with a stock loopd", swapLimit, func(ctx context.Context) (string, error) {
			var err error
			s.loopd, err = s.net.StartLoopd(ctx, s.net.Payer, s.services.sluiced.GRPC, s.services.sluiced.TLSCert)
			if err != nil {
				return "", err
			}
			return s.swap(ctx, swapOutSat, "out", "--force", "--fast")
		}},
		{"and 400,000 sat back from the chain into the channel", swapLimit, func(ctx context.Context) (string, error) {
			return s.swap(ctx, swapInSat, "in", "--force")
		}},
	}
}

// swap begins one and makes a block whenever nothing happens, until it is over.
func (s *story) swap(ctx context.Context, amountSat int64, args ...string) (string, error) {
	before, err := s.gatewaySat(ctx)
	if err != nil {
		return "", err
	}
	if _, err := s.loopd.Command(ctx, append(args, "--amt", strconv.FormatInt(amountSat, 10))...); err != nil {
		return "", err
	}
	blocks := 0
	for {
		over, err := s.swapOver(ctx)
		if err != nil {
			return "", err
		}
		if over != nil {
			after, err := s.gatewaySat(ctx)
			if err != nil {
				return "", err
			}
			if err := swapped(before, after, over, amountSat); err != nil {
				return "", err
			}
			return fmt.Sprintf("the gateway earned %s sat, the chain cost the payer %s sat; %d blocks", groupDigits(over.CostServer), groupDigits(over.CostOnchain), blocks), nil
		}
		blocks++
		if err := s.net.Mine(ctx, 1); err != nil {
			return "", err
		}
	}
}

// swapOver waits a moment for the newest swap's end.
func (s *story) swapOver(ctx context.Context) (over *devnet.LoopSwap, err error) {
	wait, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	err = devnet.WaitFor(wait, "the swap's end", func(ctx context.Context) (bool, error) {
		list, err := s.loopd.Swaps(ctx)
		if err != nil || len(list) == 0 {
			return false, nil //nolint:nilerr // asked again until the moment is over
		}
		if list[0].State == "SUCCESS" || list[0].State == "FAILED" {
			over = &list[0]
		}
		return over != nil, nil
	})
	switch {
	case over != nil && over.State == "FAILED":
		return nil, fmt.Errorf("the swap failed: %s", over.FailureReason)
	case over != nil || wait.Err() != nil:
		return over, ctx.Err()
	}
	return nil, err
}
