package main

import (
	"fmt"
	"strings"
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
	Out string `default:"sluice-wallet.macaroon" help:"The file to save it to."`
	Pay bool   `help:"Also allow paying invoices (for sluice-wallet pay). Whoever holds such a macaroon can spend the wallet's channels."`
}

// Run prints the line.
func (c *macaroonCmd) Run() error {
	calls := needed()
	if c.Pay {
		calls = append(calls, payCall)
	}
	fmt.Printf("lncli bakemacaroon --save_to %s \\\n  uri:%s\n", c.Out, strings.Join(calls, " \\\n  uri:"))
	return nil
}
