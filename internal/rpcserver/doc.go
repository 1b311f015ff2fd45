// Package rpcserver serves every service over gRPC and REST with one set of
// rules: TLS always, each method guarded by its service's permissions, errors
// mapped once, sizes, rates and connections bounded.
//
// gRPC and REST have a port each, with the same certificate. One port for both
// would mean serving gRPC through net/http, which gives up gRPC's own
// keepalive and flow control, or guessing the protocol from the first bytes of
// an encrypted stream; two ports need neither. REST calls pass through an
// in-memory connection to the gRPC server, so that there is one guard, not
// two.
//
// It promises that a method without permissions stops the start; that no
// caller ever reads the text of an internal error; that a panic in a handler
// ends the call, not the process; and that the admin endpoint (metrics,
// readiness, and profiling if asked for) is reachable from this machine only.
package rpcserver
