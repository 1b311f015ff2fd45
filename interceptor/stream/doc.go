// Package stream speaks lnd's HtlcInterceptor (routerrpc) itself.
//
// It promises, for each Session:
//   - lnd accepted it: lnd acknowledges nothing, so a second stream is opened
//     beside the first and must be refused while the first one lives;
//   - a reader that only enqueues: lnd runs one loop for all forwarding, and a
//     client that stops reading stalls it;
//   - one writer, and each answer checked before it is sent: an outstanding
//     key, the latest offer of it, a preimage that opens its hash, nothing but
//     SETTLE for an HTLC on chain. An answer that lnd does not expect would end
//     the stream;
//   - each offer answered at most once.
package stream
