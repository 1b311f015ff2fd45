// Package gate keeps a guard's book and log in the tenant's directory, and asks its pure
// decisions.
//
// It promises that what a signature takes from the policy's limits is on the disk before
// the signer is asked; that pause, a changed policy and a new macaroon count from the
// next request on, without a restart; that a policy that cannot be read stops everything
// rather than nothing; that a log with a hole in it is not started from; and that the last
// state of each channel that the signer signed can be read from the disk afterwards.
package gate
