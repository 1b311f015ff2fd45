// Package funding chooses the coins of a channel's funding transaction, and builds it
// unsigned.
//
// It is pure: coins, rates, heights and randomness are passed in, the same
// input gives the same result, and amounts and weights are exact integers. It
// promises that a transaction it builds spends only the coins chosen, pays at
// least the rate asked at the transaction's largest possible weight, and keeps
// a change output as the handle for CPFP unless the caller declines one.
package funding
