// Package batch is the state machine of one funding transaction for several
// channels whose orders can wait. Each channel keeps the machine of its own open
// (lsp/opening); a batch decides who shares a transaction, builds it and has it
// signed.
//
// It promises:
//   - coins are chosen, and the transaction is built, once lnd has named the output
//     of every channel that is still in it: who is away, refuses or says nothing
//     until then is left out, and costs the others that wait and nothing else;
//   - the unsigned transaction is stored before any peer's lnd can hold a commitment
//     for it, and peers get it one after the other: one that keeps its signature
//     back costs those before it a channel that is never funded, not those after it.
//     Clients that have never paid for a channel come first;
//   - it is signed only when the peer's commitment signature is there for every
//     channel, and then the signed bytes are stored for all of its channels in one
//     transaction of the database, or for none;
//   - before that it can be given up at any time: its coins are free, and whoever is
//     not the cause loses no try. After it the batch is over, and each channel's
//     open publishes, watches and hurries the one transaction as its own.
//
// The machine never learns time or height by itself: events carry both.
package batch
