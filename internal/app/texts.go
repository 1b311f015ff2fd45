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

// MacaroonRecipe tells how to bake the macaroon that sluiced needs for the
// services of a process. One that runs the watchtower alone needs far less.
func MacaroonRecipe(roles Roles) string {
	table, rights, warning := lnd.GatewayRightsTable(), lnd.GatewayRights(), "Keep the file at mode 0600: whoever has it can spend the gateway's coins into channels.\n"
	if roles == (Roles{Watchtower: true}) {
		table, rights, warning = lnd.TowerRightsTable(), lnd.TowerRights(), "It can read the chain and publish transactions, and spend nothing. Keep the file at mode 0600.\n"
	}
	var b strings.Builder
	b.WriteString("sluiced needs a macaroon of your gateway's lnd with these rights and no others:\n\n")
	for _, r := range table {
		fmt.Fprintf(&b, "  %s\n", r.URI())
	}
	b.WriteString("\nBake it on the machine where lncli works, then give the file to sluiced (lnd.macaroon_file):\n\n")
	b.WriteString(lnd.BakeCommand("sluice.macaroon", rights))
	b.WriteString("\n\n")
	if roles != (Roles{Watchtower: true}) {
		b.WriteString("Only with lsp.orders.close_at_lease_end or lsp.close_unused_after_blocks, besides:\n\n")
		for _, uri := range lnd.ClosingRights() {
			fmt.Fprintf(&b, "  %s\n", uri)
		}
		b.WriteString("\nWith joint fundings (joint.enabled), besides:\n\n")
		for _, uri := range lnd.JointRights() {
			fmt.Fprintf(&b, "  %s\n", uri)
		}
		b.WriteString("\nWith swaps (swaps.enabled) it needs these besides:\n\n")
		for _, r := range lnd.SwapsRightsTable() {
			fmt.Fprintf(&b, "  %s\n", r.URI())
		}
		b.WriteString("\nThen bake this one instead:\n\n")
		b.WriteString(lnd.BakeCommand("sluice.macaroon", lnd.GatewayAndSwapsRights()))
		b.WriteString("\n")
	} else {
		b.WriteString("Only with a price for updates (watchtower.price_msat_per_update), besides:\n\n")
		for _, uri := range lnd.TowerSalesRights() {
			fmt.Fprintf(&b, "  %s\n", uri)
		}
		b.WriteString("Whoever has those can make this lnd's hold invoices succeed or fail, where it knows their preimages.\n\n")
	}
	b.WriteString(warning)
	return b.String()
}
