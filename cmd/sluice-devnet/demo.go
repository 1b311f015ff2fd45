package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/lightningnetwork/lnd/lnrpc"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

type demoCmd struct {
	Keep bool `help:"Leave the network's directory behind at the end, for reading logs."`
}

func (c *demoCmd) Help() string {
	return `Each step prints what happened and how long it took. The demo ends with a table of
channels and balances, exit status 0, and no process or file left behind.`
}

func (c *demoCmd) Run(e *env) (err error) {
	show := newSteps(e.stdout)
	var s *devnet.Standard
	defer func() {
		if s == nil {
			return
		}
		if err != nil && e.ctx.Err() == nil {
			s.Keep()
			fmt.Fprintf(e.stdout, "logs are kept in %s/logs\n", s.Dir())
		}
		err = errors.Join(err, s.Close())
	}()

	err = show.run(e.ctx, startLimit, "Start btcd, a gateway, a payer and a wallet",
		func(ctx context.Context) (_ string, err error) {
			config := e.config(zap.NewNop())
			config.KeepDir = c.Keep
			s, err = devnet.StartStandardNet(ctx, devnet.StandardConfig{Net: config})
			if err != nil {
				return "", err
			}
			return "three unpatched lnds; the payer has a channel to the gateway, the wallet has none", nil
		})
	if err != nil {
		return err
	}
	for _, step := range demoSteps(s) {
		if err := show.run(e.ctx, step.limit, step.name, step.run); err != nil {
			return err
		}
	}
	return showBalances(e.ctx, e.stdout, s)
}

// demoSteps is the story that the demo plays on a running network.
func demoSteps(s *devnet.Standard) []step {
	return []step{
		{
			name: "The payer pays the gateway over their channel", limit: paymentLimit,
			run: func(ctx context.Context) (string, error) {
				invoice, err := s.Gateway.Invoice(ctx, 100_000_000)
				if err != nil {
					return "", err
				}
				payment, err := s.Payer.Pay(ctx, invoice.PaymentRequest)
				if err != nil {
					return "", err
				}
				if payment.Status != lnrpc.Payment_SUCCEEDED {
					return "", fmt.Errorf("the payment failed: %s", payment.FailureReason)
				}
				return fmt.Sprintf("%s sat arrived, fee %d msat", groupDigits(payment.ValueSat), payment.FeeMsat), nil
			},
		},
	}
}
