// Package engine runs the gateway's side of on-demand channels: it feeds the
// pure machines of lsp/opening, lsp/jit and lsp/wrap with what lnd and the
// interceptor report, and carries out what they ask for.
//
// It promises:
//   - it decides nothing about money: every decision is a stored transition of
//     a machine, and only stored effects reach lnd;
//   - whatever it keeps in memory (peers, active channels, which payment a SCID
//     belongs to) is rebuilt from lnd and the database after a start or a
//     broken stream, before anything relies on it;
//   - books are posted in the transaction of the transition that they record;
//   - it imports no other service: the interceptor is reached through ports
//     that internal/app fulfils, in process or over gRPC.
package engine
