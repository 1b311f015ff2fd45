// Package order is the state machine of one channel that a client buys
// outright (bLIP-51): it is paid for first, with a held invoice or on the
// chain, then the channel is opened, then its lease runs.
//
// It promises:
//   - a held invoice is settled once the funding transaction is published, and
//     cancelled when there will be none; an open that is being given up is over
//     before the payment goes back, so that nobody has both;
//   - what arrives at the order's address and does not pay for the channel goes
//     back to the client's address: too little, too much, twice, too late. A
//     refund spends the very coins that it returns, so none is returned twice;
//   - an on-chain payment that a reorg takes away before the funding was signed
//     stops the open; afterwards it is watched until it is back or buried;
//   - no channel is closed before its lease is over, and then only if the
//     operator wants it;
//   - what a client is shown (order_state, payment.state) is computed from the
//     state and never stored.
//
// The machine never learns time or height by itself: events carry both.
package order
