package main

import (
	"path/filepath"
	"strings"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// payRight is for who asked for it; the daemon itself can neither close
// channels, spend coins nor read preimages of others.
const payRight = "uri:/routerrpc.Router/SendPaymentV2"

type macaroonCmd struct {
	Out       string `type:"path" placeholder:"FILE" help:"The file to save it to, where it is not sluice-wallet.macaroon in the data directory."`
	Towers    bool   `help:"Also allow the towers commands: adding watchtowers, and asking lnd what it uploaded."`
	Fund      bool   `help:"Also allow bringing coins to channels (for sluice-wallet fund). Whoever holds such a macaroon can spend the wallet's coins."`
	Trust     bool   `help:"Also allow claiming payments over channels that their LSP funds afterwards (setting trust.max_sat): holding payments back, and forgetting channels that were never funded."`
	Swap      bool   `help:"Also allow swaps that open a channel (for sluice-wallet swap in): watching the deposit, and publishing its refund. Nothing of this spends the wallet's coins."`
	LongHolds bool   `help:"Also allow signing invoices anew (for sluice-wallet holds invoice). Whoever holds such a macaroon can have lnd sign anything with any of its keys, a channel's included."`
	Pay       bool   `help:"Also allow paying invoices (for sluice-wallet pay). Whoever holds such a macaroon can spend the wallet's channels."`
}

// Run prints the line.
func (c *macaroonCmd) Run(w *world, g *Globals) error {
	out := c.Out
	if out == "" {
		out = filepath.Join(g.DataDir, macaroonFile)
	}
	rights := lnd.WalletRights()
	if c.Towers {
		rights = append(rights, lnd.WalletTowerRights()...)
	}
	if c.Fund {
		rights = append(rights, lnd.WalletFundRights()...)
	}
	if c.Trust {
		rights = append(rights, lnd.WalletTrustRights()...)
	}
	if c.Swap {
		rights = append(rights, lnd.WalletSwapRights()...)
	}
	if c.LongHolds {
		rights = append(rights, lnd.WalletResigningRights()...)
	}
	if c.Pay {
		rights = append(rights, payRight)
	}
	if g.JSON {
		calls := make([]string, 0, len(rights))
		for _, r := range rights {
			calls = append(calls, strings.TrimPrefix(r, "uri:"))
		}
		return cli.WriteJSON(w.stdout, map[string]any{"save_to": out, "root_key_id": lnd.WalletRootKeyID, "uris": calls})
	}
	p := w.printer()
	p.Printf("%s\n", lnd.BakeCommand(out, lnd.WalletRootKeyID, rights))
	return p.Err
}
