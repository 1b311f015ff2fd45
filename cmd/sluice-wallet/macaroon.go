package main

import (
	"path/filepath"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// needed are the calls that the daemon makes of lnd, and nothing else: it can
// neither close channels, spend coins nor read preimages of others.
func needed() []string {
	return []string{
		"/lnrpc.Lightning/GetInfo",
		"/lnrpc.Lightning/SignMessage",
		"/lnrpc.Lightning/ChannelAcceptor",
		"/lnrpc.Lightning/ListChannels",
		"/lnrpc.Lightning/PendingChannels",
		"/lnrpc.Lightning/ListPeers",
		"/lnrpc.Lightning/ConnectPeer",
		"/lnrpc.Lightning/SubscribePeerEvents",
		"/lnrpc.Lightning/AddInvoice",
		"/invoicesrpc.Invoices/LookupInvoiceV2",
		"/invoicesrpc.Invoices/CancelInvoice",
		"/invoicesrpc.Invoices/SubscribeSingleInvoice",
	}
}

const payCall = "/routerrpc.Router/SendPaymentV2"

type macaroonCmd struct {
	Out string `type:"path" placeholder:"FILE" help:"The file to save it to, where it is not sluice-wallet.macaroon in the data directory."`
	Pay bool   `help:"Also allow paying invoices (for sluice-wallet pay). Whoever holds such a macaroon can spend the wallet's channels."`
}

// Run prints the line.
func (c *macaroonCmd) Run(w *world, g *Globals) error {
	out := c.Out
	if out == "" {
		out = filepath.Join(g.DataDir, macaroonFile)
	}
	calls := needed()
	if c.Pay {
		calls = append(calls, payCall)
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, map[string]any{"save_to": out, "uris": calls})
	}
	p := w.printer()
	rights := make([]string, 0, len(calls))
	for _, call := range calls {
		rights = append(rights, "uri:"+call)
	}
	p.Printf("%s\n", lnd.BakeCommand(out, rights))
	return p.Err
}
