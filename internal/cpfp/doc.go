// Package cpfp hurries transactions of lnd's wallet by a child of their change (child
// pays for parent). lnd's BumpFee prices the child alone; this package computes what the
// child must pay so that a block takes it together with all that must confirm before it.
//
// It promises:
//
//   - what others of the gateway built on the change is seen: the child spends the last
//     free change of the chain and pays for all of the chain, and for what that spends,
//     where the wallet alone pays for it;
//   - nothing is asked of lnd that would conflict with what is being built on the
//     change, or that the wallet cannot say the price of;
//   - child and parents together reach the rate asked for, and are never priced above
//     the ceiling, except that the child by itself pays what nodes relay;
//   - the child never costs more than its budget: the change less dust, and no more
//     than the service allows. lnd's sweeper refuses a budget that leaves the rate no
//     room to rise, so it exceeds the fee wherever the limits let it, and the rate is
//     lowered where they do not.
package cpfp
