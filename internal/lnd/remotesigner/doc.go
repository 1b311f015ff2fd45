// Package remotesigner speaks to the lnd at the other end of a watch-only node: the
// signer, as its tenant sets it up, as its host asks it, and the node that is made
// watch-only.
//
// It promises that a signer is believed by its pinned certificate alone; that asking
// what a macaroon allows does nothing; and that a macaroon is read without the
// network, as its issuer wrote it.
package remotesigner
