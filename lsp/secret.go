package lsp

import "github.com/sluice-lsp/sluice/internal/ln"

// Secret is a preimage inside a stored state.
type Secret = ln.Secret

// NewSecret keeps a preimage for storage.
func NewSecret(p ln.Preimage) Secret { return ln.NewSecret(p) }
