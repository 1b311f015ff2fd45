// Package auth decides who may call: it verifies macaroons, lets Lightning
// nodes log in by signing a challenge, guards every gRPC method by a table,
// and limits rates.
//
// It promises that a method without an entry in its service's table is
// refused; that a caller's identity comes only from caveats whose chain of
// MACs verified; that a signed challenge is good once, at the server that it
// names, until it expires; that what unauthenticated callers can make the
// server remember is bounded; and that secrets are compared in constant time.
//
// Operators hold a macaroon file that the daemon writes at its first start.
// Wallets and tenants sign with lnd's SignMessage; the signature is checked
// here, without a call to lnd.
package auth
