// Package authv1 is the wire form of the login API: messages, gRPC stubs and
// REST handlers, generated from auth.proto and auth.rest.yaml by make generate.
package authv1
