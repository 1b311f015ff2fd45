// Package lsps2 is bLIP-52, JIT channel negotiation, as messages and
// arithmetic: what lsps2.get_info and lsps2.buy take and give, the errors that
// the spec has for refusals, and how the opening fee is taken out of the parts
// of a payment.
//
// It promises:
//   - an opening_fee_params that is written has exactly the spec's fields, and
//     one that is read back names the same promise however its client wrote the
//     instant of valid_until;
//   - as a client it takes no menu that the spec lets an LSP not send;
//   - it is pure: no I/O, no clock, no randomness.
package lsps2
