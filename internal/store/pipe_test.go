package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

const insertThing = "INSERT INTO things (id, n, raw, ok) VALUES ($1, $2, $3, $4)"

// things reads all ids and numbers in order, through a pipe.
func things(ctx context.Context, tx *store.Tx) (out []string, err error) {
	p := tx.Pipe()
	p.Query("SELECT id, n FROM things WHERE n >= $1 ORDER BY id", func(scan func(...any) error) error {
		var id string
		var n int64
		err := scan(&id, &n)
		out = append(out, fmt.Sprint(id, "=", n))
		return err
	}, int64(0))
	return out, p.Run(ctx)
}

func TestPipe(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		migrate(t, db)
		add := func(p *store.Pipe, id string, n int64) {
			_, err := p.ExecContext(t.Context(), insertThing, id, n, []byte{0, 255}, true)
			require.NoError(t, err)
		}
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			p := tx.Pipe()
			require.NoError(t, p.Run(ctx), "nothing is queued")
			add(p, "a", 1)
			_, err := p.ExecContext(ctx, "UPDATE things SET n = n + 1 WHERE id = $1", "a")
			require.NoError(t, err)
			result, err := p.ExecContext(ctx, "UPDATE things SET n = n * 10 WHERE id = $1", "a")
			require.NoError(t, err)
			_, err = result.RowsAffected()
			require.Error(t, err, "it has not run")
			require.NoError(t, p.Run(ctx))
			got, err := things(ctx, tx)
			require.NoError(t, err)
			require.Equal(t, []string{"a=20"}, got, "in their order")

			// A read through a pipe sees what was queued before.
			add(p, "b", 7)
			var n int64
			require.NoError(t, p.QueryRowContext(ctx, "SELECT n FROM things WHERE id = $1", "b").Scan(&n))
			require.EqualValues(t, 7, n)
			return p.Run(ctx)
		}))

		// What does not change one row fails all, and says which.
		err := db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			p := tx.Pipe()
			add(p, "c", 1)
			_, err := p.ExecContext(ctx, "-- name: Touch :exec\nUPDATE things SET n = 0 WHERE id = $1", "nobody")
			require.NoError(t, err)
			add(p, "d", 1)
			return p.Run(ctx)
		})
		require.ErrorIs(t, err, store.ErrRows)
		require.ErrorContains(t, err, "Touch")
		err = db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			p := tx.Pipe()
			add(p, "c", 1)
			add(p, "a", 1)
			return p.Run(ctx)
		})
		require.ErrorIs(t, err, store.ErrUnique)
		err = db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			p := tx.Pipe()
			add(p, "a", 1)
			_ = p.QueryRowContext(ctx, "SELECT n FROM things WHERE id = $1", "b").Err()
			return p.Run(ctx)
		})
		require.ErrorIs(t, err, store.ErrUnique, "what failed before a read is not forgotten")
		mine := errors.New("mine")
		require.ErrorIs(t, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			p := tx.Pipe()
			p.Query("SELECT id FROM things", func(func(...any) error) error { return mine })
			p.Query("SELECT id FROM things", func(func(...any) error) error { return nil })
			return p.Run(ctx)
		}), mine)

		var got []string
		require.NoError(t, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) (err error) {
			got, err = things(ctx, tx)
			return err
		}))
		require.Equal(t, []string{"a=20", "b=7"}, got, "what failed changed nothing")
	})
}

// TestPipeIsAsLargeAsAWrite: neither side waits for the other to read.
func TestPipeIsAsLargeAsAWrite(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		migrate(t, db)
		value := bytes.Repeat([]byte("x"), 4096)
		const n = 3000
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			p, read := tx.Pipe(), 0
			for i := range n {
				if _, err := p.ExecContext(ctx, insertThing, fmt.Sprint(i), int64(i), value, true); err != nil {
					return err
				}
				p.Query("SELECT raw FROM things WHERE id = $1", func(scan func(...any) error) error {
					var raw []byte
					err := scan(&raw)
					require.Equal(t, value, raw)
					read++
					return err
				}, fmt.Sprint(i))
			}
			err := p.Run(ctx)
			require.Equal(t, n, read)
			return err
		}))
	})
}

// TestPipesConflict: transactions whose pipes collide are tried again, and no
// update is lost.
func TestPipesConflict(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		migrate(t, db)
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error { return insert(ctx, tx, "a", 0) }))
		const writers, times = 4, 10
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for range times {
					require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
						var n int64
						p := tx.Pipe()
						p.Query("SELECT n FROM things WHERE id = $1", func(scan func(...any) error) error { return scan(&n) }, "a")
						if err := p.Run(ctx); err != nil {
							return err
						}
						if _, err := p.ExecContext(ctx, "UPDATE things SET n = $2 WHERE id = $1", "a", n+1); err != nil {
							return err
						}
						return p.Run(ctx)
					}))
				}
			})
		}
		wg.Wait()
		n, err := get(t, db, "a")
		require.NoError(t, err)
		require.EqualValues(t, writers*times, n)
	})
}

// TestPipeIsCutOff: a context that ends in the middle leaves no connection
// behind that answers the wrong question.
func TestPipeIsCutOff(t *testing.T) {
	srv := storetest.StartPostgres(t, false)
	cfg := srv.Database(t)
	cfg.MaxConns = 1
	db := storetest.Open(t, cfg)
	migrate(t, db)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		require.Error(t, db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
			p := tx.Pipe()
			p.Query("SELECT pg_sleep(30)", func(func(...any) error) error { return nil })
			p.Query("SELECT 1", func(func(...any) error) error { return nil })
			return p.Run(ctx)
		}))
		cancel()
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			var n int64
			p := tx.Pipe()
			p.Query("SELECT 7", func(scan func(...any) error) error { return scan(&n) })
			err := p.Run(ctx)
			require.EqualValues(t, 7, n)
			return err
		}))
	}
}

// TestDeadConnections: after the server's restart every connection of the pool is
// dead, and the first transaction succeeds all the same.
func TestDeadConnections(t *testing.T) {
	srv := storetest.StartPostgres(t, true)
	db := storetest.Open(t, srv.Database(t))
	migrate(t, db)
	const conns = 5
	var together sync.WaitGroup
	together.Add(conns)
	var wg sync.WaitGroup
	for range conns {
		wg.Go(func() {
			require.NoError(t, db.Read(t.Context(), func(context.Context, *store.Tx) error {
				together.Done()
				together.Wait()
				return nil
			}))
		})
	}
	wg.Wait()
	require.NoError(t, srv.Kill())
	require.NoError(t, srv.Start())
	require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error { return insert(ctx, tx, "a", 1) }))
}
