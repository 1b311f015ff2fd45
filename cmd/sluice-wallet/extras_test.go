package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// TestFilesOfOthers: a database that is written meanwhile is copied whole, every
// other file is read as it is, and what did not change is not read again.
func TestFilesOfOthers(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	require.NoError(t, os.WriteFile(plain, []byte("one"), 0o600))
	f := newFiles(dir)
	got, err := f.read(plain)
	require.NoError(t, err)
	require.Equal(t, "one", string(got))
	require.NoError(t, os.WriteFile(plain, []byte("longer"), 0o600))
	got, err = f.read(plain)
	require.NoError(t, err)
	require.Equal(t, "longer", string(got))
	_, err = f.read(filepath.Join(dir, "nothing"))
	require.ErrorIs(t, err, os.ErrNotExist)

	path := filepath.Join(dir, "swaps.db")
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	db.SetMaxOpenConns(1)
	_, err = db.Exec("CREATE TABLE pairs (a INTEGER, b INTEGER)")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			// Both halves of a pair, in one transaction.
			_, _ = db.ExecContext(ctx, "BEGIN; INSERT INTO pairs VALUES (?1, NULL); UPDATE pairs SET b = a WHERE b IS NULL; COMMIT", i)
		}
	})
	for range 10 {
		content, err := f.read(path)
		require.NoError(t, err)
		open := filepath.Join(t.TempDir(), "copy.db")
		require.NoError(t, os.WriteFile(open, content, 0o600))
		restored, err := sql.Open("sqlite", open)
		require.NoError(t, err)
		var half int
		require.NoError(t, restored.QueryRow("SELECT COUNT(*) FROM pairs WHERE b IS NULL").Scan(&half))
		require.Zero(t, half)
		var check string
		require.NoError(t, restored.QueryRow("PRAGMA integrity_check").Scan(&check))
		require.Equal(t, "ok", check)
		require.NoError(t, restored.Close())
	}
	stop()
	wg.Wait()
	first, err := f.read(path)
	require.NoError(t, err)
	again, err := f.read(path)
	require.NoError(t, err)
	require.Same(t, &first[0], &again[0], "unchanged")
	left, err := filepath.Glob(filepath.Join(dir, ".copy-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

type fakeInvoices struct {
	list  []ln.Invoice
	err   error
	asked int
}

func (f *fakeInvoices) OpenInvoices(context.Context) ([]ln.Invoice, error) {
	f.asked++
	return f.list, f.err
}

// TestOpenInvoices: preimages that only this node has, once a minute.
func TestOpenInvoices(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	lnd := &fakeInvoices{list: []ln.Invoice{
		{Hash: ln.Hash{1}, Preimage: ln.Preimage{0xab}, AmountMsat: 5000, Bolt11: "lnbc1", CreatedAt: now, ExpiresAt: now.Add(time.Hour)},
		{Hash: ln.Hash{2}},
	}}
	o := &openInvoices{lnd: lnd, now: func() time.Time { return now }}
	content, err := o.read(t.Context())
	require.NoError(t, err)
	var got []backedInvoice
	require.NoError(t, json.Unmarshal(content, &got))
	require.Len(t, got, 1)
	require.Equal(t, "ab"+string(make0(62)), got[0].Preimage)
	require.Equal(t, ln.Hash{1}, got[0].Hash)
	_, err = o.read(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, lnd.asked)
	now = now.Add(2 * time.Minute)
	lnd.err = errors.New("away")
	_, err = o.read(t.Context())
	require.Error(t, err)
	lnd.err, lnd.list = nil, nil
	content, err = o.read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "[]", string(content), "paid and expired ones are gone")
}

func make0(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = '0'
	}
	return out
}

// TestRestoredPath: nothing is written outside of the data directory, whatever a
// stored thing is called.
func TestRestoredPath(t *testing.T) {
	for thing, want := range map[string]string{
		"lsps.toml": "/d/lsps.toml", "backups.toml": "/d/backups.toml", "towers.json": "/d/towers.json", "trusted.json": "/d/trusted.json",
		"invoices.json": "/d/restored/invoices.json", "file/swaps.db": "/d/restored/swaps.db",
		"file/../x": "", "../x": "", "backup.key": "", "channels": "", "file/a/b": "", "restored/x": "", "fundings.json": "", "fundings/x.json": "",
	} {
		path, ours := restoredPath("/d", thing)
		require.Equal(t, want != "", ours, thing)
		if ours {
			require.Equal(t, want, path)
		}
	}
}

// TestWhatIsRestored: each thing goes where the daemon looks for it, over nothing that is
// there; a name that is not ours writes nothing.
func TestWhatIsRestored(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	record := `{"nonce":[` + strings.Repeat("7,", 31) + `7],"lsp":"alpha","phase":"signed","channel":"` + strings.Repeat("ab", 32) + `:1","inputs":[{}]}`
	require.NoError(t, os.MkdirAll(filepath.Join(from, "fundings"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(from, "fundings", "0707070707070707.json"), []byte(record), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(from, "trusted.json"), []byte("[]"), 0o600))
	reads := extras(from, &fakeInvoices{}, time.Now)
	for _, thing := range []string{"fundings.json", "trusted.json", "lsps.toml"} {
		content, err := reads[thing](t.Context())
		require.NoError(t, err, thing)
		if thing == "lsps.toml" {
			require.Nil(t, content)
			continue
		}
		require.NotEmpty(t, content)
		told, err := restoreThing(to, thing, content)
		require.NoError(t, err)
		require.Len(t, told, 1)
		told, err = restoreThing(to, thing, content)
		require.NoError(t, err)
		require.Empty(t, told, "it is there")
	}
	got, err := os.ReadFile(filepath.Join(to, "fundings", "0707070707070707.json"))
	require.NoError(t, err)
	require.Contains(t, string(got), `"restored": true`)
	told, err := restoreThing(to, "../x", []byte("x"))
	require.NoError(t, err)
	require.Empty(t, told)
	_, err = restoreThing(to, "fundings.json", []byte("x"))
	require.Error(t, err)
}
