package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/pgreplica"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// TestADatabaseOfItsOwn: a node that is made on another one's database would run on its
// channels. The connection string of the first tenant, given for the second one, is a slip
// that lnd does not notice.
func TestADatabaseOfItsOwn(t *testing.T) {
	dsn := storetest.Postgres(t).DSN
	dir := t.TempDir()
	file := filepath.Join(dir, "dsn")
	w := &world{ctx: t.Context(), now: fakeNow}
	write := func(name string, more func(*TenantAddCmd)) error {
		t.Helper()
		require.NoError(t, writeWhole(file, []byte(dsn+"\n")))
		c := TenantAddCmd{Tenant: name, Network: "regtest", Dir: filepath.Join(dir, name), NodeRPC: "127.0.0.1:10109", NodePeers: "0.0.0.0:9736", Form: "plain", DSNFile: file}
		more(&c)
		return c.write(w, sampleBundle(t, "signer.example:10019"), func(string, ...any) {})
	}
	as := func(*TenantAddCmd) {}
	require.NoError(t, write("acme", as))
	db, err := pgreplica.Open(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { _ = db.Close() }()
	_, err = db.ExecContext(t.Context(), "CREATE TABLE channeldb_kv (id BIGINT)")
	require.NoError(t, err)
	require.NoError(t, write("acme", as), "its own")
	require.ErrorContains(t, write("bolt", as), "has tables already")
	require.NoFileExists(t, filepath.Join(dir, "bolt", onboard.FileConf))
	require.NoError(t, write("bolt", func(c *TenantAddCmd) { c.Moved = true }))

	dsn = "postgres://acme:s3cret@127.0.0.1:1/acme"
	err = write("corp", as)
	require.ErrorContains(t, err, "the database")
	require.NotContains(t, err.Error(), "s3cret")
	require.NoError(t, write("corp", func(c *TenantAddCmd) { c.Form, c.Namespace = formKubernetes, "default" }), "the pod reaches it, this machine may not")
}
