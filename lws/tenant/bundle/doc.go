// Package bundle is the one file that a tenant gives to its gateway to have a
// watch-only node run for it: how the gateway reaches the tenant's signer, what the
// signer lets it do, and the public keys of its wallet.
//
// It promises that nothing private is in a bundle, neither when one is made nor when one
// is read; that a bundle opens with the operator's key alone; that one that was cut
// short, altered, made for another key, tenant or network is refused, each with a
// sentence of its own; and that reading one needs bounded time and memory, whatever is
// in it. It does no I/O. The format is in docs/tenant.md, with test vectors beside this
// package.
//
// It cannot promise who made a bundle: the operator's key is public. So a bundle has a
// fingerprint, which tenant and operator compare over another way.
package bundle
