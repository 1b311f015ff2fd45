package towertest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/chainntnfs"
	"github.com/lightningnetwork/lnd/kvdb"
	"github.com/lightningnetwork/lnd/watchtower/blob"
	lndlookout "github.com/lightningnetwork/lnd/watchtower/lookout"
	"github.com/lightningnetwork/lnd/watchtower/wtdb"
	"github.com/lightningnetwork/lnd/watchtower/wtwire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/lookout"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
)

// maxSession is how many updates a session has in these measurements.
const maxSession = 65_535

// Flood uploads from so many connections at once for a while, each the next update
// as soon as the last one is acknowledged, and says how many were.
func Flood(ctx context.Context, uri string, chain chainhash.Hash, clients int, d time.Duration) (acknowledged int64, took time.Duration, err error) {
	policy := Policy()
	policy.MaxUpdates = maxSession
	size, err := blobSize(policy.BlobType)
	if err != nil {
		return 0, 0, err
	}
	conns := make([]*Client, clients)
	for i := range conns {
		session, err := btcec.NewPrivateKey()
		if err != nil {
			return 0, 0, err
		}
		c, err := Open(uri, chain, session)
		if err != nil {
			return 0, 0, err
		}
		if code, err := c.Create(policy); err != nil || code != wtwire.CodeOK {
			return 0, 0, fmt.Errorf("create session: %s, %w", code, err)
		}
		_ = c.Close()
		if conns[i], err = reopen(ctx, uri, chain, session); err != nil {
			return 0, 0, err
		}
	}
	var (
		wg    sync.WaitGroup
		count atomic.Int64
		errs  = make([]error, clients)
		began = time.Now()
		until = began.Add(d)
	)
	for i, c := range conns {
		wg.Go(func() {
			defer func() { _ = c.Close() }()
			id := c.ID()
			for seq := uint16(1); time.Now().Before(until) && seq < maxSession && ctx.Err() == nil; seq++ {
				u := &wtwire.StateUpdate{SeqNum: seq, LastApplied: seq - 1, EncryptedBlob: make([]byte, size)}
				copy(u.Hint[:], id[1:])
				binary.BigEndian.PutUint16(u.Hint[:], seq) // hints are spread
				if code, _, err := c.Update(u); err != nil || code != wtwire.CodeOK {
					errs[i] = fmt.Errorf("update %d: %s, %w", seq, code, err)
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	return count.Load(), time.Since(began), errors.Join(errs...)
}

// reopen waits for the connection before to have ended at the tower, which admits
// one of a session.
func reopen(ctx context.Context, uri string, chain chainhash.Hash, session *btcec.PrivateKey) (*Client, error) {
	for {
		c, err := Open(uri, chain, session)
		if err == nil || ctx.Err() != nil {
			return c, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func blobSize(t blob.Type) (int, error) {
	commitment, err := t.CommitmentType(nil)
	if err != nil {
		return 0, err
	}
	kit, err := commitment.EmptyJusticeKit()
	if err != nil {
		return 0, err
	}
	return blob.Size(kit), nil
}

// Hay is a set of updates with few breaches among them, the same at every call.
type Hay struct{ Updates, Breaches, BlockTxs int }

// each gives every update in order, in sessions of maxSession.
func (h Hay) each(f func(session int, u *wtdb.SessionStateUpdate) error) error {
	size, err := blobSize(Policy().BlobType)
	if err != nil {
		return err
	}
	every := h.Updates / h.Breaches
	for i := range h.Updates {
		u := &wtdb.SessionStateUpdate{SeqNum: uint16(i%maxSession + 1), LastApplied: uint16(i % maxSession)}
		binary.BigEndian.PutUint32(u.ID[:], uint32(i/maxSession)+1)
		if i%every == every/2 && i/every < h.Breaches {
			b, err := NewBreach(Policy(), uint64(i/every))
			if err != nil {
				return err
			}
			u.Hint, u.EncryptedBlob = b.Hint, b.Blob
		} else {
			digest := chainhash.HashB(binary.BigEndian.AppendUint64(nil, uint64(i)))
			copy(u.Hint[:], digest)
			u.EncryptedBlob = make([]byte, size)
			copy(u.EncryptedBlob, digest)
		}
		if err := f(i/maxSession, u); err != nil {
			return err
		}
	}
	return nil
}

func (h Hay) session(i int) *wtdb.SessionInfo {
	s := &wtdb.SessionInfo{Policy: Policy()}
	s.Policy.MaxUpdates = maxSession
	binary.BigEndian.PutUint32(s.ID[:], uint32(i)+1)
	return s
}

// block has the breaches among transactions of others.
func (h Hay) block() ([]*wire.MsgTx, error) {
	var txs []*wire.MsgTx
	for i := range h.BlockTxs {
		if i%(h.BlockTxs/h.Breaches) == 0 && i/(h.BlockTxs/h.Breaches) < h.Breaches {
			b, err := NewBreach(Policy(), uint64(i/(h.BlockTxs/h.Breaches)))
			if err != nil {
				return nil, err
			}
			txs = append(txs, b.Commit)
			continue
		}
		tx := wire.NewMsgTx(2)
		tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Index: uint32(i)}})
		tx.AddTxOut(&wire.TxOut{Value: int64(i), PkScript: make([]byte, 22)})
		txs = append(txs, tx)
	}
	return txs, nil
}

func hayTerms() watchtower.Terms {
	return watchtower.Terms{
		Limits: watchtower.Limits{Sessions: 1 << 20, Updates: 1 << 40, Bytes: 1 << 50}, For: 1000 * time.Hour, Notice: time.Hour, Grace: time.Hour,
		MinSweepFee: watchtower.LeastSweepFee, MaxUpdates: maxSession,
	}
}

func openOurs(ctx context.Context, dir string) (*store.DB, error) {
	db, err := store.Open(ctx, store.Config{Engine: store.SQLite, Path: filepath.Join(dir, "tower.sqlite")})
	if err != nil {
		return nil, err
	}
	return db, tower.Migrate(ctx, db)
}

// FillOurs stores a hay in our database below a directory.
func (h Hay) FillOurs(ctx context.Context, dir string) (err error) {
	db, err := openOurs(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	s := tower.New(db)
	tenant, err := s.Register(ctx, "node:02", ln.PubKey{2, 1}, hayTerms(), func(int64) error { return nil })
	if err != nil {
		return err
	}
	var jobs []*tower.Job
	flush := func() error {
		if err := s.Apply(ctx, hayTerms(), jobs...); err != nil {
			return err
		}
		for _, j := range jobs {
			if j.Refusal != nil {
				return j.Refusal
			}
		}
		jobs = jobs[:0]
		return nil
	}
	last := -1
	if err := h.each(func(session int, u *wtdb.SessionStateUpdate) error {
		if session != last {
			jobs, last = append(jobs, &tower.Job{Tenant: tenant.ID, Session: h.session(session)}), session
		}
		if jobs = append(jobs, &tower.Job{Tenant: tenant.ID, Update: u}); len(jobs) < 5000 {
			return nil
		}
		return flush()
	}); err != nil {
		return err
	}
	return flush()
}

func openTheirs(dir string) (*wtdb.TowerDB, error) {
	backend, err := wtdb.NewBoltBackendCreator(true, dir, "watchtower.db")(&kvdb.BoltConfig{DBTimeout: kvdb.DefaultDBTimeout})
	if err != nil {
		return nil, err
	}
	return wtdb.OpenTowerDB(backend)
}

// FillTheirs stores the same in lnd's database below a directory.
func (h Hay) FillTheirs(dir string) (err error) {
	db, err := openTheirs(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	last := -1
	return h.each(func(session int, u *wtdb.SessionStateUpdate) error {
		if session != last {
			if err := db.InsertSessionInfo(h.session(session)); err != nil {
				return err
			}
			last = session
		}
		_, err := db.InsertStateUpdate(u)
		return err
	})
}

// SearchOurs lets our lookout search the block, and says how long it took until
// every justice transaction was handed out.
func (h Hay) SearchOurs(ctx context.Context, dir string) (took time.Duration, err error) {
	db, err := openOurs(ctx, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	s, chain := tower.New(db), NewChain(1)
	if err := s.SetTip(ctx, watchtower.Point{Height: 1, Hash: chain.best[1].BlockHash()}); err != nil {
		return 0, err
	}
	txs, err := h.block()
	if err != nil {
		return 0, err
	}
	l := lookout.New(lookout.Config{Chain: chain, Store: s, Depths: watchtower.Depths{Bury: 144, Forget: 2016}, Now: time.Now, Log: zap.NewNop()}, lookout.NewMetrics())
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- l.Run(running) }()
	defer func() { cancel(); err = errors.Join(err, <-done) }()
	began := time.Now()
	chain.Mine(txs...)
	if err := chain.WaitPool(ctx, h.Breaches); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// epochs gives lnd's mock the way to cancel that it lacks.
type epochs struct{ *lndlookout.MockBackend }

// RegisterBlockEpochNtfn implements lnd's lookout's registrar.
func (e epochs) RegisterBlockEpochNtfn(from *chainntnfs.BlockEpoch) (*chainntnfs.BlockEpochEvent, error) {
	ev, err := e.MockBackend.RegisterBlockEpochNtfn(from)
	ev.Cancel = func() {}
	return ev, err
}

// SearchTheirs is the same with lnd's lookout on lnd's database.
func (h Hay) SearchTheirs(ctx context.Context, dir string) (took time.Duration, err error) {
	db, err := openTheirs(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	txs, err := h.block()
	if err != nil {
		return 0, err
	}
	published := make(chan struct{}, h.Breaches)
	backend := epochs{lndlookout.NewMockBackend()}
	l := lndlookout.New(&lndlookout.Config{
		BlockFetcher: backend, DB: db, EpochRegistrar: backend, MinBackoff: time.Second, MaxBackoff: time.Minute, MaxNumRetries: 1,
		Punisher: lndlookout.NewBreachPunisher(&lndlookout.PunisherConfig{PublishTx: func(*wire.MsgTx, string) error { published <- struct{}{}; return nil }}),
	})
	if err := l.Start(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Stop()) }()
	block := &wire.MsgBlock{Transactions: txs}
	hash := block.BlockHash()
	began := time.Now()
	backend.ConnectEpoch(&chainntnfs.BlockEpoch{Hash: &hash, Height: 2}, block)
	for range h.Breaches {
		select {
		case <-published:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return time.Since(began), nil
}

// Scratch is a directory for what need not be on a disk: a thousand thousand
// synced commits of lnd's database would take an hour there.
func Scratch() (string, error) {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return os.MkdirTemp("/dev/shm", "sluice-bench-")
	}
	return os.MkdirTemp("", "sluice-bench-")
}
