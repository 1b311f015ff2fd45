// Package agent is the wallet's side of on-demand channels: it runs beside a
// wallet's own stock lnd, keeps it connected to the LSPs that the user chose,
// answers channel proposals, and agrees on payments to receive.
//
// It promises:
//   - zero-conf channels are accepted from configured LSPs and nobody else,
//     within the user's bounds, and answered from memory;
//   - no invoice is shown before what the LSP answered was checked against what
//     its own menu promised: fee, route hint, CLTV, hash, network, expiry;
//   - every invoice carries an explicit route hint or is the LSP's own: lnd
//     alone leaves the hint out for a second after a channel opened, and longer
//     after a disconnect;
//   - it says that going offline is safe only once no HTLC is in flight;
//   - preimages stay with lnd: they are made here, handed over once, and never
//     stored, logged or sent to an LSP.
//
// Decisions (Policy, Rank, CheckNegotiated, CheckWrapped) are pure. Agent joins
// them with lnd and the LSPs through ports; Control serves it to the command
// line over a unix socket.
package agent
