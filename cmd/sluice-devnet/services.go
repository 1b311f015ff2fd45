package main

import (
	"context"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// startServices starts our own programs beside the standard network, supervised
// by it (Net.NewProc), so that they end with it and appear in its description.
func startServices(_ context.Context, _ *devnet.Standard) error {
	return nil
}
