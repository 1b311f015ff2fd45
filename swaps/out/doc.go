// Package out is the state machine of a swap out (Loop Out): the client pays a
// hold invoice on a hash of its own and a prepay, the gateway locks the amount
// on chain to the same hash, the client reveals the preimage by taking it.
//
// It promises:
//   - nothing is signed before both payments are held by the node, over channels
//     that are themselves safe and for long enough;
//   - the signed funding transaction is stored before the prepay is settled, and
//     only then published: the same bytes for ever, never another transaction;
//   - the preimage is stored before it is used, and the client's key-path
//     signature is due only once the hold invoice is settled with it;
//   - a refund is signed only at the expiry height, while the preimage is
//     unknown and the invoice unsettled. A preimage that is pushed once a refund
//     may be public is refused, and one that a spend shows then is used once that
//     spend is buried: whoever got both would rob the client;
//   - the hold invoice is cancelled only while no HTLC output can exist, or once
//     the refund is buried.
//
// The machine learns time and height from events only.
package out
