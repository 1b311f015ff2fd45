package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lws/tenant/bundle"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// How a hosted node runs, besides plain.
const (
	formSystemd    = "systemd"
	formKubernetes = "kubernetes"
)

// A signer can run in a container; this is its RPC's port there.
const (
	formContainer = "container"
	containerPort = "10019"
)

// manifestFile has what is applied to Kubernetes.
const manifestFile = "kubernetes.yaml"

// manifests writes the node's secret and manifests. Its certificate is made here, so that
// the wallet can be made from here.
func (c TenantAddCmd) manifests(w *world, say func(string, ...any)) error {
	host, _, err := net.SplitHostPort(c.NodeRPC)
	if err != nil {
		return fmt.Errorf("--node-rpc: %w", err)
	}
	path := func(name string) string { return filepath.Join(c.Dir, name) }
	if _, err := os.Stat(path(onboard.FileTLSCert)); errors.Is(err, os.ErrNotExist) {
		hosts := append(onboard.KubernetesHosts(c.Tenant, c.Namespace), host)
		if _, err := selfcert.Open(selfcert.Config{CertPath: path(onboard.FileTLSCert), KeyPath: path(onboard.FileTLSKey), Hosts: hosts, Now: w.now}); err != nil {
			return err
		}
	}
	m := onboard.Manifests{Tenant: c.Tenant, Namespace: c.Namespace, Files: map[string][]byte{}}
	for _, name := range []string{onboard.FileConf, onboard.FileCert, onboard.FileMacaroon, onboard.FilePassword, onboard.FileTLSCert, onboard.FileTLSKey} {
		if m.Files[name], err = os.ReadFile(path(name)); err != nil {
			return err
		}
	}
	text, err := m.Render()
	if err != nil {
		return err
	}
	if err := auth.WriteFileAtomic(path(manifestFile), []byte(text)); err != nil {
		return err
	}
	say("Start the node, unless it runs:  kubectl apply -f %s\nIt is reached at %s:  kubectl port-forward --namespace=%s statefulset/lnd-%s PORT:10009  where that is this machine.\n", path(manifestFile), c.NodeRPC, c.Namespace, c.Tenant)
	return nil
}

func (c TenantAddCmd) macaroonHint() string {
	if c.Form != formKubernetes {
		return ""
	}
	return fmt.Sprintf("; fetch it:  kubectl cp --namespace=%s lnd-%s-0:%s/data/chain/bitcoin/%s/admin.macaroon %s", c.Namespace, c.Tenant, onboard.KubernetesDir, c.Network, c.adminMacaroon())
}

// migrateWarning is what whoever migrates must know. docs/tenant.md has more.
const migrateWarning = `
WARNING. Making a node watch-only cannot be undone:
  - lnd removes every private key from its wallet at the next start. The signer's seed is the only one then.
  - The keys WERE on this machine. Old copies of the wallet, backups and the disk's free blocks still have them, and whoever
    has those can spend: no guard helps against that. For keys that were never here make a new seed at the signer, a new
    node, and close the old one's channels to it.
  - Taproot channels and payments that are under way suffer from a signer that is slow. Let there be no HTLC.
`

// migratable wants a node of the signer's seed: with another one at the signer the node
// would be lost at its next start.
func (c TenantAddCmd) migratable(ctx context.Context, want ln.PubKey) error {
	if c.Form == formKubernetes {
		return errors.New("--migrate is for nodes on this machine: put the lines that it prints into the secret of yours")
	}
	node, err := c.dial(true)
	if err != nil {
		return fmt.Errorf("the node in %s, which must run: %w", c.Dir, err)
	}
	defer func() { _ = node.Close() }()
	shown, err := node.Identity(ctx)
	if err != nil {
		return err
	}
	if shown != want {
		return fmt.Errorf("the node is %s, and the signer has the seed of %s: restore the node's own seed at the signer (lncli create), then have the tenant make the bundle again. Nothing was changed", shown, want)
	}
	return nil
}

// migrate prepares a node with keys for its signer. It gives true once the node is
// watch-only.
func (c TenantAddCmd) migrate(ctx context.Context, b bundle.Bundle, say func(string, ...any)) (bool, error) {
	node, err := c.dial(true)
	if err != nil {
		return false, err
	}
	defer func() { _ = node.Close() }()
	done, err := node.IsWatchOnly(ctx)
	if err != nil {
		return false, err
	}
	path := func(name string) string { return filepath.Join(c.Dir, name) }
	for name, content := range map[string][]byte{onboard.FileCert: b.Certificate, onboard.FileMacaroon: b.Macaroon} {
		if err := auth.WriteFileAtomic(path(name), content); err != nil {
			return false, err
		}
	}
	if err := ownedLikeDir(c.Dir, onboard.FileCert, onboard.FileMacaroon); err != nil {
		return false, err
	}
	if done {
		return true, nil
	}
	say("%s\nThe signer has this node's seed. Now:\n  1. See that the tenant has the seed on paper, and that no HTLC is under way (sluicectl tenant drain, or lncli listchannels).\n  2. Add to %s:\n\n%s\n  3. Start lnd again and unlock it. Its log says that the wallet was migrated.\n  4. Take the last line out again, and run this command again: it verifies the node and makes the tenant active.\n",
		migrateWarning, path(onboard.FileConf), onboard.MigrateConf(b.Address, c.Dir))
	return false, nil
}
