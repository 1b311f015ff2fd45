// Package lwsv1 is the wire form of holds for wallets that are offline: messages and
// stubs generated from lws.proto, REST routes from lws.rest.yaml. It promises that
// fields keep their numbers and meaning within version 1.
package lwsv1
