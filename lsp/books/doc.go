// Package books decides how lnd's own records of channels and of on-chain
// transactions are booked. It promises that every entry follows from something
// that lnd lists, that nothing is booked to make a sum fit, and that what the
// records do not explain stays a difference that a person can see. It does no
// I/O.
//
// The value of a channel is what its account and those of its names hold. Its
// opener owns all that is not the other side's: commitment fee and anchors come
// out of the opener's balance.
package books
