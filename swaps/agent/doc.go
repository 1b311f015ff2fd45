// Package agent is the wallet's side of swaps in that open a channel: a wallet
// with only on-chain bitcoin deposits, and a gateway opens a channel and pays it
// there.
//
// It promises:
//   - before an address is shown, everything that a refund needs is durable in one
//     file, so that the file alone takes the deposit back, without lnd and without
//     this program's memory;
//   - the address is computed here, from keys that were drawn here: the gateway can
//     take the deposit only with the preimage, which lnd gives away for the whole
//     payment and nothing less, or with the wallet's internal key;
//   - that key is given away only once lnd says that the payment is settled;
//   - no refund is signed before the invoice is cancelled, so that nobody is both
//     paid and refunded; a signed one is stored, then published, and published again
//     until it is buried;
//   - what a swap costs is bounded before anything is agreed.
package agent
