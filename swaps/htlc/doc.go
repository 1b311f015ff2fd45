// Package htlc is the on-chain contract of a swap, version 3 of the Loop
// protocol: a taproot output with a MuSig2 key of both sides, a success leaf
// (the receiver with the preimage, one block deep) and a timeout leaf (the
// sender, after an absolute height).
//
// It promises:
//   - the output is the one that stock Loop clients compute, byte for byte;
//   - a partial signature is made over a hash that is computed here from the
//     whole transaction, with a fresh nonce that exists during one call only;
//   - keys come from lnd's seed (see Tweak) and are never stored.
//
// It reads no clock, no chain and no database. It does not decide whether to
// sign: package out says when a signature is due.
package htlc
