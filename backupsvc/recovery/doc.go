// Package recovery decides for a wallet that keeps its backup at several
// providers and trusts none of them.
//
// It promises that a backup never replaces one that knows channels of which
// this node knows nothing; that a restore takes the newest version there is,
// and refuses when a newer one is known to exist or may exist at providers that
// did not answer; and that what it calls evidence convinces somebody who was
// not there.
//
// The package is pure: what providers and nodes said is given to it.
package recovery
