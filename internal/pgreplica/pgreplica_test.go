package pgreplica_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/pgreplica"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// TestPrepare: a role, a slot and a password once; commits wait for nobody who is not
// there; nobody else's database goes along. That a replica follows is shown on a real one
// (make itest CASE=Recovery).
func TestPrepare(t *testing.T) {
	server := storetest.StartPostgres(t, false)
	dsn := server.Database(t).DSN
	db, err := pgreplica.Open(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	first, err := pgreplica.Prepare(t.Context(), db, "acme-one", false)
	require.NoError(t, err)
	require.Equal(t, "sluice_acme_one", first.Name)
	require.Len(t, first.Password, 48)
	require.False(t, first.Synchronous)
	require.Contains(t, first.Said, "does not follow yet")
	again, err := pgreplica.Prepare(t.Context(), db, "acme-one", false)
	require.NoError(t, err)
	require.Empty(t, again.Password, "it stays")
	anew, err := pgreplica.Prepare(t.Context(), db, "acme-one", true)
	require.NoError(t, err)
	require.NotEqual(t, first.Password, anew.Password)
	var names string
	require.NoError(t, db.QueryRowContext(t.Context(), "SHOW synchronous_standby_names").Scan(&names))
	require.Empty(t, names, "nobody waits for a replica that is not there")

	// The replica's role sees how it stands, and no table.
	as, err := pgreplica.Open(t.Context(), dsn+" options='-c role="+first.Name+"'")
	require.NoError(t, err)
	defer func() { require.NoError(t, as.Close()) }()
	_, err = db.ExecContext(t.Context(), "CREATE TABLE lnds (n BIGINT)")
	require.NoError(t, err)
	_, err = as.ExecContext(t.Context(), "SELECT * FROM lnds")
	require.ErrorContains(t, err, "permission denied")
	got, err := pgreplica.Look(t.Context(), as, first.Name, first.Database)
	require.NoError(t, err)
	require.NotEmpty(t, got.System)
	require.WithinDuration(t, time.Now(), got.At, time.Minute)
	require.False(t, got.Synchronous)
	require.Contains(t, got.Said, "does not follow")

	// A primary is no replica.
	copied, err := pgreplica.Inspect(t.Context(), db)
	require.NoError(t, err)
	require.Equal(t, got.System, copied.System)
	require.False(t, copied.Replica)

	for _, bad := range []string{"a'b", "A", "a b"} {
		_, err = pgreplica.Prepare(t.Context(), db, bad, false)
		require.ErrorContains(t, err, "no name of a role", bad)
	}
	server.Database(t)
	_, err = pgreplica.Prepare(t.Context(), db, "acme-one", false)
	require.ErrorContains(t, err, "has other databases")
}
