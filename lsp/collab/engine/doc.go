// Package engine runs joint fundings at the gateway: it feeds their machine with
// what lnd and the chain report, and carries out what it asks for.
//
// It promises that a wallet acts only for its own node key, that what it says of
// its coins is looked up in their blocks before a coin of ours is touched, that
// limits are summed in the transaction that makes an offer count, and that
// nothing is decided here that the machine has not stored.
package engine
