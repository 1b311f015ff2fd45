// Package lspv1 is the wire form of channels on demand: messages and stubs
// generated from lsp.proto, REST routes from lsp.rest.yaml. It promises that
// fields keep their numbers and meaning within version 1.
package lspv1
