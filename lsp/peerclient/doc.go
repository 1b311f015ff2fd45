// Package peerclient asks LSPs over the Lightning peer connection, as bLIP-50 has
// it for clients: lsps0's messages out of and into a wallet's lnd, and what the
// methods of LSPS0, 1, 2 and 5 answer.
//
// It promises:
//   - only nodes that were asked something are listened to, and only answers to what
//     was asked of that very node are taken;
//   - ids are drawn at random (130 bits), and no answer crosses a reconnect;
//   - an LSP that sends a bad message is asked nothing more on that connection, and
//     is never answered;
//   - what an LSP can make us remember is bounded.
package peerclient
