// Package swapsv1 is the generated API of swaps for operators; swaps.proto is
// its source. Clients speak Loop's own protocol.
package swapsv1
