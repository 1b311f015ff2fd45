// Package hold is the state machine of one payment that waits for a wallet that is
// offline: its HTLCs are held by the interceptor, the wallet is woken, and when one of
// its channels is active the HTLCs are resumed; in time before a deadline they go back
// to the payer instead.
//
// It promises:
//   - the parts of a payment end alike: whatever decides one decides all, those that
//     come later included;
//   - nothing is resumed while the wallet has no active channel, and nothing is failed
//     after a part was resumed;
//   - what is held has a deadline in blocks and one by the clock;
//   - the wallet is woken at once, when more comes, and again while it does not come.
package hold
