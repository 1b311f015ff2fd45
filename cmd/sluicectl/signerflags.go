package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	agelib "filippo.io/age"

	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
)

// flags reads what can be wrong before anything is written or waited for.
func (c SignerInitCmd) flags() (to agelib.Recipient, birthday time.Time, err error) {
	if err := tenant.CheckName("tenant", c.Tenant); err != nil {
		return nil, birthday, fmt.Errorf("--tenant: %w", err)
	}
	if to, err = agelib.ParseX25519Recipient(c.Operator); err != nil {
		// Not what was given: it can be a secret key.
		return nil, birthday, errors.New("the operator's key (--operator) is none: it begins with age1, and sluicectl tenant key prints it at the operator")
	}
	addresses := map[string]string{"--address": c.Address, "--rpc": c.RPC}
	if c.Guard != "" {
		if addresses["--guard-listen"] = c.GuardAt; strings.HasPrefix(c.GuardAt, ":") {
			delete(addresses, "--guard-listen") // everywhere; the port is the listener's to check
		}
	}
	for flag, address := range addresses {
		if bundle.CheckAddress(address) != nil {
			return nil, birthday, fmt.Errorf("%s: %q is no address: HOST:PORT, for example signer.example.com:10019", flag, address)
		}
	}
	if c.Birthday != "" {
		if birthday, err = time.Parse(time.DateOnly, c.Birthday); err != nil {
			return nil, birthday, fmt.Errorf("--birthday: %q is no day: 2026-11-27 is one", c.Birthday)
		}
	}
	return to, birthday, nil
}
