package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

type demoCmd struct {
	Keep   bool `help:"Leave the network's directory behind at the end, for reading logs."`
	Tenant bool `help:"Add a tenant with its keys at home: a signer behind a guard, and a watch-only node."`
}

func (c *demoCmd) Help() string {
	return `Each step prints what happened and how long it took. The demo ends with tables of
payments, channels and balances, exit status 0, and no process or file left behind.`
}

func (c *demoCmd) Run(e *env) (err error) {
	show := newSteps(e.stdout)
	story := &story{out: e.stdout}
	defer func() {
		if story.net == nil {
			return
		}
		if err != nil && e.ctx.Err() == nil {
			story.net.Keep()
			fmt.Fprintf(e.stdout, "logs are kept in %s/logs\n", story.net.Dir())
		}
		err = errors.Join(err, story.net.Close())
	}()
	begin := time.Now()
	steps := append(story.steps(e.config(zap.NewNop()), c.Keep), story.swapSteps()...)
	if c.Tenant {
		steps = append(steps, story.tenantSteps()...)
	}
	steps = append(steps, story.booksStep())
	for _, step := range steps {
		if err := show.run(e.ctx, step.limit, step.name, step.run); err != nil {
			return err
		}
	}
	if err := story.paymentTable(e.ctx); err != nil {
		return err
	}
	if err := showBalances(e.ctx, e.stdout, story.net); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "\nThe main job, played on real nodes in %s.\n", time.Since(begin).Round(time.Second))
	return nil
}

// story is the main job, played through the commands that people use.
type story struct {
	out      io.Writer
	net      *devnet.Standard
	services *services
	loopd    *devnet.Loopd
	payments []paid
}

// paid is one payment of the story, for the table at its end.
type paid struct {
	what               string
	payerSat, arrived  int64
	feeMsat, routeMsat int64
	took               time.Duration
	channel            string
}

func (s *story) steps(config devnet.Config, keep bool) []step {
	config.KeepDir = keep
	return []step{
		{"Start btcd and three unpatched lnds: a gateway, a payer and a wallet", startLimit, func(ctx context.Context) (string, error) {
			net, err := devnet.StartStandardNet(ctx, devnet.StandardConfig{Net: config})
			if err != nil {
				return "", err
			}
			s.net = net
			return "the payer has a channel to the gateway, the wallet has none", nil
		}},
		{"Attach sluiced to the gateway and sluice-wallet to the wallet", startLimit, func(ctx context.Context) (string, error) {
			ours, err := startServices(ctx, s.net, "")
			if err != nil {
				return "", err
			}
			s.services = ours
			return "macaroons of least rights; the wallet has logged in with its node key", nil
		}},
		{"The wallet, without a channel, is paid 100,000 sat: the payer pays the opening fee", paymentLimit, func(ctx context.Context) (string, error) {
			return s.receive(ctx, wish{what: "first payment", sat: 100_000, payerPays: true, opens: true})
		}},
		{"A second payment over the same channel", paymentLimit, func(ctx context.Context) (string, error) {
			return s.receive(ctx, wish{what: "same channel", sat: 7_000})
		}},
		{"A payment larger than the inbound liquidity opens another channel, the receiver pays", paymentLimit, func(ctx context.Context) (string, error) {
			return s.receive(ctx, wish{what: "second channel", sat: 400_000, opens: true})
		}},
		{"Blocks confirm both channels", paymentLimit, func(ctx context.Context) (string, error) {
			if err := s.net.Mine(ctx, depth); err != nil {
				return "", err
			}
			return s.confirmed(ctx)
		}},
		{"The wallet pays 50,000 sat back out", paymentLimit, s.payBack},
	}
}

const (
	// depth is how many blocks the story mines at once.
	depth = 6
	// opened is how many channels its payments open.
	opened  = 2
	backSat = 50_000
)

func (s *story) confirmed(ctx context.Context) (string, error) {
	err := devnet.WaitFor(ctx, "the channels to confirm", func(ctx context.Context) (bool, error) {
		list, err := s.net.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
		if err != nil {
			return false, err
		}
		confirmed := 0
		for _, c := range list.Channels {
			if c.ZeroConfConfirmedScid != 0 {
				confirmed++
			}
		}
		if len(list.Channels) != opened || confirmed != opened {
			return false, fmt.Errorf("of the %d channels that the payments opened the wallet has %d, of which %d are confirmed", opened, len(list.Channels), confirmed)
		}
		return true, nil
	})
	return fmt.Sprintf("%d channels that were in use unconfirmed are now %d blocks deep", opened, depth), err
}

func (s *story) payBack(ctx context.Context) (string, error) {
	invoice, err := s.net.Payer.Invoice(ctx, backSat*1000)
	if err != nil {
		return "", err
	}
	// A node learns the terms of a fresh channel a second after it is active.
	list, err := s.net.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	if err != nil {
		return "", err
	}
	route := []uint64{s.net.PayerChannel.ChanID}
	for _, c := range list.Channels {
		route = append(route, c.ChanId)
	}
	for _, id := range route {
		if err := s.net.Wallet.WaitPolicies(ctx, id); err != nil {
			return "", err
		}
	}
	before, err := s.settled(ctx)
	if err != nil {
		return "", err
	}
	begin := time.Now()
	payment, err := s.net.Wallet.Pay(ctx, invoice.PaymentRequest)
	if err != nil {
		return "", err
	}
	took := time.Since(begin).Round(time.Millisecond)
	if payment.Status != lnrpc.Payment_SUCCEEDED {
		return "", fmt.Errorf("the payment failed: %s", payment.FailureReason)
	}
	after, err := s.settled(ctx)
	if err != nil {
		return "", err
	}
	if err := before.moved(after, moves{"payer": backSat * 1000, "gateway": 0, "wallet": -backSat * 1000}); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s sat arrived in %s, routing fee %d msat", groupDigits(backSat), took, payment.FeeMsat), nil
}

func (s *story) paymentTable(_ context.Context) error {
	fmt.Fprintln(s.out)
	table := tabwriter.NewWriter(s.out, 2, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "payment\tinvoice sat\tarrived sat\tpaid on top msat\topening fee msat\ttook\tchannel\t")
	for _, p := range s.payments {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", p.what, groupDigits(p.payerSat), groupDigits(p.arrived),
			groupDigits(p.routeMsat), groupDigits(p.feeMsat), p.took, p.channel)
	}
	return table.Flush()
}
