// Package onboard decides whether a tenant's signer is fit for a watch-only node, before
// anything is done that cannot be undone. Stock lnd checks almost none of it: a wrong
// seed, an admin macaroon or missing accounts start up happily and fail later.
//
// It promises ten checks by name, each with an exit code of its own and, when it fails,
// the command that the tenant runs next; that no check changes anything at the signer
// or leaves anything there; and that what a signer says is believed only where it
// proves it. It asks the signer through an interface and does no I/O itself.
package onboard
