package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant"
)

// TestPortsOfTheirOwn: the flags of the first tenant, given for the second one as well,
// would have the second node fail to start, and its supervisor look at the first one.
func TestPortsOfTheirOwn(t *testing.T) {
	g := &Globals{DataDir: t.TempDir()}
	acme := TenantAddCmd{Tenant: "acme", Dir: "/var/lib/lnd-acme", NodeRPC: "127.0.0.1:10109", Network: "regtest", Form: "plain"}
	note := func(c TenantAddCmd) {
		t.Helper()
		require.NoError(t, c.note(g, sampleBundle(t, "signer.example:10029"), &held{node: ln.PubKey{2, 7}, place: tenant.Place{ID: "01", Words: "alpha:" + c.Dir}}))
	}
	require.NoError(t, acme.ownPort(g))
	note(acme)
	require.NoError(t, acme.ownPort(g), "its own")
	bolt := acme
	bolt.Tenant, bolt.Dir = "bolt", "/var/lib/lnd-bolt"
	require.ErrorContains(t, bolt.ownPort(g), "the node of acme has 127.0.0.1:10109")
	for _, same := range []string{"0.0.0.0:10109", "localhost:10109", ":10109"} {
		bolt.NodeRPC = same
		require.Error(t, bolt.ownPort(g), same)
	}
	bolt.NodeRPC = "127.0.0.1:10110"
	require.NoError(t, bolt.ownPort(g))
	bolt.NodeRPC = "192.0.2.9:10109"
	require.NoError(t, bolt.ownPort(g), "another address of this machine")
	bolt.NodeRPC, bolt.Form = acme.NodeRPC, formKubernetes
	require.NoError(t, bolt.ownPort(g), "a port-forward, for now")
	// One that was moved away has left its port.
	gone, err := readHosted(noteFile(g, "acme"))
	require.NoError(t, err)
	gone.MovedTo = "beta:/x"
	require.NoError(t, gone.keep(filepath.Join(g.DataDir, hostedDir, "acme.json")))
	bolt.Form = "plain"
	require.NoError(t, bolt.ownPort(g))
}
