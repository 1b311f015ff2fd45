// Package vault decides what the backup service stores: ciphertext under keys
// with versions, for each identity by itself.
//
// It promises that a write happens entirely or not at all, and only where every
// version it names is the present one; that it never grows an identity beyond
// its quota; that what was stored is described by a log whose running hash
// makes any change of the past visible; and that what the server signs (receipts
// and heads) is enough to show others that it went back, lost or forked a log.
//
// The package is pure: time, keys and the present state are given to it.
package vault
