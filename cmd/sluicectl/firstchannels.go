package main

import (
	"context"
	"strings"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd/remotesigner"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

func (c TenantAddCmd) gateway() (peer ln.PubKey, address string, err error) {
	text, address, _ := strings.Cut(c.Gateway, "@")
	peer, err = keyArg("--gateway", text)
	return peer, address, err
}

func (c TenantAddCmd) first() onboard.FirstChannels {
	return onboard.FirstChannels{Count: c.First, Sat: c.FirstSat}
}

// checkFirst is asked before anything is done.
func (c TenantAddCmd) checkFirst() error {
	if c.First > 0 && c.Gateway == "" {
		return cli.Usagef("--first-channels needs --gateway: they are with the gateway")
	}
	if err := c.first().Check(); err != nil {
		return cli.Usage{Err: err}
	}
	return nil
}

// firstChannels opens what is not there yet, as far as the node's coins go. What is
// opening counts as there, so that doing it again opens nothing twice.
func (c TenantAddCmd) firstChannels(ctx context.Context, node *remotesigner.Client, say func(string, ...any)) (opened []string, err error) {
	if c.First == 0 {
		return nil, nil
	}
	peer, _, err := c.gateway()
	if err != nil {
		return nil, err
	}
	have, err := node.ChannelsWith(ctx, peer)
	if err != nil {
		return nil, err
	}
	confirmed, err := node.ConfirmedSat(ctx)
	if err != nil {
		return nil, err
	}
	open, missing := c.first().Plan(have, confirmed)
	for range open {
		point, err := node.Open(ctx, peer, c.FirstSat, c.FirstHidden)
		if err != nil {
			return opened, err
		}
		opened = append(opened, point)
		say("\nOpening a channel of %d sat with the gateway: %s\n", c.FirstSat, point)
	}
	if missing > 0 {
		address, err := node.Address(ctx)
		if err != nil {
			return opened, err
		}
		say("\nThere are %d of %d first channels. For the others the node's wallet needs %d sat more: send them to\n  %s\nand run this command again once they have confirmed.\n", have+open, c.First, missing, address)
	}
	return opened, nil
}
