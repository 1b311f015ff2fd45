// Package guard decides what a tenant's signer signs for the host of its watch-only node.
//
// lnd's signer signs what it is given, so whoever has the host has the money. The guard
// stands before the signer, at the tenant's side, and reads each request.
//
// It promises, against a host that sends whatever it likes:
//   - what it does not understand to the last field is refused;
//   - of the wallet's coins no more leaves to addresses that are not the tenant's than the
//     policy allows, for a transaction and for any 24 hours, whatever the host claims about
//     amounts, however it divides a transaction into requests, and across restarts;
//   - messages are signed where lnd itself needs it, and no message can be a transaction's
//     digest or another protocol's login;
//   - no request gives the host a private key.
//
// It does not promise that money in channels stays: a payment and a theft are the same
// requests. docs/tenant.md says so to the tenant.
//
// Pure: whoever calls it keeps the book durable before a request goes on to the signer.
package guard
