package onboard

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// SignerConf says how a tenant's signer runs.
type SignerConf struct {
	Network string
	// Dir is lnd's directory.
	Dir string
	// Listen is where its RPC listens, host:port.
	Listen string
	// Address is how the gateway reaches it, host:port; the certificate is for this host.
	Address string
}

// clean refuses what would add lines to a configuration file.
func clean(values ...string) error {
	for _, v := range values {
		if strings.ContainsAny(v, "\n\r\x00") {
			return errkind.Newf(errkind.Invalid, "%q has a line break: it would change the configuration file.", v)
		}
	}
	return nil
}

// LndConf is the signer's lnd.conf: no peers, no chain, one RPC.
func (c SignerConf) LndConf() (string, error) {
	if err := clean(c.Network, c.Dir, c.Listen, c.Address); err != nil {
		return "", err
	}
	host, _, err := splitHost(c.Address)
	if err != nil {
		return "", errkind.Wrap(errkind.Invalid, err, "Name the signer's address as the gateway reaches it, host:port.")
	}
	name := "tlsextradomain=" + host
	if _, err := netip.ParseAddr(host); err == nil {
		name = "tlsextraip=" + host
	}
	return fmt.Sprintf(`# A signer: it has the keys of a watch-only node that runs elsewhere, and nothing else.
# Written by sluicectl signer init. Without sections: lnd takes every setting then.

# It has no peers and looks for none.
nolisten=true
nobootstrap=true
norest=true
# The host of the watch-only node connects here, and nobody else should: let the firewall
# admit its address alone.
rpclisten=%s
# The certificate must be for the name that the host dials; changing this needs a new one
# (remove tls.cert and tls.key) and a new bundle.
%s
tlsdisableautofill=true

bitcoin.%s=true
# It needs no chain: it signs what it is given.
bitcoin.node=nochainbackend
`, c.Listen, name, c.Network), nil
}

// sandbox ends a unit: its service writes to one directory and to nothing else.
const sandbox = `NoNewPrivileges=true
PrivateTmp=true
PrivateDevices=true
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths=%s
UMask=0077

[Install]
WantedBy=multi-user.target
`

// Unit is a systemd unit for an lnd, of a signer or of a tenant's node.
func Unit(what, user, lnd, dir string) (string, error) {
	if err := clean(what, user, lnd, dir); err != nil {
		return "", err
	}
	return fmt.Sprintf(`# Written by sluicectl. Put it into /etc/systemd/system.
[Unit]
Description=%s
After=network-online.target
Wants=network-online.target

[Service]
User=%s
ExecStart=%s --lnddir=%s
# A node whose signer does not answer stops by itself: it comes back, ever more slowly.
Restart=always
RestartSec=2
RestartSteps=8
RestartMaxDelaySec=120
TimeoutStopSec=120
`+sandbox, what, user, lnd, dir, dir), nil
}

// GuardUnit is a systemd unit for the guard before a signer.
func GuardUnit(tenant, user, dir, listen, signer string) (string, error) {
	if err := clean(tenant, user, dir, listen, signer); err != nil {
		return "", err
	}
	return fmt.Sprintf(`# Written by sluicectl. Put it into /etc/systemd/system.
[Unit]
Description=The guard before the signer of %s
After=network-online.target lnd-signer.service
Wants=network-online.target

[Service]
User=%s
ExecStart=/usr/local/bin/sluicectl signer guard run --dir %s --listen %s --signer %s
Restart=always
RestartSec=1
`+sandbox, tenant, user, dir, listen, signer, dir), nil
}

// Containerfile runs a signer in a container; its directory is a volume. docs/tenant.md
// carries it.
func Containerfile() string {
	return `FROM docker.io/lightninglabs/lnd:v0.21.2-beta
# lnd.conf, tls.cert and the wallet are in the volume; sluicectl signer init wrote the first.
VOLUME /signer
EXPOSE 10019
ENTRYPOINT ["lnd", "--lnddir=/signer"]
`
}

// NodeConf says how a tenant's watch-only node runs.
type NodeConf struct {
	Tenant, Network string
	// Dir is lnd's directory; the signer's certificate and macaroon and the wallet's
	// password are files in it.
	Dir string
	// Secrets is where those files are if not in Dir; the node's own certificate is there
	// as well then.
	Secrets string
	// RPC and Peers are where it listens, host:port.
	RPC, Peers string
	// Signer is the signer's address.
	Signer string
	// DSN is the connection string of its own database; empty is SQLite in Dir.
	DSN string
	// Backend are lines for the chain backend, as the operator's other nodes have them.
	Backend string
}

// The files in a node's directory.
const (
	FileConf     = "lnd.conf"
	FileCert     = "signer.cert"
	FileMacaroon = "signer.macaroon"
	FilePassword = "wallet.password"
)

// checkBackend: a backend's file is for the backend alone. Its values are passwords, and
// are not repeated.
func checkBackend(text string) error {
	n := 0
	for line := range strings.Lines(text) {
		n++
		key, _, set := strings.Cut(strings.TrimSpace(line), "=")
		if key = strings.TrimSpace(key); key == "" || key[0] == '#' || key == "bitcoin.node" {
			continue
		}
		of, _, dotted := strings.Cut(key, ".")
		if !dotted || !slices.Contains([]string{"btcd", "bitcoind", "neutrino", "fee"}, of) {
			if !set {
				key = "no setting"
			}
			return errkind.Newf(errkind.Invalid, "The backend's file may set bitcoin.node, btcd., bitcoind., neutrino. and fee., and nothing else, without sections: see its line %d (%.40q).", n, key)
		}
	}
	return nil
}

// LndConf is the node's lnd.conf.
func (c NodeConf) LndConf() (string, error) {
	if err := clean(c.Tenant, c.Network, c.Dir, c.Secrets, c.RPC, c.Peers, c.Signer); err != nil {
		return "", err
	}
	if clean(c.DSN) != nil {
		return "", errkind.New(errkind.Invalid, "The file of the database's connection string has several lines: one is wanted, with the string and nothing else.")
	}
	secrets, cert := c.Dir, ""
	if c.Secrets != "" {
		secrets, cert = c.Secrets, fmt.Sprintf("tlscertpath=%s/%s\ntlskeypath=%s/%s\n", c.Secrets, FileTLSCert, c.Secrets, FileTLSKey)
	}
	if err := checkBackend(c.Backend); err != nil {
		return "", err
	}
	db := "db.backend=sqlite\n"
	if c.DSN != "" {
		db = "db.backend=postgres\ndb.postgres.dsn=" + c.DSN + "\n"
	}
	return fmt.Sprintf(`# The watch-only node of the tenant %s: its keys are at the tenant's signer.
# Written by sluicectl tenant add. Without sections: lnd takes every setting then.

alias=%s
rpclisten=%s
listen=%s
norest=true
%swallet-unlock-password-file=%s/%s
# The wallet is made by sluicectl tenant add, which then verifies whose it is.
wallet-unlock-allow-create=true

bitcoin.%s=true
%s

remotesigner.enable=true
remotesigner.rpchost=%s
remotesigner.tlscertpath=%s/%s
remotesigner.macaroonpath=%s/%s
remotesigner.timeout=5s

# For channels on demand.
protocol.option-scid-alias=true
protocol.zero-conf=true

%s`, c.Tenant, c.Tenant, c.RPC, c.Peers, cert, secrets, FilePassword, c.Network, strings.TrimSpace(c.Backend), c.Signer, secrets, FileCert, secrets, FileMacaroon, db), nil
}

// MigrateConf are the lines that make a node with keys watch-only at its next start. The
// last one does it, and is taken out again.
func MigrateConf(signer, dir string) string {
	return fmt.Sprintf(`remotesigner.enable=true
remotesigner.rpchost=%s
remotesigner.tlscertpath=%s/%s
remotesigner.macaroonpath=%s/%s
remotesigner.timeout=5s
remotesigner.migrate-wallet-to-watch-only=true
`, signer, dir, FileCert, dir, FileMacaroon)
}

// CheckAccounts is the check of accounts alone, which the tenant's side asks as well,
// before it hands a bundle over.
func CheckAccounts(in Input) Result {
	said, err := accounts(in.Bundle)
	if err == nil {
		_, err = network(in)
	}
	return result(Accounts, said, err)
}
