// Package lsps1 is bLIP-51, channel requests, as messages: what
// lsps1.get_info, create_order and get_order take and give, what an order may
// ask for, and the errors that the spec has for refusals.
//
// It promises:
//   - an order that does not fit the options is refused with the option's name,
//     a parameter that cannot be with its own;
//   - what is answered is computed from the order's state alone;
//   - it is pure: no I/O, no clock, no randomness.
package lsps1
