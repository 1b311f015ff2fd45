package lookout_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/watchtower/wtdb"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/lookout"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
	"github.com/sluice-lsp/sluice/watchtower/towertest"
)

// patience is far above what any of this takes on a loaded machine.
const patience = 2 * time.Minute

// post is a lookout at its post, on a chain that the test rules.
type post struct {
	t      *testing.T
	chain  *towertest.Chain
	store  *tower.Store
	tenant watchtower.Tenant
	l      *lookout.Lookout
	stop   func() error
	seq    uint16
	ctx    context.Context //nolint:containedctx // the test's
}

func terms() watchtower.Terms {
	return watchtower.Terms{
		Limits: watchtower.Limits{Sessions: 100, Updates: 100_000, Bytes: 1 << 30}, For: time.Hour, Notice: time.Minute, Grace: time.Hour,
		MinSweepFee: watchtower.LeastSweepFee, MaxUpdates: 65_535,
	}
}

func newPost(t *testing.T, db *store.DB) *post {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	require.NoError(t, tower.Migrate(ctx, db))
	p := &post{t: t, chain: towertest.NewChain(10), store: tower.New(db), ctx: ctx}
	var err error
	p.tenant, err = p.store.Register(ctx, "node:02", ln.PubKey{2, 1}, terms(), func(int64) error { return nil })
	require.NoError(t, err)
	policy := towertest.Policy()
	policy.MaxUpdates = 65_535
	p.apply(&tower.Job{Tenant: p.tenant.ID, Session: &wtdb.SessionInfo{ID: wtdb.SessionID{1}, Policy: policy}})
	require.NoError(t, lookout.Begin(ctx, p.chain, p.store))
	return p
}

func (p *post) apply(jobs ...*tower.Job) {
	p.t.Helper()
	require.NoError(p.t, p.store.Apply(p.ctx, terms(), jobs...))
	for _, j := range jobs {
		require.NoError(p.t, j.Refusal)
	}
}

// breach makes the n-th breach and uploads its blob.
func (p *post) breach(n uint64) *towertest.Breach {
	p.t.Helper()
	b, err := towertest.NewBreach(towertest.Policy(), n)
	require.NoError(p.t, err)
	require.NoError(p.t, b.Check(b.Justice))
	p.upload(b, b.Blob)
	return b
}

func (p *post) upload(b *towertest.Breach, encrypted []byte) {
	p.t.Helper()
	p.seq++
	p.apply(&tower.Job{Tenant: p.tenant.ID, Update: &wtdb.SessionStateUpdate{ID: wtdb.SessionID{1}, SeqNum: p.seq, LastApplied: p.seq - 1, Hint: b.Hint, EncryptedBlob: encrypted}})
}

func (p *post) start() {
	p.t.Helper()
	p.l = lookout.New(lookout.Config{
		Chain: p.chain, Store: p.store, Depths: watchtower.Depths{Bury: 6, Forget: 20}, Now: time.Now, Log: zaptest.NewLogger(p.t, zaptest.Level(zap.ErrorLevel)),
	}, lookout.NewMetrics())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.l.Run(ctx) }()
	var once sync.Once
	var err error
	p.stop = func() error {
		once.Do(func() { cancel(); err = <-done })
		return err
	}
	p.t.Cleanup(func() { require.NoError(p.t, p.stop()) })
}

// until waits for something that no event tells.
func (p *post) until(what string, cond func() bool) {
	p.t.Helper()
	for !cond() {
		select {
		case <-time.After(3 * time.Millisecond):
		case <-p.ctx.Done():
			p.t.Fatalf("waiting for %s: %+v", what, p.l.View())
		}
	}
}

func (p *post) synced() {
	p.t.Helper()
	p.until("the tip", func() bool {
		tip, ok, err := p.store.Tip(p.ctx)
		require.NoError(p.t, err)
		hash, err := p.chain.BlockHash(p.ctx, tip.Height)
		return ok && err == nil && tip.Height == p.chain.Height() && hash == tip.Hash
	})
}

func (p *post) list() []watchtower.Breach {
	p.t.Helper()
	list, err := p.store.Breaches(p.ctx, p.tenant.ID, tower.Cursor{}, 1000)
	require.NoError(p.t, err)
	return list
}

// of waits until the breach of a commitment is in a state, and gives it.
func (p *post) of(b *towertest.Breach, state watchtower.BreachState) (out watchtower.Breach) {
	p.t.Helper()
	p.until(fmt.Sprintf("a breach to be %s (is %s)", state, out.State), func() bool {
		for _, known := range p.list() {
			if known.CommitTx == b.Commit.TxHash() {
				out = known
				return known.State == state
			}
		}
		return false
	})
	return out
}

func each(t *testing.T, f func(t *testing.T, p *post)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, open func() *store.DB) { f(t, newPost(t, open())) })
}

// TestJustice is the main job: found, published, swept, buried, with its story.
func TestJustice(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		b := p.breach(1)
		p.start()
		p.chain.Mine()
		p.chain.Mine(wire.NewMsgTx(1), b.Commit)
		require.NoError(t, p.chain.WaitPool(p.ctx, 1))
		require.True(t, p.chain.InPool(b.Justice.TxHash()), "it is the very transaction that the client signed")
		got := p.of(b, watchtower.Published)
		require.Equal(t, int64(towertest.ToLocalSat+towertest.ToRemoteSat), got.SweptSat+got.FeeSat)
		require.Equal(t, b.FeeSat(), got.FeeSat)
		p.chain.Mine(b.Justice)
		p.of(b, watchtower.Swept)
		for range 4 {
			p.chain.Mine()
		}
		p.synced()
		require.False(t, p.list()[0].Final, "one block before it is buried")
		p.chain.Mine()
		p.until("the case to be closed", func() bool { return p.list()[0].Final && p.l.View().Open == 0 })
		_, story, err := p.store.Breach(p.ctx, p.tenant.ID, got.ID)
		require.NoError(t, err)
		require.Len(t, story, 4)
		_, _, err = p.store.Breach(p.ctx, p.tenant.ID+1, got.ID)
		require.Error(t, err, "another tenant's eyes")
	})
}

// TestWhoTookTheOutputs tells our transaction, the victim's own and the cheater's
// apart, also in the commitment's own block.
func TestWhoTookTheOutputs(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		p.start()
		for n, c := range []struct {
			spend func(*towertest.Breach) (*wire.MsgTx, error)
			want  watchtower.BreachState
		}{
			{func(b *towertest.Breach) (*wire.MsgTx, error) { return b.Justice, nil }, watchtower.Swept},
			{(*towertest.Breach).TakenByVictim, watchtower.Elsewhere},
			{(*towertest.Breach).TakenByCheater, watchtower.Lost},
		} {
			for i, together := range []bool{false, true} {
				b := p.breach(uint64(10*n + i))
				tx, err := c.spend(b)
				require.NoError(t, err)
				if c.want != watchtower.Lost { // its delay is not met here
					require.NoError(t, b.Check(tx))
				}
				if together {
					p.chain.Mine(b.Commit, tx)
				} else {
					p.chain.Mine(b.Commit)
					p.of(b, watchtower.Published)
					p.chain.Mine(tx)
				}
				got := p.of(b, c.want)
				require.Equal(t, tx.TxHash(), got.Spend.TxID)
			}
		}
	})
}

// TestNoBlockIsSkipped: the backend fails in every way at every step while
// breaches are mined, and the lookout is restarted meanwhile.
func TestNoBlockIsSkipped(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		var all []*towertest.Breach
		for n := range uint64(30) {
			all = append(all, p.breach(n))
		}
		p.start()
		for i, b := range all {
			if i%10 == 3 {
				p.chain.Away(errors.New("connection refused"))
			}
			p.chain.Mine(b.Commit)
			if i%10 == 6 {
				require.NoError(t, p.stop())
			}
			if i%10 == 8 {
				p.chain.Away(nil)
				p.start()
			}
		}
		p.synced()
		require.NoError(t, p.chain.WaitPool(p.ctx, len(all)))
		require.Len(t, p.list(), len(all))
	})
}

// TestCrashAtEveryCommit ends the process before and after each commit, from the
// block that shows the breach to its burial. Whoever comes back sees justice done.
func TestCrashAtEveryCommit(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cfg.Hooks = faults.Hooks()
		db := storetest.Open(t, cfg)
		for _, point := range []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit} {
			for n := int64(1); n <= 6; n++ {
				require.NoError(t, storetest.Empty(t.Context(), db))
				p := newPost(t, db)
				b := p.breach(uint64(n))
				crashed := faults.CrashAt(n, point)
				p.start()
				p.chain.Mine(b.Commit)
				life := make(chan struct{})
				go func() {
					defer close(life)
					select {
					case <-crashed:
					case <-p.ctx.Done():
					}
				}()
				// Go on with the life of the chain until it dies.
				dead := false
				for step := 0; step < 12 && !dead; step++ {
					select {
					case <-life:
						dead = true
					case <-time.After(20 * time.Millisecond):
						if p.chain.InPool(b.Justice.TxHash()) {
							p.chain.Mine(b.Justice)
						} else {
							p.chain.Mine()
						}
					}
				}
				_ = p.stop()
				faults.Restart()
				p.start()
				p.until("justice", func() bool {
					if p.chain.InPool(b.Justice.TxHash()) {
						p.chain.Mine(b.Justice)
					}
					list := p.list()
					return len(list) == 1 && list[0].State == watchtower.Swept
				})
				require.NoError(t, p.stop())
			}
		}
	})
}

// TestAnswersOfTheDatabaseAreLost: a commit that took place although its answer was
// lost does not leave the lookout behind what is stored.
func TestAnswersOfTheDatabaseAreLost(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cfg.Hooks = faults.Hooks()
		p := newPost(t, storetest.Open(t, cfg))
		var all []*towertest.Breach
		for n := range uint64(12) {
			all = append(all, p.breach(n))
		}
		p.start()
		p.synced()
		for n, b := range all {
			// The block's own commit, and those after it.
			faults.LoseAnswer(1 + int64(n)%3)
			p.chain.Mine(b.Commit)
			p.of(b, watchtower.Published)
			if n%4 == 3 {
				faults.LoseAnswer(1)
				p.chain.Reorganise(1, []*wire.MsgTx{b.Commit}, nil)
			}
			p.synced()
		}
		faults.Restart()
		require.NoError(t, p.chain.WaitPool(p.ctx, len(all)))
		require.Len(t, p.list(), len(all))
		require.Empty(t, p.l.View().Problem)
	})
}

// TestOneDamagedBreachHoldsUpNobody: a stored transaction that cannot be read is
// given up and told; the tower goes on with all others.
func TestOneDamagedBreachHoldsUpNobody(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		p := newPost(t, db)
		bad, gone, fine, later := p.breach(1), p.breach(2), p.breach(3), p.breach(4)
		p.chain.Refuse(func(*wire.MsgTx) error { return errors.New("away") })
		p.start()
		p.chain.Mine(bad.Commit, fine.Commit)
		p.chain.Mine(gone.Commit)
		for _, b := range []*towertest.Breach{bad, gone, fine} {
			p.of(b, watchtower.Found)
		}
		// One leaves the chain and is closed before it is damaged.
		p.chain.Reorganise(1, nil, nil)
		for range 20 {
			p.chain.Mine()
		}
		p.of(gone, watchtower.Vanished)
		require.NoError(t, p.stop())
		require.NoError(t, db.Write(p.ctx, func(ctx context.Context, tx *store.Tx) error {
			for _, b := range []*towertest.Breach{bad, gone} {
				id := b.Commit.TxHash()
				if _, err := tx.ExecContext(ctx, "UPDATE tower_breaches SET justice = $1 WHERE commit_tx = $2", []byte{1, 2, 3}, id[:]); err != nil {
					return err
				}
			}
			return nil
		}))
		p.chain.Refuse(nil)
		p.start()
		p.of(fine, watchtower.Published)
		got := p.of(bad, watchtower.Unusable)
		require.True(t, got.Final)
		require.Contains(t, got.Problem, "stored justice transaction")
		p.chain.Mine(gone.Commit, later.Commit)
		p.of(later, watchtower.Published)
		p.of(gone, watchtower.Unusable)
		require.Empty(t, p.l.View().Problem)
	})
}

// TestAThousandBreachesInABlock: every one is punished, and blobs that are
// nonsense among them hold up nobody.
func TestAThousandBreachesInABlock(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		const good, bad = 1000, 20
		var commits []*wire.MsgTx
		var jobs []*tower.Job
		for n := range uint64(good + bad) {
			b, err := towertest.NewBreach(towertest.Policy(), n)
			require.NoError(t, err)
			encrypted := b.Blob
			if n%50 == 7 {
				// Sent by a client that means no good: not even a ciphertext.
				encrypted = make([]byte, len(b.Blob))
			}
			p.seq++
			jobs = append(jobs, &tower.Job{Tenant: p.tenant.ID, Update: &wtdb.SessionStateUpdate{
				ID: wtdb.SessionID{1}, SeqNum: p.seq, LastApplied: p.seq - 1, Hint: b.Hint, EncryptedBlob: encrypted,
			}})
			commits = append(commits, b.Commit)
		}
		p.apply(jobs...)
		p.start()
		p.chain.Mine(commits...)
		nonsense := 0
		for n := range good + bad {
			if n%50 == 7 {
				nonsense++
			}
		}
		require.NoError(t, p.chain.WaitPool(p.ctx, good+bad-nonsense))
		p.until("all to be recorded", func() bool {
			tally, err := p.store.Tally(p.ctx)
			require.NoError(t, err)
			byState := map[watchtower.BreachState]int64{}
			for _, c := range tally {
				byState[c.State] = c.Breaches
			}
			return byState[watchtower.Published] == int64(good+bad-nonsense) && byState[watchtower.Unusable] == int64(nonsense)
		})
	})
}

// TestBlobsThatDecryptToNonsense: blobs of other breaches, and with outputs that
// the commitment does not have.
func TestBlobsThatDecryptToNonsense(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		p.start()
		other, err := towertest.NewBreach(towertest.Policy(), 99)
		require.NoError(t, err)
		swapped, err := towertest.NewBreach(towertest.Policy(), 1)
		require.NoError(t, err)
		p.upload(swapped, other.Blob)
		// A blob that decrypts under the right key and signs for another rate.
		dear := towertest.Policy()
		dear.SweepFeeRate *= 2
		wrong, err := towertest.NewBreach(dear, 2)
		require.NoError(t, err)
		p.upload(wrong, wrong.Blob)
		fine := p.breach(3)
		p.chain.Mine(swapped.Commit, wrong.Commit, fine.Commit)
		p.of(fine, watchtower.Published)
		for _, b := range []*towertest.Breach{swapped, wrong} {
			got := p.of(b, watchtower.Unusable)
			require.True(t, got.Final)
			require.NotEmpty(t, got.Problem)
		}
		require.Equal(t, 1, p.chain.PoolSize())
	})
}

// TestRefusedAndEvicted: what lnd refuses is handed out again, and what the mempool
// lost as well, as long as it is in no block.
func TestRefusedAndEvicted(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		b := p.breach(1)
		p.chain.Refuse(func(*wire.MsgTx) error { return errors.New("min relay fee not met") })
		p.start()
		p.chain.Mine(b.Commit)
		p.of(b, watchtower.Found)
		p.until("the refusal", func() bool { return strings.Contains(p.list()[0].Problem, "min relay fee") })
		p.chain.Refuse(nil)
		p.chain.Mine()
		got := p.of(b, watchtower.Published)
		require.Empty(t, got.Problem)
		p.chain.Evict(b.Justice.TxHash())
		p.chain.Mine()
		require.NoError(t, p.chain.WaitPool(p.ctx, 1))
	})
}

// TestTheSessionIsGone: a breach that was found is punished although its client
// deletes the session meanwhile.
func TestTheSessionIsGone(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		b := p.breach(1)
		p.chain.Refuse(func(*wire.MsgTx) error { return errors.New("away") })
		p.start()
		p.chain.Mine(b.Commit)
		p.of(b, watchtower.Found)
		p.apply(&tower.Job{Tenant: p.tenant.ID, Delete: &wtdb.SessionID{1}})
		p.chain.Refuse(nil)
		p.chain.Mine()
		p.of(b, watchtower.Published)
		require.NoError(t, p.chain.WaitPool(p.ctx, 1))
	})
}

// TestAnotherSearches: who lost the lease stores nothing any more, and ends.
func TestAnotherSearches(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		b := p.breach(1)
		lost := false
		var mu sync.Mutex
		fenced := p.store.Fenced(func(context.Context, *store.Tx) error {
			mu.Lock()
			defer mu.Unlock()
			if lost {
				return store.ErrLeaseLost
			}
			return nil
		})
		l := lookout.New(lookout.Config{Chain: p.chain, Store: fenced, Depths: watchtower.Depths{Bury: 6, Forget: 20}, Now: time.Now, Log: zap.NewNop()}, lookout.NewMetrics())
		done := make(chan error, 1)
		go func() { done <- l.Run(p.ctx) }()
		p.chain.Mine()
		p.l = l
		p.synced()
		tip, _, err := p.store.Tip(p.ctx)
		require.NoError(t, err)
		mu.Lock()
		lost = true
		mu.Unlock()
		p.chain.Mine(b.Commit)
		require.ErrorIs(t, <-done, store.ErrLeaseLost)
		now, _, err := p.store.Tip(p.ctx)
		require.NoError(t, err)
		require.Equal(t, tip, now)
		require.Zero(t, p.chain.PoolSize(), "nothing is published that is not stored")
		// The other one takes over.
		p.start()
		p.of(b, watchtower.Published)
	})
}

// TestALyingBackend: blocks that are not what was asked for are not taken.
func TestALyingBackend(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		b := p.breach(1)
		liar := &liar{Chain: p.chain}
		p.l = lookout.New(lookout.Config{Chain: liar, Store: p.store, Depths: watchtower.Depths{Bury: 6, Forget: 20}, Now: time.Now, Log: zap.NewNop()}, lookout.NewMetrics())
		ctx, cancel := context.WithCancel(p.ctx)
		done := make(chan error, 1)
		go func() { done <- p.l.Run(ctx) }()
		p.chain.Mine(b.Commit)
		p.until("the lie to be seen", func() bool { return strings.Contains(p.l.View().Problem, "lnd gave block") })
		require.Zero(t, p.chain.PoolSize())
		liar.honest()
		require.NoError(t, p.chain.WaitPool(p.ctx, 1))
		cancel()
		require.NoError(t, <-done)
	})
}

type liar struct {
	*towertest.Chain
	mu    sync.Mutex
	truly bool
}

func (l *liar) honest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.truly = true
}

func (l *liar) Block(ctx context.Context, hash chainhash.Hash) (*wire.MsgBlock, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.truly {
		return l.Chain.Block(ctx, hash)
	}
	return &wire.MsgBlock{}, nil
}
