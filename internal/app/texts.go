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
change. Of a list of tables ([[…]]) all entries stand here that hold without one
of yours; the first of yours replaces them all.
'sluiced config check -c FILE' names everything that is wrong with it.`

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

// turnedOn says whether a process with these services does what rights are needed for
// besides.
func (c Config) turnedOn(what string, roles Roles) bool {
	switch what {
	case lnd.ForClosing:
		return roles.LSP && (c.LSP.Orders.CloseAtEnd || c.LSP.CloseUnused > 0)
	case lnd.ForJoint:
		return roles.LSP && c.Joint.Enabled
	case lnd.ForSwaps:
		return roles.Swaps && c.Swaps.Enabled
	case lnd.ForSelling:
		return roles.Watchtower && c.Watchtower.PriceMsat > 0
	}
	return false
}

// MacaroonRecipe tells how to bake the macaroon that sluiced needs for the
// services of a process, as it is configured. One that runs the watchtower alone
// needs far less.
func MacaroonRecipe(cfg Config, roles Roles, rootKeyID uint64) string {
	table, extras, whose := lnd.GatewayRightsTable(), lnd.GatewayExtras(), "your gateway's lnd"
	warning := "Whoever has the file can spend everything: it signs transactions with lnd's coins, opens\n" +
		"channels with a push, and pays over channels. Guard it like the wallet, at mode 0600.\n"
	if roles == (Roles{Watchtower: true}) {
		table, extras, whose = lnd.TowerRightsTable(), lnd.TowerExtras(), "the watchtower's lnd (best another one than the gateway's)"
		warning = "It can read the chain and publish transactions, and spend nothing. Keep the file at mode 0600.\n"
		if cfg.turnedOn(lnd.ForSelling, roles) {
			warning += "It can also make this lnd's hold invoices succeed or fail, where it knows their preimages.\n"
		}
	}
	uris, seen := []string{}, map[string]bool{}
	add := func(rights []lnd.Right) {
		for _, r := range rights {
			if uri := r.URI(); !seen[uri] {
				uris, seen[uri] = append(uris, uri), true
			}
		}
	}
	add(table)
	var off strings.Builder
	for _, x := range extras {
		if cfg.turnedOn(x.For, roles) {
			add(x.Rights)
			continue
		}
		fmt.Fprintf(&off, "  %s (%s): %d more\n", x.For, x.Setting, len(x.Rights))
	}

	var b strings.Builder
	fmt.Fprintf(&b, "sluiced needs a macaroon of %s with these rights. Bake it where lncli works:\n\n", whose)
	b.WriteString(lnd.BakeCommand("lnd.macaroon", rootKeyID, uris))
	b.WriteString("\n\nThen put the file where lnd.macaroon_file says")
	fmt.Fprintf(&b, " (%s), readable to sluiced alone.\n", cfg.Lnd.Macaroon)
	if !roles.LSP && roles != (Roles{Watchtower: true}) {
		b.WriteString("These services alone call fewer of them; which ones is told only of the watchtower.\n")
	}
	if off.Len() > 0 {
		b.WriteString("\nNot among them, because it is off in this configuration (-c FILE names yours) or not of these services:\n\n")
		b.WriteString(off.String())
	}
	b.WriteString("\n")
	b.WriteString(warning)
	fmt.Fprintf(&b, "To end it, bake another under another number (--root-key-id), then `lncli deletemacaroonid %d`.\n", rootKeyID)
	return b.String()
}
