package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

// HoldsCmd lists payments that wait for wallets that are offline.
type HoldsCmd struct{}

// Run implements the command.
func (HoldsCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, lwsv1.NewHoldsOperatorServiceClient(s.conn).ListHolds, &lwsv1.ListHoldsRequest{})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		facts := cli.NewTable("", "")
		facts.Row("Registered", fmt.Sprintf("%s wallets", cli.Group(uint64(got.GetRegistered()))))
		facts.Row("Waiting", fmt.Sprintf("%d payments", len(got.GetWaiting())))
		p.Table(facts)
		if len(got.GetWaiting()) == 0 {
			return p.Err
		}
		p.Printf("\n")
		t := cli.NewTable("WALLET", "HASH", "BY", ">AMOUNT", ">HTLCS", "STATE", "SINCE", "UNTIL", ">BLOCKS LEFT", ">WOKEN", "LAST WAKE")
		for _, h := range got.GetWaiting() {
			last := "-"
			if h.GetLastWakeMs() != 0 {
				last = time.UnixMilli(h.GetLastWakeMs()).UTC().Format(time.TimeOnly) + ": " + cli.Clean(strings.Join(append([]string{h.GetLastWake()}, h.GetWebhooks()...), "; "))
			}
			t.Row(cli.ShortHex(h.GetClient()), cli.ShortHex(h.GetPaymentHash()), cli.Words(h.GetKind()), cli.MsatAsSat(h.GetAmountMsat()), fmt.Sprint(h.GetHtlcs()),
				cli.Words(h.GetState()), cli.Ago(h.GetSinceMs(), w.now()), time.UnixMilli(h.GetUntilMs()).UTC().Format(time.DateTime),
				fmt.Sprint(h.GetBlocksLeft()), fmt.Sprint(h.GetWakes()), last)
		}
		p.Table(t)
		return p.Err
	})
}
