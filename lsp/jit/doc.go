// Package jit is the state machine of "the payer pays": a payment to a fake
// SCID is held, a channel is opened for it (or one with room is found), the
// SCID is mapped to it as an alias, and the HTLCs are resumed in full; the
// opening fee is what the route hint made the payer add.
//
// It promises:
//   - parts of one payment share one fate: they are resumed together once the
//     set is complete and checked, or refused together; never more than the
//     agreed amount is handed on (what becomes of the rest is told at Step);
//   - a part that was resumed is never failed; when lnd offers it again it is
//     resumed again;
//   - at most one channel is opened per payment: while an open's fate is not
//     known, and once its channel exists, no other is begun;
//   - where the client trusts the gateway with the funding (client_trusts_lsp),
//     nothing is published before a part was claimed, and then at once; if all
//     parts come back the channel is given up, and nothing more is handed on over it;
//   - unknown_next_peer (made by resuming an unmapped SCID, law 6) is asked for
//     only while the SCID has never been mapped;
//   - every ending carries a reason that operator and client can read.
package jit
