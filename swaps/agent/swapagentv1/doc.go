// Package swapagentv1 is the wallet's swaps as its own command line sees them; generated
// from swapagent.proto.
package swapagentv1
