// Package opening is the state machine of one channel open through lnd's PSBT
// shim, written ahead: whatever the gateway is about to do that cannot be
// undone is in the database before it is done.
//
// It promises:
//   - the unsigned transaction is stored before the peer's lnd can hold a
//     commitment for it (psbt_verify), and the signed one before it is
//     published, so that the same bytes can be sent again for ever;
//   - before a signed transaction is stored an open may be abandoned and its
//     coins given back; afterwards it never is: it is rebroadcast until it
//     confirms or until a conflicting spend is buried;
//   - leased coins end spent or released, in every state in which it ends;
//   - an owner is told of "usable" only when the funding transaction has been
//     handed to the network and the channel is active (and, without zero-conf,
//     has the confirmations asked for); or, where the client trusts the gateway
//     with it, when the transaction is stored, the channel is active, and the
//     owner knows that nothing funds it yet. From the owner's Release on, and once
//     the client has money in it, such a channel is never abandoned either.
//
// The machine never learns time or height by itself: events carry both.
package opening
