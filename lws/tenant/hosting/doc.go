// Package hosting decides when a tenant's hosted node is started, drained and stopped,
// and sums up how its signer does.
//
// It promises that a node which died with its signer is not started into a signer that
// is still away, and ever more slowly when it keeps dying; that a draining node is
// stopped when it has no HTLC and never before, however long that takes; and that what
// was seen of a signer ages out within a day.
package hosting
