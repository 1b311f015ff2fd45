// Package fundagentv1 is the wire format between sluice-wallet's daemon and its
// command line about joint fundings: fundagent.proto, and what is generated from it.
package fundagentv1
