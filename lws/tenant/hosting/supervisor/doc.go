// Package supervisor keeps hosted nodes running, watches their signers, and drains a node
// when its tenant wishes.
//
// It promises that a node is looked at whatever else is away, the registry included: then
// the last wish that was heard counts; that one node's trouble delays no other; and that
// ending the supervisor ends no node.
package supervisor
