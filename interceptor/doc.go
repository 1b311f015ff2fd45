// Package interceptor is the pure domain of the owner of lnd's HTLC
// interceptor: which offers are new, what was decided about each held HTLC,
// and whose HTLC it is.
//
// It promises:
//   - a Classifier that never lets an HTLC be failed after a RESUME could have
//     moved it, and never lets one be resumed that lnd no longer has
//     (classifier.go states the argument);
//   - a Row per held HTLC whose transitions are a table, where the same
//     decision again changes nothing and a different one is ErrDecided;
//   - a Chain of handlers and routes that finds an offer's handler with one
//     map look-up, whether or not the handler's process is there.
//
// The package has no I/O, no clock and no goroutine. interceptor/engine runs
// it; interceptor/stream speaks to lnd; interceptor/store keeps the rows.
package interceptor
