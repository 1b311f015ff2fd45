// Package in is the state machine of a swap in (Loop In): the client locks the
// amount on chain to its own hash, the gateway pays the client's invoice and
// takes the output with the preimage.
//
// It promises:
//   - the client's wallet is probed before it is told an address, with a hash
//     that follows from the swap's, so that nobody can know the probe's preimage;
//   - nothing is paid for an output that is not alone, exact, and as deep as the
//     amount asks for; never unconfirmed; and while the sum that a short reorg
//     could take is at its cap, only for a deep one;
//   - that the payment may be in flight is stored before it is sent, and only the
//     node's terminal word ends that;
//   - a payment is sent only if it must be resolved a margin before the client
//     could take the output back;
//   - the preimage is stored before it is used; the output is claimed until its
//     spend is buried, dearer as the expiry comes nearer.
//
// Said plainly: an output that a reorg undoes after it was paid for can be lost.
package in
