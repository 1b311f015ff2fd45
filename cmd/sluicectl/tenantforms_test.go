package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// TestKubernetesForm: everything that the pod needs is written, nothing is applied, and
// doing it again changes nothing.
func TestKubernetesForm(t *testing.T) {
	dir := t.TempDir()
	b := sampleBundle(t, "signer.example:10019")
	c := TenantAddCmd{Tenant: "acme", Dir: dir, Network: "regtest", NodeRPC: "127.0.0.1:10109", NodePeers: "0.0.0.0:9736", Form: formKubernetes, Namespace: "tenants"}
	var said strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&said, format, args...) }
	read := func() (out string) {
		for _, name := range []string{manifestFile, onboard.FileConf, onboard.FileTLSCert, onboard.FileTLSKey, onboard.FilePassword} {
			raw, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			info, err := os.Stat(filepath.Join(dir, name))
			require.NoError(t, err)
			if name != onboard.FileTLSCert {
				require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), name)
			}
			out += string(raw)
		}
		return out
	}
	require.NoError(t, c.write(&world{now: fakeNow}, b, say))
	first := read()
	require.Contains(t, said.String(), "kubectl apply -f "+filepath.Join(dir, manifestFile))
	require.NoError(t, c.write(&world{now: fakeNow}, b, say))
	require.Equal(t, first, read())
	// Whoever makes the wallet knows the pod by this certificate, at the address that leads to it.
	_, err := c.dial(false)
	require.NoError(t, err)
	_, err = c.dial(true)
	require.ErrorContains(t, err, "kubectl cp --namespace=tenants lnd-acme-0:/lnd/data/chain/bitcoin/regtest/admin.macaroon")
	c.Namespace = "a b"
	require.Error(t, c.write(&world{now: fakeNow}, b, say))

	// The supervisor leaves starting to the kubelet, and says how it is stopped.
	p := &nodeProcess{n: hostedNode{Set: "lnd-acme --namespace=tenants"}}
	require.NoError(t, p.Start(t.Context()))
	require.ErrorContains(t, p.Stop(t.Context()), "kubectl scale statefulset/lnd-acme --namespace=tenants --replicas=0")
}
