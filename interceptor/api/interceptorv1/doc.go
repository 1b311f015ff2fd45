// Package interceptorv1 is the wire form of the interceptor's API: messages,
// gRPC stubs and REST handlers, generated from interceptor.proto and
// interceptor.rest.yaml by make generate.
package interceptorv1
