package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/chainntnfs"
	"github.com/lightningnetwork/lnd/kvdb"
	lndtower "github.com/lightningnetwork/lnd/watchtower"
	"github.com/lightningnetwork/lnd/watchtower/blob"
	lndlookout "github.com/lightningnetwork/lnd/watchtower/lookout"
	"github.com/lightningnetwork/lnd/watchtower/wtdb"
	"github.com/lightningnetwork/lnd/watchtower/wtpolicy"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/watchtower"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
	"github.com/sluice-lsp/sluice/watchtower/towertest"
)

// lndDB is lnd's whole database interface on one tenant of ours.
type lndDB struct {
	*DB
	store *tower.Store
}

var _ lndtower.DB = (*lndDB)(nil)

func (d *lndDB) GetLookoutTip() (*chainntnfs.BlockEpoch, error) {
	tip, ok, err := d.store.Tip(context.Background())
	if err != nil || !ok {
		return nil, err
	}
	return &chainntnfs.BlockEpoch{Height: tip.Height, Hash: &tip.Hash}, nil
}

func (d *lndDB) SetLookoutTip(e *chainntnfs.BlockEpoch) error {
	return d.store.SetTip(context.Background(), watchtower.Point{Height: e.Height, Hash: *e.Hash})
}

func (d *lndDB) QueryMatches(hints []blob.BreachHint) ([]wtdb.Match, error) {
	found, err := d.store.Matches(context.Background(), hints)
	var out []wtdb.Match
	for _, m := range found {
		out = append(out, m.Match)
	}
	return out, err
}

// noChain is never reached: nobody searches in these tests.
type noChain struct{}

func (noChain) Best(context.Context) (int32, error) { return 0, errors.New("no chain") }
func (noChain) BlockHash(context.Context, int32) (chainhash.Hash, error) {
	return chainhash.Hash{}, errors.New("no chain")
}

func (noChain) Block(context.Context, chainhash.Hash) (*wire.MsgBlock, error) {
	return nil, errors.New("no chain")
}
func (noChain) Publish(context.Context, []byte) error     { return errors.New("no chain") }
func (noChain) Watch(ctx context.Context, _ func()) error { <-ctx.Done(); return ctx.Err() }

// unled never gives the lease.
func unled(ctx context.Context) (Lease, error) { <-ctx.Done(); return nil, ctx.Err() }

func testConfig() Config {
	c := Defaults()
	c.Addresses = []string{"tower.example:9911"}
	return c
}

// engineOn runs an engine without listener until the test ends.
func engineOn(t testing.TB, db *store.DB, change func(*Options)) *Engine {
	t.Helper()
	require.NoError(t, tower.Migrate(context.Background(), db))
	o := Options{
		DB: db, Secret: bytes.Repeat([]byte{1}, 32), Chain: noChain{}, Acquire: unled, Config: testConfig(), Now: db.Now, Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
	}
	if change != nil {
		change(&o)
	}
	e, err := New(o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return e
}

func node(i byte) ln.PubKey {
	k, _ := btcec.PrivKeyFromBytes(bytes.Repeat([]byte{i}, 32))
	return ln.PubKey(k.PubKey().SerializeCompressed())
}

func register(t testing.TB, e *Engine, i byte) watchtower.Tenant {
	t.Helper()
	tenant, err := e.Register(t.Context(), node(i), "192.0.2.1")
	require.NoError(t, err)
	return tenant
}

// bolt is lnd's own database, which the suite must hold for as well.
func bolt(t testing.TB) *wtdb.TowerDB {
	t.Helper()
	backend, err := wtdb.NewBoltBackendCreator(true, t.TempDir(), "watchtower.db")(&kvdb.BoltConfig{DBTimeout: kvdb.DefaultDBTimeout})
	require.NoError(t, err)
	db, err := wtdb.OpenTowerDB(backend)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func eachDB(t *testing.T, f func(t *testing.T, db lndtower.DB)) {
	t.Run("lnd's own", func(t *testing.T) { f(t, bolt(t)) })
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		e := engineOn(t, open(), nil)
		f(t, &lndDB{DB: e.DB(register(t, e, 1).ID), store: e.store})
	})
}

func sessionID(i int) (id wtdb.SessionID) {
	binary.BigEndian.PutUint32(id[:], uint32(i))
	return id
}

func session(i int, t blob.Type, maxUpdates uint16) *wtdb.SessionInfo {
	return &wtdb.SessionInfo{
		ID: sessionID(i), RewardAddress: []byte{},
		Policy: wtpolicy.Policy{TxPolicy: wtpolicy.TxPolicy{BlobType: t, SweepFeeRate: wtpolicy.DefaultSweepFeeRate}, MaxUpdates: maxUpdates},
	}
}

func sizeOf(t testing.TB, kind blob.Type) int {
	t.Helper()
	commitment, err := kind.CommitmentType(nil)
	require.NoError(t, err)
	kit, err := commitment.EmptyJusticeKit()
	require.NoError(t, err)
	return blob.Size(kit)
}

func hint(i int) (h blob.BreachHint) {
	binary.BigEndian.PutUint32(h[:], uint32(i)+1)
	return h
}

func update(t testing.TB, s *wtdb.SessionInfo, seq, lastApplied uint16, h int) *wtdb.SessionStateUpdate {
	return &wtdb.SessionStateUpdate{
		ID: s.ID, SeqNum: seq, LastApplied: lastApplied, Hint: hint(h),
		EncryptedBlob: bytes.Repeat([]byte{byte(seq), byte(h)}, sizeOf(t, s.Policy.BlobType))[:sizeOf(t, s.Policy.BlobType)],
	}
}

// TestSessions is the contract of sessions.
func TestSessions(t *testing.T) {
	eachDB(t, func(t *testing.T, db lndtower.DB) {
		for n, kind := range blob.SupportedTypes() {
			s := session(n, kind, 3)
			_, err := db.GetSessionInfo(&s.ID)
			require.ErrorIs(t, err, wtdb.ErrSessionNotFound)
			require.ErrorIs(t, db.DeleteSession(s.ID), wtdb.ErrSessionNotFound)
			low := *s
			low.Policy.SweepFeeRate = wtpolicy.MinSweepFeeRate - 1
			require.ErrorIs(t, db.InsertSessionInfo(&low), wtpolicy.ErrSweepFeeRateTooLow)
			none := *s
			none.Policy.MaxUpdates = 0
			require.ErrorIs(t, db.InsertSessionInfo(&none), wtpolicy.ErrNoMaxUpdates)
			require.NoError(t, db.InsertSessionInfo(s))
			// Until it is used its terms may change.
			s.Policy.MaxUpdates, s.Policy.SweepFeeRate, s.RewardAddress = 7, 12_345, []byte{1, 2, 3}
			require.NoError(t, db.InsertSessionInfo(s))
			got, err := db.GetSessionInfo(&s.ID)
			require.NoError(t, err)
			require.Equal(t, s, got)
			last, err := db.InsertStateUpdate(update(t, s, 1, 0, 100+n))
			require.NoError(t, err)
			require.EqualValues(t, 1, last)
			require.ErrorIs(t, db.InsertSessionInfo(s), wtdb.ErrSessionAlreadyExists)
			got, err = db.GetSessionInfo(&s.ID)
			require.NoError(t, err)
			require.EqualValues(t, 1, got.LastApplied)
		}
	})
}

// TestUpdateSequences is the contract of updates: which numbers may follow which,
// and what the client hears.
func TestUpdateSequences(t *testing.T) {
	type step struct {
		seq, last uint16
		want      error
	}
	for name, steps := range map[string][]step{
		"in order":                    {{1, 0, nil}, {2, 1, nil}, {3, 2, nil}, {4, 3, wtdb.ErrSessionConsumed}},
		"acknowledgements never came": {{1, 0, nil}, {2, 0, nil}, {3, 0, nil}},
		"the last one comes again":    {{1, 0, nil}, {1, 0, nil}, {2, 1, nil}, {2, 1, nil}},
		"a number of 0":               {{0, 0, wtdb.ErrSeqNumAlreadyApplied}, {1, 0, nil}},
		"one is skipped":              {{2, 0, wtdb.ErrUpdateOutOfOrder}, {1, 0, nil}, {3, 1, wtdb.ErrUpdateOutOfOrder}},
		"back to an earlier one":      {{1, 0, nil}, {2, 0, nil}, {1, 0, wtdb.ErrUpdateOutOfOrder}},
		"what was acknowledged":       {{1, 0, nil}, {2, 1, nil}, {2, 2, wtdb.ErrSeqNumAlreadyApplied}, {1, 2, wtdb.ErrSeqNumAlreadyApplied}},
		"the client knows less now":   {{1, 0, nil}, {2, 1, nil}, {3, 0, wtdb.ErrLastAppliedReversion}, {3, 2, nil}},
		"the client knows the future": {{1, 0, nil}, {2, 7, wtdb.ErrSeqNumAlreadyApplied}},
	} {
		t.Run(name, func(t *testing.T) {
			eachDB(t, func(t *testing.T, db lndtower.DB) {
				s := session(1, blob.TypeAltruistAnchorCommit, 3)
				_, err := db.InsertStateUpdate(update(t, s, 1, 0, 1))
				require.ErrorIs(t, err, wtdb.ErrSessionNotFound)
				require.NoError(t, db.InsertSessionInfo(s))
				held := map[uint16]bool{}
				for i, st := range steps {
					last, err := db.InsertStateUpdate(update(t, s, st.seq, st.last, int(st.seq)))
					require.ErrorIs(t, err, st.want, "step %d", i)
					if st.want != nil {
						require.Equal(t, st.want, err, "lnd's server compares the error itself")
						continue
					}
					require.Equal(t, st.seq, last, "step %d", i)
					held[st.seq] = true
					got, err := db.GetSessionInfo(&s.ID)
					require.NoError(t, err)
					require.Equal(t, [2]uint16{st.seq, st.last}, [2]uint16{got.LastApplied, got.ClientLastApplied})
				}
				for seq := uint16(0); seq < 10; seq++ {
					found, err := db.QueryMatches([]blob.BreachHint{hint(int(seq))})
					require.NoError(t, err)
					require.Equal(t, held[seq], len(found) == 1, "update %d", seq)
				}
			})
		})
	}
}

func TestBlobsHaveTheirSize(t *testing.T) {
	eachDB(t, func(t *testing.T, db lndtower.DB) {
		for n, kind := range blob.SupportedTypes() {
			s := session(n, kind, 3)
			require.NoError(t, db.InsertSessionInfo(s))
			for _, wrong := range []int{0, 1, sizeOf(t, kind) - 1, sizeOf(t, kind) + 1, 65_000} {
				u := update(t, s, 1, 0, 1)
				u.EncryptedBlob = make([]byte, wrong)
				_, err := db.InsertStateUpdate(u)
				require.ErrorIs(t, err, wtdb.ErrInvalidBlobSize)
			}
			_, err := db.InsertStateUpdate(update(t, s, 1, 0, 1))
			require.NoError(t, err)
		}
	})
}

// TestMatchesAndDeletion: every session's update under a hint is found with its
// session, in whatever company it is asked for, until its session is deleted.
func TestMatchesAndDeletion(t *testing.T) {
	eachDB(t, func(t *testing.T, db lndtower.DB) {
		kinds := blob.SupportedTypes()
		var all []*wtdb.SessionInfo
		for i := range 5 {
			s := session(i, kinds[i%len(kinds)], 10)
			require.NoError(t, db.InsertSessionInfo(s))
			for seq := uint16(1); seq <= 3; seq++ {
				_, err := db.InsertStateUpdate(update(t, s, seq, 0, int(seq))) // shared hints
				require.NoError(t, err)
			}
			all = append(all, s)
		}
		// Far more than one statement takes, with the hits among them.
		var hints []blob.BreachHint
		for i := 3000; i > 0; i-- {
			hints = append(hints, hint(i+3))
			if i%1000 == 0 {
				hints = append(hints, hint(i/1000))
			}
		}
		for gone := range all {
			found, err := db.QueryMatches(hints)
			require.NoError(t, err)
			seen := map[string]bool{}
			for _, m := range found {
				s := all[binary.BigEndian.Uint32(m.ID[:])]
				u := update(t, s, m.SeqNum, 0, int(m.SeqNum))
				require.Equal(t, u.Hint, m.Hint)
				require.Equal(t, u.EncryptedBlob, m.EncryptedBlob)
				require.Equal(t, s.Policy, m.SessionInfo.Policy)
				require.EqualValues(t, 3, m.SessionInfo.LastApplied)
				seen[fmt.Sprint(m.ID, m.SeqNum)] = true
			}
			require.Len(t, seen, 3*(len(all)-gone))
			require.Len(t, found, len(seen))
			require.NoError(t, db.DeleteSession(all[gone].ID))
			_, err = db.GetSessionInfo(&all[gone].ID)
			require.ErrorIs(t, err, wtdb.ErrSessionNotFound)
		}
		found, err := db.QueryMatches(hints)
		require.NoError(t, err)
		require.Empty(t, found)
		found, err = db.QueryMatches(nil)
		require.NoError(t, err)
		require.Empty(t, found)
	})
}

func TestLookoutTip(t *testing.T) {
	eachDB(t, func(t *testing.T, db lndtower.DB) {
		tip, err := db.GetLookoutTip()
		require.NoError(t, err)
		require.Nil(t, tip)
		for _, height := range []int32{1, 2, 2, 800_000, 5} {
			want := &chainntnfs.BlockEpoch{Height: height, Hash: &chainhash.Hash{byte(height), 9}}
			require.NoError(t, db.SetLookoutTip(want))
			got, err := db.GetLookoutTip()
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	})
}

// TestAgainstLndsDatabase plays random requests to lnd's database and to ours: the
// answers and what is found are the same.
func TestAgainstLndsDatabase(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		e := engineOn(t, open(), nil)
		ours := &lndDB{DB: e.DB(register(t, e, 1).ID), store: e.store}
		theirs := bolt(t)
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's draws
		kinds := blob.SupportedTypes()
		for i := range 1500 {
			s := session(r.IntN(3), kinds[r.IntN(len(kinds))], uint16(1+r.IntN(6)))
			switch r.IntN(12) {
			case 0:
				a, b := ours.InsertSessionInfo(s), theirs.InsertSessionInfo(s)
				require.Equal(t, b, a, "step %d", i)
			case 1:
				if r.IntN(4) == 0 {
					require.Equal(t, theirs.DeleteSession(s.ID), ours.DeleteSession(s.ID), "step %d", i)
				}
			default:
				if now, err := theirs.GetSessionInfo(&s.ID); err == nil {
					s = now
				}
				u := update(t, s, uint16(r.IntN(7)), uint16(r.IntN(4)), r.IntN(12))
				if r.IntN(3) > 0 {
					// Mostly as a client does.
					u.SeqNum, u.LastApplied = s.LastApplied+uint16(r.IntN(2)), s.ClientLastApplied
				}
				a, errA := ours.InsertStateUpdate(u)
				b, errB := theirs.InsertStateUpdate(u)
				require.Equal(t, errB, errA, "step %d", i)
				require.Equal(t, b, a, "step %d", i)
			}
			a, errA := ours.GetSessionInfo(&s.ID)
			b, errB := theirs.GetSessionInfo(&s.ID)
			require.Equal(t, errB, errA, "step %d", i)
			require.Equal(t, b, a, "step %d", i)
			if i%50 == 0 {
				sameMatches(t, ours, theirs)
			}
		}
		sameMatches(t, ours, theirs)
		usageIsExact(t, e)
	})
}

func sameMatches(t *testing.T, a, b lndtower.DB) {
	t.Helper()
	var hints []blob.BreachHint
	for i := range 12 {
		hints = append(hints, hint(i))
	}
	left, err := a.QueryMatches(hints)
	require.NoError(t, err)
	right, err := b.QueryMatches(hints)
	require.NoError(t, err)
	require.ElementsMatch(t, right, left)
}

// usageIsExact: the counters that quotas are judged by are what is stored.
func usageIsExact(t *testing.T, e *Engine) {
	t.Helper()
	tenants, err := e.Tenants(t.Context(), "", 1000)
	require.NoError(t, err)
	for _, tenant := range tenants {
		sessions, err := e.store.AllSessions(t.Context(), tenant.ID)
		require.NoError(t, err)
		var sum watchtower.Usage
		for _, s := range sessions {
			var held watchtower.Usage
			held.Sessions = 1
			for seq := 0; seq <= int(s.MaxUpdates); seq++ {
				updates, err := e.Updates(t.Context(), tenant.ID, s.ID, uint16(seq))
				require.NoError(t, err)
				for _, u := range updates {
					held = held.Plus(watchtower.Usage{Updates: 1, Bytes: int64(len(u.Blob) + len(u.Hint))})
				}
			}
			require.Equal(t, held, s.Usage)
			sum = sum.Plus(held)
		}
		require.Equal(t, sum, tenant.Usage)
	}
}

// TestStatementsCountWhatIsThere: a row that is lost is missing in the next statement,
// whatever the counters say.
func TestStatementsCountWhatIsThere(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		e := engineOn(t, db, nil)
		mine, other := register(t, e, 1), register(t, e, 2)
		for _, tenant := range []watchtower.Tenant{mine, other} {
			wt := e.DB(tenant.ID)
			for i := range 3 {
				s := session(i, blob.TypeAltruistAnchorCommit, 10)
				require.NoError(t, wt.InsertSessionInfo(s))
				for seq := range uint16(2 * i) {
					_, err := wt.InsertStateUpdate(update(t, s, seq+1, seq, 10*i+int(seq)))
					require.NoError(t, err)
				}
			}
		}
		held := func(tenant watchtower.Tenant) (out []int64) {
			s, err := e.Statement(t.Context(), tenant, make([]byte, watchtower.NonceSize))
			require.NoError(t, err)
			require.NoError(t, s.Verify())
			for _, session := range s.Sessions {
				out = append(out, session.Updates)
			}
			return out
		}
		require.Equal(t, []int64{0, 2, 4}, held(mine))
		require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.ExecContext(ctx, "DELETE FROM tower_updates WHERE seq = 1 AND session IN (SELECT num FROM tower_sessions WHERE tenant = $1)", mine.ID)
			return err
		}))
		require.Equal(t, []int64{0, 1, 3}, held(mine))
		require.Equal(t, []int64{0, 2, 4}, held(other))
	})
}

// TestLndsLookoutOnOurDatabase: lnd's own lookout works with it.
func TestLndsLookoutOnOurDatabase(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		e := engineOn(t, open(), nil)
		db := &lndDB{DB: e.DB(register(t, e, 1).ID), store: e.store}
		breach, err := towertest.NewBreach(towertest.Policy(), 1)
		require.NoError(t, err)
		s := &wtdb.SessionInfo{ID: sessionID(1), Policy: towertest.Policy()}
		require.NoError(t, db.InsertSessionInfo(s))
		_, err = db.InsertStateUpdate(&wtdb.SessionStateUpdate{ID: s.ID, SeqNum: 1, Hint: breach.Hint, EncryptedBlob: breach.Blob})
		require.NoError(t, err)
		backend, punished := registrar{lndlookout.NewMockBackend()}, make(chan *lndlookout.JusticeDescriptor, 1)
		l := lndlookout.New(&lndlookout.Config{BlockFetcher: backend, DB: db, EpochRegistrar: backend, Punisher: punisher(punished), MinBackoff: time.Second, MaxBackoff: time.Minute, MaxNumRetries: 1})
		require.NoError(t, l.Start())
		defer func() { require.NoError(t, l.Stop()) }()
		block := &wire.MsgBlock{Header: wire.BlockHeader{Nonce: 1}, Transactions: []*wire.MsgTx{breach.Commit}}
		hash := block.BlockHash()
		backend.ConnectEpoch(&chainntnfs.BlockEpoch{Hash: &hash, Height: 7}, block)
		select {
		case desc := <-punished:
			require.Equal(t, s.ID, desc.SessionInfo.ID)
			justice, err := desc.CreateJusticeTxn()
			require.NoError(t, err)
			require.Equal(t, breach.Justice.TxHash(), justice.TxHash())
			require.NoError(t, breach.Check(justice))
		case <-time.After(time.Minute):
			t.Fatal("lnd's lookout found nothing")
		}
		require.Eventually(t, func() bool {
			tip, err := db.GetLookoutTip()
			return err == nil && tip != nil && tip.Height == 7
		}, time.Minute, 10*time.Millisecond)
	})
}

// registrar gives lnd's mock the way to cancel that it lacks.
type registrar struct{ *lndlookout.MockBackend }

func (r registrar) RegisterBlockEpochNtfn(from *chainntnfs.BlockEpoch) (*chainntnfs.BlockEpochEvent, error) {
	ev, err := r.MockBackend.RegisterBlockEpochNtfn(from)
	ev.Cancel = func() {}
	return ev, err
}

type punisher chan *lndlookout.JusticeDescriptor

func (p punisher) Punish(d *lndlookout.JusticeDescriptor, _ <-chan struct{}) error {
	p <- d
	return nil
}

// TestCrashDuringUpdates ends the process before and after each commit of a
// client's uploads: the client goes on where it stopped, without a gap, and what
// was acknowledged is there.
func TestCrashDuringUpdates(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cfg.Hooks = faults.Hooks()
		db := storetest.Open(t, cfg)
		e := engineOn(t, db, nil)
		tenant := register(t, e, 1)
		d := e.DB(tenant.ID)
		for _, point := range []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit} {
			for n := int64(1); n <= 6; n++ {
				s := session(int(n)+100*int(point), blob.TypeAltruistTaprootFinalCommit, 5)
				acked, crashed := uint16(0), faults.CrashAt(n, point)
				upload := func(restarted bool) {
					if err := d.InsertSessionInfo(s); err != nil && !errors.Is(err, wtdb.ErrSessionAlreadyExists) {
						require.False(t, restarted)
						return
					}
					for seq := acked + 1; seq <= 5; seq++ {
						last, err := d.InsertStateUpdate(update(t, s, seq, acked, int(n)*10+int(seq)))
						if err != nil {
							require.False(t, restarted, "%s commit %d: update %d: %v", point, n, seq, err)
							return
						}
						require.Equal(t, seq, last)
						acked = seq
					}
				}
				upload(false)
				select {
				case <-crashed:
				default:
					t.Fatalf("%s commit %d was not reached", point, n)
				}
				faults.Restart()
				upload(true)
				for seq := uint16(1); seq <= 5; seq++ {
					held, err := e.Updates(t.Context(), tenant.ID, s.ID, seq)
					require.NoError(t, err)
					require.Len(t, held, 1)
				}
			}
		}
		usageIsExact(t, e)
	})
}

// TestNoAcknowledgementOnAFullDisk: an update that could not be stored is not
// acknowledged, and is taken when there is room again.
func TestNoAcknowledgementOnAFullDisk(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cfg.Hooks = faults.Hooks()
		e := engineOn(t, storetest.Open(t, cfg), nil)
		d := e.DB(register(t, e, 1).ID)
		s := session(1, blob.TypeAltruistAnchorCommit, 100)
		require.NoError(t, d.InsertSessionInfo(s))
		for i, fault := range []storetest.Fault{storetest.Full, storetest.Gone, storetest.Locked} {
			seq := uint16(i + 1)
			faults.Set(fault)
			_, err := d.InsertStateUpdate(update(t, s, seq, seq-1, int(seq)))
			require.ErrorIs(t, err, store.ErrUnavailable)
			faults.Set(storetest.Healthy)
			last, err := d.InsertStateUpdate(update(t, s, seq, seq-1, int(seq)))
			require.NoError(t, err)
			require.Equal(t, seq, last)
		}
	})
}

// TestManyAtOnce: sessions of two tenants upload beside each other; each is in
// order, and nothing is lost or counted twice.
func TestManyAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		e := engineOn(t, open(), nil)
		const sessions, updates = 8, 25
		tenants := []watchtower.Tenant{register(t, e, 1), register(t, e, 2)}
		var wg sync.WaitGroup
		for _, tenant := range tenants {
			for i := range sessions {
				wg.Go(func() {
					// Both tenants use the same session keys.
					d, s := e.DB(tenant.ID), session(i, blob.TypeAltruistAnchorCommit, updates)
					if !assertNoError(t, d.InsertSessionInfo(s)) {
						return
					}
					for seq := uint16(1); seq <= updates; seq++ {
						if _, err := d.InsertStateUpdate(update(t, s, seq, seq-1, i*1000+int(seq))); !assertNoError(t, err) {
							return
						}
					}
				})
			}
		}
		wg.Wait()
		for _, tenant := range tenants {
			got, err := e.Tenant(t.Context(), tenant.Identity)
			require.NoError(t, err)
			require.EqualValues(t, sessions, got.Usage.Sessions)
			require.EqualValues(t, sessions*updates, got.Usage.Updates)
		}
		usageIsExact(t, e)
	})
}

func assertNoError(t *testing.T, err error) bool {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	return err == nil
}
