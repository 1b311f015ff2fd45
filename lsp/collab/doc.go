// Package collab is the state machine of a channel that both sides fund with
// one transaction, as the gateway sees it, written ahead: whatever cannot be
// undone is in the database before it is done.
//
// It promises:
//   - the unsigned transaction is stored before the wallet's node can hold a
//     commitment for it, the wallet's signature before ours is made, and the
//     complete transaction before it is published;
//   - the gateway signs last: until the complete transaction is stored no
//     signature of ours has left, and the open can be given up, its coins free;
//   - afterwards it is never given up: the same bytes are sent again until they
//     confirm, or until another spend of one of the inputs is buried. Only then
//     may the node forget the channel: the wallet holds nothing that it could
//     publish without us, and we hold all of it;
//   - the transaction is never replaced: another id would void both
//     commitments. It is hurried by a child of our own change. What takes its
//     place is another open that shares a coin, and neither forgets the other;
//   - leased coins end spent or released, in every state in which it ends.
//
// The machine never learns time or height by itself: events carry both.
package collab
