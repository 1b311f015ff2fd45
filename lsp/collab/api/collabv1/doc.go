// Package collabv1 is the wire format of joint fundings: collab.proto, and what
// is generated from it.
package collabv1
