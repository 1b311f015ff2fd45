// Package refund is the state machine of one refund on chain: a transaction
// that spends the very coins that it returns, less its fee, to the address that
// their payer named.
//
// It promises:
//   - the signed bytes are stored before they are published, and sent with every
//     block until one is in a block;
//   - nothing is returned twice: every version of the transaction spends the
//     same coins, so that the chain takes one of them at most;
//   - one that lags is replaced by one that pays more, after a few blocks and at
//     the latest after six hours (bLIP-51);
//   - what is too little to be sent stays where it is, and the refund says so.
package refund
