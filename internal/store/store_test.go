package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

const table = `-- +goose Up
CREATE TABLE things (id TEXT NOT NULL PRIMARY KEY, n BIGINT NOT NULL, raw BYTEA NOT NULL, ok BOOLEAN NOT NULL);
-- +goose Down
DROP TABLE things;
`

func migrate(t *testing.T, db *store.DB) {
	t.Helper()
	require.NoError(t, store.Migrate(t.Context(), db, "test", fstest.MapFS{"00001_things.sql": {Data: []byte(table)}}))
}

func insert(ctx context.Context, tx *store.Tx, id string, n int64) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO things (id, n, raw, ok) VALUES ($1, $2, $3, $4)", id, n, []byte{0, 255}, true)
	return err
}

func get(t *testing.T, db *store.DB, id string) (n int64, err error) {
	t.Helper()
	err = db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		var (
			raw []byte
			ok  bool
		)
		if err := tx.QueryRowContext(ctx, "SELECT n, raw, ok FROM things WHERE id = $1", id).Scan(&n, &raw, &ok); err != nil {
			return err
		}
		if string(raw) != "\x00\xff" || !ok {
			return fmt.Errorf("read back %x %v", raw, ok)
		}
		return nil
	})
	return n, err
}

func TestTransactions(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		migrate(t, db)
		migrate(t, db)
		committed := 0
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			tx.OnCommit(func() { committed++ })
			return insert(ctx, tx, "a", 7)
		}))
		require.Equal(t, 1, committed)
		n, err := get(t, db, "a")
		require.NoError(t, err)
		require.EqualValues(t, 7, n)

		require.ErrorIs(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return insert(ctx, tx, "a", 8)
		}), store.ErrUnique)
		_, err = get(t, db, "nobody")
		require.ErrorIs(t, err, store.ErrNotFound)

		// The closure's own error undoes the transaction and comes back as it is.
		mine := errors.New("mine")
		require.ErrorIs(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			tx.OnCommit(func() { committed++ })
			if err := insert(ctx, tx, "b", 1); err != nil {
				return err
			}
			return mine
		}), mine)
		_, err = get(t, db, "b")
		require.ErrorIs(t, err, store.ErrNotFound)
		require.Equal(t, 1, committed)

		// A read cannot write.
		require.Error(t, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return insert(ctx, tx, "c", 1)
		}))
		// A transaction inside another would wait for itself.
		require.ErrorContains(t, db.Write(t.Context(), func(ctx context.Context, _ *store.Tx) error {
			return db.Write(ctx, func(context.Context, *store.Tx) error { return nil })
		}), "inside another")

		second := open()
		n, err = get(t, second, "a")
		require.NoError(t, err)
		require.EqualValues(t, 7, n)
		require.NoError(t, second.Close())
		_, err = get(t, second, "a")
		require.ErrorIs(t, err, store.ErrUnavailable)
	})
}

// Two transactions that each read what the other writes must not both win.
func TestSerializableWithRetry(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		a, b := open(), open()
		migrate(t, a)
		require.NoError(t, a.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return errors.Join(insert(ctx, tx, "x", 50), insert(ctx, tx, "y", 50))
		}))
		const each = 20
		var wg sync.WaitGroup
		errs := make(chan error, 4*each)
		for i := range 4 {
			db, from := a, "x"
			if i%2 == 1 {
				db, from = b, "y"
			}
			wg.Go(func() {
				for range each {
					errs <- db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
						var sum int64
						if err := tx.QueryRowContext(ctx, "SELECT CAST(SUM(n) AS BIGINT) FROM things").Scan(&sum); err != nil {
							return err
						}
						if sum < 3 {
							return nil
						}
						_, err := tx.ExecContext(ctx, "UPDATE things SET n = n - 3 WHERE id = $1", from)
						return err
					})
				}
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		x, err := get(t, a, "x")
		require.NoError(t, err)
		y, err := get(t, a, "y")
		require.NoError(t, err)
		require.EqualValues(t, 1, x+y, "33 withdrawals of 3 fit into 100, each checked against the sum")
	})
}

func TestFaults(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cfg.Hooks = faults.Hooks()
		db := storetest.Open(t, cfg)
		migrate(t, db)
		write := func(id string) error {
			return db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error { return insert(ctx, tx, id, 1) })
		}
		for _, fault := range []storetest.Fault{storetest.Gone, storetest.Full, storetest.Locked} {
			faults.Set(fault)
			require.ErrorIs(t, write("f"), store.ErrUnavailable)
			_, err := get(t, db, "f")
			if fault == storetest.Gone {
				require.ErrorIs(t, err, store.ErrUnavailable)
			} else {
				require.ErrorIs(t, err, store.ErrNotFound)
			}
			faults.Set(storetest.Healthy)
		}
		require.NoError(t, write("f"))

		<-after(t, &faults, storetest.BeforeCommit, func() error { return write("before") })
		_, err := get(t, db, "before")
		require.ErrorIs(t, err, store.ErrNotFound)
		<-after(t, &faults, storetest.AfterCommit, func() error { return write("after") })
		_, err = get(t, db, "after")
		require.NoError(t, err)
	})
}

func after(t *testing.T, faults *storetest.Faults, point storetest.Point, f func() error) <-chan struct{} {
	t.Helper()
	crashed := faults.CrashAt(1, point)
	err := f()
	require.ErrorIs(t, err, storetest.ErrCrashed)
	require.Equal(t, point == storetest.AfterCommit, errors.Is(err, store.ErrOutcomeUnknown))
	require.ErrorIs(t, f(), store.ErrUnavailable)
	faults.Restart()
	return crashed
}

// The errors of a real full disk and a real lock are recognised, not only the
// injected ones.
func TestRealSQLiteTrouble(t *testing.T) {
	cfg := storetest.SQLite(t)
	cfg.BusyTimeout, cfg.RetryFor = 20*time.Millisecond, 100*time.Millisecond
	db := storetest.Open(t, cfg)
	migrate(t, db)
	other := storetest.Open(t, cfg)
	require.NoError(t, other.Write(t.Context(), func(context.Context, *store.Tx) error {
		require.ErrorIs(t, db.Write(t.Context(), func(context.Context, *store.Tx) error { return nil }), store.ErrUnavailable)
		_, err := get(t, db, "a")
		require.ErrorIs(t, err, store.ErrNotFound, "reads go on while another program writes")
		return nil
	}))
	err := db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		if _, err := tx.ExecContext(ctx, "PRAGMA max_page_count = 30"); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "INSERT INTO things (id, n, raw, ok) VALUES ('big', 1, zeroblob(1000000), TRUE)")
		return err
	})
	require.ErrorIs(t, err, store.ErrUnavailable)
	require.ErrorContains(t, err, "full")
}

func TestRealPostgresTrouble(t *testing.T) {
	srv := storetest.StartPostgres(t, true)
	cfg := srv.Database(t)
	db := storetest.Open(t, cfg)
	migrate(t, db)
	wake := db.Listen(t.Context(), "topic")
	<-wake // connected
	require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error { return insert(ctx, tx, "a", 1) }))
	require.NoError(t, srv.Kill())
	err := db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error { return insert(ctx, tx, "b", 1) })
	require.ErrorIs(t, err, store.ErrUnavailable)
	_, err = store.Open(t.Context(), cfg)
	require.ErrorIs(t, err, store.ErrUnavailable)
	require.NoError(t, srv.Start())
	// The dead pooled connections are replaced without the caller's help.
	_, err = get(t, db, "a")
	require.NoError(t, err)
	select {
	case <-wake:
	case <-time.After(20 * time.Second):
		t.Fatal("the listener was not woken after the connection came back")
	}
}

func TestNotify(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		a := open()
		b := a
		if a.Engine() == store.Postgres {
			b = open()
		}
		ctx, cancel := context.WithCancel(t.Context())
		wake, other := a.Listen(ctx, "news"), a.Listen(ctx, "other")
		drain := func(ch <-chan struct{}) {
			if a.Engine() == store.Postgres {
				<-ch // the first connection wakes everybody
			}
		}
		drain(wake)
		drain(other)
		expect := func() {
			t.Helper()
			select {
			case <-wake:
			case <-time.After(10 * time.Second):
				t.Fatal("not woken")
			}
		}
		require.NoError(t, b.Notify(t.Context(), "news"))
		expect()
		require.NoError(t, b.Write(t.Context(), func(_ context.Context, tx *store.Tx) error {
			tx.Notify("news")
			return nil
		}))
		expect()
		require.Error(t, b.Write(t.Context(), func(_ context.Context, tx *store.Tx) error {
			tx.Notify("other")
			return errors.New("no")
		}))
		select {
		case <-other:
			t.Fatal("woken by a topic or a transaction that was not")
		default:
		}
		cancel()
		for range wake {
			// A last wake-up may be in the buffer; then the channel is closed.
		}
	})
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		newer := fstest.MapFS{
			"00001_things.sql": {Data: []byte(table)},
			"00002_more.sql":   {Data: []byte("-- +goose Up\nCREATE TABLE more (id TEXT NOT NULL);\n")},
		}
		require.NoError(t, store.Migrate(t.Context(), db, "test", newer))
		delete(newer, "00002_more.sql")
		require.ErrorContains(t, store.Migrate(t.Context(), db, "test", newer), "newer program")
	})
}

func TestGeneration(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		db := storetest.Open(t, cfg)
		file := filepath.Join(t.TempDir(), "generation")
		kind := func(err error) store.RestoreKind {
			t.Helper()
			var restored *store.RestoredError
			require.ErrorAs(t, err, &restored)
			require.ErrorIs(t, err, store.ErrRestored)
			return restored.Kind
		}
		first, err := store.CheckGeneration(t.Context(), db, file)
		require.NoError(t, err)
		again, err := store.CheckGeneration(t.Context(), db, file)
		require.NoError(t, err)
		require.Equal(t, first.DatabaseID, again.DatabaseID)
		require.Equal(t, first.Number+1, again.Number)

		// An older copy of the database knows less of the file.
		old, err := os.ReadFile(file)
		require.NoError(t, err)
		older := seen(t, db)
		ahead, err := store.Advance(t.Context(), db, file)
		require.NoError(t, err)
		older.putBack(t, db)
		for range 2 {
			_, err = store.CheckGeneration(t.Context(), db, file)
			require.Equal(t, store.RestoreBehind, kind(err), "asking again changes nothing")
		}
		marked, err := store.MarkRestored(t.Context(), db, file, "behind", "a", "b")
		require.NoError(t, err)
		require.Greater(t, marked.Number, ahead.Number)
		_, err = store.CheckGeneration(t.Context(), db, file)
		require.NoError(t, err, "the database itself knows now")
		roles, err := store.RestoredRoles(t.Context(), db)
		require.NoError(t, err)
		require.Equal(t, []string{"a", "b"}, rolesOf(roles))
		require.Equal(t, "behind", roles[0].Reason)
		found := roles
		_, err = store.MarkRestored(t.Context(), db, file, "once more", "a", "b")
		require.NoError(t, err)
		roles, err = store.RestoredRoles(t.Context(), db)
		require.NoError(t, err)
		require.Equal(t, "behind", roles[0].Reason, "the first reason stays")
		require.NoError(t, store.AcceptRestore(t.Context(), db, "a", found[0].Since))
		left, err := store.RestoredRoles(t.Context(), db)
		require.NoError(t, err)
		require.Equal(t, roles, left, "what was reconciled is not what was found later")
		require.NoError(t, store.AcceptRestore(t.Context(), db, "a", roles[0].Since))
		roles, err = store.RestoredRoles(t.Context(), db)
		require.NoError(t, err)
		require.Equal(t, []string{"b"}, rolesOf(roles))

		// A crash between the commit and the file leaves the file behind.
		require.NoError(t, os.WriteFile(file, old, 0o600))
		_, err = store.CheckGeneration(t.Context(), db, file)
		require.NoError(t, err)

		_, err = store.CheckGeneration(t.Context(), db, filepath.Join(t.TempDir(), "generation"))
		require.Equal(t, store.RestoreNoFile, kind(err))
		fresh := storetest.Open(t, storetest.SQLite(t))
		_, err = store.CheckGeneration(t.Context(), fresh, file)
		require.Equal(t, store.RestoreEmpty, kind(err))
		_, err = store.CheckGeneration(t.Context(), fresh, filepath.Join(t.TempDir(), "generation"))
		require.NoError(t, err)
		_, err = store.CheckGeneration(t.Context(), fresh, file)
		require.Equal(t, store.RestoreForeign, kind(err))
		require.NoError(t, os.WriteFile(file, []byte("{"), 0o600))
		_, err = store.CheckGeneration(t.Context(), db, file)
		require.ErrorContains(t, err, "damaged")
	})
}

func rolesOf(list []store.RestoredRole) (names []string) {
	for _, r := range list {
		names = append(names, r.Role)
	}
	return names
}

// TestNodeMarks: marks are replaced by name, and an older copy has older ones.
func TestNodeMarks(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		marks, err := store.NodeMarks(t.Context(), db)
		require.NoError(t, err)
		require.Empty(t, marks)
		require.NoError(t, store.PutNodeMarks(t.Context(), db, map[string]int64{"invoices": 7, "payments": 3}))
		require.NoError(t, store.PutNodeMarks(t.Context(), db, map[string]int64{"invoices": 5}))
		marks, err = store.NodeMarks(t.Context(), db)
		require.NoError(t, err)
		require.Equal(t, map[string]int64{"invoices": 5, "payments": 3}, marks, "a node that was replaced counts anew")
	})
}

// TestOneFileHidesNothingFromAnother: several processes share a database that is
// restored. Whatever one does to it, another still recognises the copy.
func TestOneFileHidesNothingFromAnother(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		db := storetest.Open(t, cfg)
		file := func(name string) string { return filepath.Join(t.TempDir(), name) }
		asleep, awake := file("asleep"), file("awake")
		_, err := store.CheckGeneration(t.Context(), db, asleep)
		require.NoError(t, err)
		_, err = store.Join(t.Context(), db, awake)
		require.NoError(t, err)
		dump := seen(t, db)
		for range 3 {
			_, err = store.Advance(t.Context(), db, asleep)
			require.NoError(t, err)
		}
		dump.putBack(t, db)

		// This one saw nothing later than the dump, and raises the generation above
		// all that the other one saw.
		_, err = store.CheckGeneration(t.Context(), db, awake)
		require.NoError(t, err)
		for range 10 {
			_, err = store.Advance(t.Context(), db, awake)
			require.NoError(t, err)
		}
		_, err = store.CheckGeneration(t.Context(), db, asleep)
		var restored *store.RestoredError
		require.ErrorAs(t, err, &restored)
		require.Equal(t, store.RestoreBehind, restored.Kind)

		// What one recognised all know, until each role has dealt with it.
		_, err = store.MarkRestored(t.Context(), db, asleep, "behind", "gateway", "services")
		require.NoError(t, err)
		_, err = store.CheckGeneration(t.Context(), db, awake)
		require.NoError(t, err)
		roles, err := store.RestoredRoles(t.Context(), db)
		require.NoError(t, err)
		require.NoError(t, store.AcceptRestore(t.Context(), db, "gateway", roles[0].Since))
		roles, err = store.RestoredRoles(t.Context(), db)
		require.NoError(t, err)
		require.Equal(t, []string{"services"}, rolesOf(roles))
	})
}

// sight is what a dump holds of who has seen what.
type sight struct {
	generation int64
	files      map[string]int64
}

func seen(t *testing.T, db *store.DB) sight {
	t.Helper()
	s := sight{files: map[string]int64{}}
	require.NoError(t, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		if err := tx.QueryRowContext(ctx, "SELECT generation FROM store_meta").Scan(&s.generation); err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, "SELECT id, generation FROM store_files")
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var id string
			var n int64
			if err := rows.Scan(&id, &n); err != nil {
				return err
			}
			s.files[id] = n
		}
		return rows.Err()
	}))
	return s
}

func (s sight) putBack(t *testing.T, db *store.DB) {
	t.Helper()
	require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		if _, err := tx.ExecContext(ctx, "UPDATE store_meta SET generation = $1", s.generation); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM store_files"); err != nil {
			return err
		}
		for id, n := range s.files {
			if _, err := tx.ExecContext(ctx, "INSERT INTO store_files (id, generation, seen_ms) VALUES ($1, $2, 0)", id, n); err != nil {
				return err
			}
		}
		return nil
	}))
}

// TestCommitFreesItsConnection: what runs after a commit may begin a transaction,
// also where there is one connection only.
func TestCommitFreesItsConnection(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		cfg.MaxConns = 1
		db := storetest.Open(t, cfg)
		migrate(t, db)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var n int64
		var err error
		require.NoError(t, db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
			tx.OnCommit(func() { n, err = get(t, db, "a") })
			return insert(ctx, tx, "a", 7)
		}))
		require.NoError(t, err)
		require.EqualValues(t, 7, n)
	})
}
