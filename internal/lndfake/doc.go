// Package lndfake is a fake of stock lnd v0.21.2 and of a bitcoin chain with reorgs, spoken to by gRPC. A World is
// one chain and the nodes on it; a Node serves lnrpc, routerrpc, invoicesrpc, walletrpc, chainrpc, signrpc, verrpc
// and the state service, so that adapters written for lnd run against it unchanged. It is made for crash and replay
// matrices: thousands of seeded runs, in each of which any node may be killed, any connection cut, any answer lost
// (OnRPC), any block reorganised, and after each of which Wealth says who owns what, to the msat.
//
// # What is faithful
//
// What decides about money: forwarding packages with lnd's acknowledgement bug (a replayed part of a package is
// acknowledged by the wrong index, which leaves phantoms), the circuit map with keystones (signed on disk, opened in
// memory, trimmed at start), the signature that a node owes and forgets if it dies first (ForgetsSignatures),
// duplicates dropped and half-open circuits failed, mailboxes in memory, commitments that are signed, received,
// acknowledged and locked in one after the other, ListChannels showing the local commitment only, the interceptable
// switch (one client, requireinterceptor, what is held, auto-fail, on-chain offers, errors that end the stream), what
// lnd lists of closes (waiting, in limbo by output, resolved, with a resolution for each output in lnd's words),
// second stages and CSV delays, hold invoices and MPP sets, payers that split or give up, the acceptor, zero-conf
// channels that are active before their funding exists, the PSBT shim, aliases, the policy race after ACTIVE, real
// wallet signatures, and a mempool that runs the scripts.
//
// # What is simplified
//
// Channels: the signatures and scripts of funding, commitment and HTLC outputs (the world knows whose they are), one
// fee rate per channel for life, the same dust limit and 1 % reserve on both sides; sweeps are made as soon as their
// outputs are mature, at a fixed fee, and breaches only by Breach. Payments: onions are Go values that only look
// opaque, path finding is exhaustive over a small graph that everybody knows at once, mission control never forgets,
// no AMP, no blinded paths, no trampoline. Wallet: one account, coin selection by largest first, CPFP, and RBF only by
// ReplaceTx; the change of a replaced transaction is counted, as lnd counts it, but never chosen. Watchtowers,
// backups, macaroons and TLS are not there: an RPC that is missing answers codes.Unimplemented.
//
// # Time and order
//
// What has no latency happens within the call that causes it, in a fixed order. What has is run by the clock; within
// a testing/synctest bubble, whose clock is virtual, a world in memory is as fast with latencies as without.
package lndfake
