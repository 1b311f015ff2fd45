// Package lsp is the pure domain of on-demand channels: what an offer costs
// and promises (opening_fee_params, bLIP-52), what a payment must bring, how
// large a channel must be, what one client and all clients together may ask
// for, and the words in which reasons are told.
//
// It promises exact integer arithmetic, no I/O, no clock and no randomness of
// its own: whoever calls passes them in. The flows that hold money are the
// state machines of its sub-packages: opening (one channel open), jit (the
// payer pays) and wrap (the receiver pays); funding chooses coins and builds
// the transaction.
package lsp
