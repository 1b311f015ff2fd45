// Package obs makes what operators observe the daemons with: the logger, the
// metrics registry and, when asked for, the tracer.
//
// It promises to keep no global state (no default logger, registry or tracer
// is touched), that tracing is off unless an endpoint is configured, and that
// a Secret never prints as itself.
package obs
