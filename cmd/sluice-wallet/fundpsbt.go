package main

import (
	"context"
	"os"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lsp/collab/agent/fundagentv1"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// readPsbt reads a wallet's file; no name is no PSBT.
func readPsbt(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	raw, err := funding.DecodePsbt(content)
	if err != nil {
		return nil, errkind.Wrap(errkind.Invalid, err, file+": "+err.Error())
	}
	return raw, nil
}

type fundExportCmd struct {
	Key  string `arg:"" help:"The funding, as fund list names it."`
	File string `arg:"" type:"path" help:"The file to write."`
}

// Run writes what another wallet is to sign: the channel's transaction or, once that
// is signed, one that takes the coins back.
func (c *fundExportCmd) Run(w *world, g *Globals) error {
	var found *fundagentv1.Funding
	err := g.control(w.ctx, func(ctx context.Context, d *daemon) error {
		got, err := d.funding.List(ctx, &fundagentv1.ListRequest{})
		for _, f := range got.GetFundings() {
			if f.GetKey() == c.Key {
				found = f
			}
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case found == nil:
		return errkind.Newf(errkind.NotFound, "there is no joint funding %q: `sluice-wallet fund list` lists them", c.Key)
	case !found.GetElsewhere():
		return errkind.New(errkind.Conflict, "its coins are this wallet's, which signs by itself: there is nothing to export")
	}
	p := w.printer()
	switch {
	case len(found.GetPsbtToSign()) > 0:
		if err := durable.WriteFile(c.File, found.GetPsbtToSign(), 0o600); err != nil {
			return err
		}
		p.Printf("Sign %s in the wallet that has the coins, and do not broadcast it. Then\n\n  sluice-wallet fund sign %s --psbt SIGNED\n", c.File, c.Key)
	case len(found.GetPsbtToTakeBack()) > 0:
		if err := durable.WriteFile(c.File, found.GetPsbtToTakeBack(), 0o600); err != nil {
			return err
		}
		p.Printf("%s takes the coins back: sign it in the wallet that has them, and broadcast it. Whichever of the two transactions confirms counts.\n", c.File)
	default:
		return errkind.Newf(errkind.Conflict, "the joint funding is %s: nothing is to be signed", cli.Clean(found.GetPhase()))
	}
	return p.Err
}
