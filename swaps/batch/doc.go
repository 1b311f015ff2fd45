// Package batch decides which swaps share a transaction: claims of swaps in, and
// refunds of swaps out. Beside its own, each swap adds one input to it.
//
// It promises that a batch never endangers a deadline:
//
//   - it pays at least the rate that each of its members would pay alone, so that
//     none waits longer for a block than it would alone;
//   - nobody joins, and nobody is joined by, a member whose output is not buried: a
//     reorg that takes one output away would take everybody's transaction along;
//   - nobody joins whose deadline is nearer than the policy's JoinBlocks, and such a
//     member is joined by nobody. A companion can undo the transaction by spending its
//     own output in another way, once, and is left out of the next one, which comes
//     with the next block: so a batch of MaxMembers costs a member MaxMembers−1
//     blocks at the very most, and JoinBlocks is more than that and all that a refund
//     needs;
//   - who is in a transaction already stays with its companions: a replacement
//     without them would have to pay for them as well, and leave them with nothing;
//   - what is replaced is outbid by the rules of the network: more in all, and a
//     satoshi per vbyte more for itself.
package batch
