package app

import (
	"fmt"
	"io"
	"strings"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

const sampleTitle = `Configuration of sluiced.

Every setting stands here with its default, commented out: uncomment what you
change. 'sluiced config check -c FILE' names everything that is wrong with it.`

// WriteSample writes a configuration file with every setting and its default.
// Paths below the home directory are written with ~, so that the text is the
// same on every machine.
func WriteSample(w io.Writer) error {
	defaults := DefaultConfig()
	defaults.DataDir = "~/.sluice"
	defaults.Lnd.TLSCert = "~/.lnd/tls.cert"
	defaults.Lnd.Macaroon = "~/.sluice/lnd.macaroon"
	return config.Sample(w, sampleTitle, &defaults)
}

// MacaroonRecipe tells how to bake the macaroon that sluiced needs.
func MacaroonRecipe() string {
	var b strings.Builder
	b.WriteString("sluiced needs a macaroon of your gateway's lnd with these rights and no others:\n\n")
	for _, r := range lnd.GatewayRightsTable() {
		fmt.Fprintf(&b, "  %s\n", r.URI())
	}
	b.WriteString("\nBake it on the machine where lncli works, then give the file to sluiced (lnd.macaroon_file):\n\n")
	b.WriteString(lnd.BakeCommand("sluice.macaroon", lnd.GatewayRights()))
	b.WriteString("\n\nOnly with lsp.orders.close_at_lease_end, besides:\n\n")
	for _, uri := range lnd.ClosingRights() {
		fmt.Fprintf(&b, "  %s\n", uri)
	}
	b.WriteString("\nWith swaps (swaps.enabled) it needs these besides:\n\n")
	for _, r := range lnd.SwapsRightsTable() {
		fmt.Fprintf(&b, "  %s\n", r.URI())
	}
	b.WriteString("\nThen bake this one instead:\n\n")
	b.WriteString(lnd.BakeCommand("sluice.macaroon", lnd.GatewayAndSwapsRights()))
	b.WriteString("\n\nKeep the file at mode 0600: whoever has it can spend the gateway's coins into channels.\n")
	return b.String()
}
