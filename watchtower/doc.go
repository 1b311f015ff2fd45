// Package watchtower is the pure domain of the tower: who may store how much,
// what becomes of a breach, and which block is to be searched next.
//
// It promises that a tenant's limits are judged on the state that the same
// transaction stores; that a breach leaves no state but by an event named here,
// so that its story can be told; and that a block is searched only after the one
// that it builds on.
package watchtower
