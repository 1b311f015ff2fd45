// Package seal encrypts what a wallet backs up, on the wallet's machine.
//
// It promises that whoever lacks the user's secret learns nothing of what is
// sealed but its size (in steps of 4 KiB), and cannot make, change or swap
// anything that opens; that the secret is made of the seed by a computation for
// which the node's public keys do not suffice, or of a passphrase; and that
// everything needed to open a sealed file without this program is in
// docs/backups.md, with test vectors.
package seal
