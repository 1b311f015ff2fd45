// Package agent is the wallet's side of holds: it registers a wallet's node at the
// gateways that its user chose, learns what waits there, and makes invoices whose payments
// can wait long.
//
// It promises:
//   - nothing is registered unless the user asked for it, and nothing that another
//     machine of the same node asked for is ended by one that was asked nothing;
//   - a wallet that was restored from its seed hears what waits, and of each payment
//     whether its node can take it;
//   - an invoice is shown only once the gateway knows how long its payment may wait, and
//     lnd's own is good for as long as that.
package agent
