// Package transport is the tower's side of BOLT 8 on one listener for many tower
// keys: each tenant was told a key of its own, and the first act of the
// handshake shows which one the caller knows.
//
// It promises that whoever knows none of the keys gets no byte back, as from a
// listener that has no such key; that the handshake and the messages are lnd's
// own brontide; and that what a caller can make this process do before it proved
// a key is bounded by address and in all.
package transport
