// Package lnd is the one adapter to lnd's gRPC interface. It speaks domain
// types of package ln outward and raw lnrpc inward.
//
// It promises: amounts keep their unit and are range-checked on the way in and
// out; every error is mapped once, here, to the sentinels of package ln, so
// that no other package reads lnd's texts; a call whose outcome is unknown
// (connection lost, deadline passed) is ln.ErrUnavailable and never looks like
// a refusal; a preimage never appears in an error.
//
// Subscriptions block until their context ends or lnd ends the stream, and
// return why; whoever needs one again calls again and then re-reads the state,
// because lnd's streams have no replay.
//
// The package speaks raw stubs over one connection rather than lndclient's
// typed wrapper: the services need fields the wrapper drops (pending HTLCs
// with their circuits, alias lists, PSBT shims with no_publish, unlabelled
// units in the acceptor), and two ways of speaking to lnd in one place would
// be one too many. The HTLC interceptor's stream is interceptor/stream's.
package lnd
