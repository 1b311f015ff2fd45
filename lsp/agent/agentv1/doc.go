// Package agentv1 is the wire form of the wallet daemon's control socket:
// messages and stubs generated from agent.proto. It promises that fields keep
// their numbers and meaning within version 1.
package agentv1
