// Package gate keeps a guard's book and log in the tenant's directory, and asks its pure
// decisions.
//
// It promises that what a signature takes from the policy's limits is on the disk before
// the signer is asked; that pause, a changed policy and a new macaroon count from the
// next request on, without a restart; that a policy that cannot be read stops everything
// rather than nothing; and that a log with a hole in it is not started from.
package gate
