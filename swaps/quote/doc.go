// Package quote prices swaps.
//
// It promises that a price depends on the amount, the class of publication and
// a fee rate only, that every step is checked for overflow, and that a price
// asked for again within the firm time is never higher than the one given
// before: a stock client refuses a swap that costs one satoshi more than its
// quote.
package quote
