package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

const paymentLimit = time.Minute

// step is one part of the demo. run says in a few words what happened.
type step struct {
	name  string
	limit time.Duration
	run   func(context.Context) (string, error)
}

// steps numbers and times the parts of the demo as they run.
type steps struct {
	out   io.Writer
	count int
}

func newSteps(out io.Writer) *steps { return &steps{out: out} }

// run does one step within its limit and prints what happened and how long it took.
func (s *steps) run(ctx context.Context, limit time.Duration, name string, do func(context.Context) (string, error)) error {
	s.count++
	fmt.Fprintf(s.out, "%2d. %s\n", s.count, name)
	limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the step took longer than %s", limit))
	defer cancel()

	begin := time.Now()
	happened, err := do(limited)
	took := time.Since(begin).Round(time.Millisecond)
	if err != nil {
		if ctx.Err() != nil {
			return errors.Join(context.Canceled, err)
		}
		fmt.Fprintf(s.out, "    failed after %s\n", took)
		return fmt.Errorf("step %d, %q: %w", s.count, name, err)
	}
	fmt.Fprintf(s.out, "    %s  (%s)\n", happened, took)
	return nil
}

// showBalances prints the balances once every payment has left the channels'
// commitments: a payer knows of its success a moment earlier.
func showBalances(ctx context.Context, out io.Writer, s *devnet.Standard) error {
	ctx, cancel := context.WithTimeout(ctx, paymentLimit)
	defer cancel()
	for _, node := range s.Nodes() {
		if err := node.WaitNoHTLCs(ctx); err != nil {
			return err
		}
	}
	return balanceTable(ctx, out, s.Nodes())
}

// balanceTable prints every channel, once per end, and what each node owns.
func balanceTable(ctx context.Context, out io.Writer, nodes []*devnet.Node) error {
	names := map[string]string{}
	for _, node := range nodes {
		names[node.PubKey] = node.Name
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 2, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "node\tpeer\tcapacity sat\tlocal sat\tremote sat\tstate\t")
	for _, node := range nodes {
		channels, err := node.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
		if err != nil {
			return fmt.Errorf("%s: %w", node.Name, err)
		}
		for _, c := range channels.Channels {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t\n", node.Name, names[c.RemotePubkey],
				groupDigits(c.Capacity), groupDigits(c.LocalBalance), groupDigits(c.RemoteBalance), channelState(c))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}

	fmt.Fprintln(out)
	table = tabwriter.NewWriter(out, 2, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "node\tin channels msat\tin flight msat\ton chain sat\t")
	for _, node := range nodes {
		b, err := node.Balances(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t\n", node.Name, groupDigits(int64(b.LocalMsat)),
			groupDigits(int64(b.UnsettledInMsat+b.UnsettledOutMsat)),
			groupDigits(b.WalletConfirmedSat+b.WalletUnconfirmedSat))
	}
	return table.Flush()
}

func channelState(c *lnrpc.Channel) string {
	state := "active"
	if !c.Active {
		state = "inactive"
	}
	if c.ZeroConf && c.ZeroConfConfirmedScid == 0 {
		state += ", zero-conf"
	}
	return state
}

// groupDigits writes 1234567 as 1,234,567.
func groupDigits(n int64) string {
	text := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, text = "-", text[1:]
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return sign + text
}
