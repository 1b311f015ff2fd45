// Package lws is the pure domain of the wallet server: what a wallet may ask to have
// held for it while it is offline, and what fits into the limits.
//
// It promises that a refusal has a reason that its caller can act on, and that no sum
// of what is held exceeds a limit. The package has no I/O, no clock and no goroutine.
package lws
