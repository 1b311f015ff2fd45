// Package agent is the wallet's side of joint fundings: it brings coins of the
// wallet's own lnd to a channel that an LSP funds together with it.
//
// It promises:
//   - nothing is signed before the wallet's own node shows the channel at exactly
//     this outpoint, with exactly its balance, and the output's script is that of
//     both nodes' keys, which the node's own backup tells: lnd itself takes any
//     outpoint that its peer names;
//   - nothing is signed but the agreed transaction, with exactly the coins that
//     were offered; key paths that the LSP writes into it are thrown away;
//   - that a signature leaves is on disk before it leaves. Until then the coins can
//     be had back at once. Afterwards the channel is not forgotten until another
//     spend of one of the coins is buried, whatever the LSP says.
package agent
