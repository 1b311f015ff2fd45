package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/lightningnetwork/lnd/watchtower/blob"
	"github.com/lightningnetwork/lnd/watchtower/wtpolicy"
	"github.com/lightningnetwork/lnd/watchtower/wtwire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/watchtower"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
	"github.com/sluice-lsp/sluice/watchtower/towertest"
)

// listening runs a whole tower on a chain of the test's.
func listening(t testing.TB, db *store.DB, change func(*Options)) (*Engine, *towertest.Chain) {
	t.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, tower.Migrate(t.Context(), db))
	chain := towertest.NewChain(10)
	e := engineOn(t, db, func(o *Options) {
		o.Chain, o.ChainHash, o.Listener = chain, *chaincfg.RegressionNetParams.GenesisHash, listener
		o.Acquire = func(ctx context.Context) (Lease, error) {
			return db.AcquireLease(ctx, store.LeaseConfig{Name: "tower", Owner: "test"})
		}
		o.Config.Addresses = []string{listener.Addr().String()}
		o.Config.Handshakes = auth.Rate{PerSecond: 1e6, Burst: 1e6}
		if change != nil {
			change(o)
		}
		pre, err := New(*o)
		require.NoError(t, err)
		require.NoError(t, pre.Begin(t.Context()))
	})
	return e, chain
}

func newSession(t testing.TB) *btcec.PrivateKey {
	t.Helper()
	k, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	return k
}

func connect(t testing.TB, e *Engine, tenant watchtower.Tenant, session *btcec.PrivateKey) *towertest.Client {
	t.Helper()
	var c *towertest.Client
	// The tower allows a session one connection; the one before may not have ended.
	require.Eventually(t, func() bool {
		var err error
		c, err = towertest.Open(e.URIs(tenant)[0], *chaincfg.RegressionNetParams.GenesisHash, session)
		return err == nil
	}, 30*time.Second, 20*time.Millisecond)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func stateUpdate(t testing.TB, p wtpolicy.Policy, seq, last uint16, h uint64) *wtwire.StateUpdate {
	t.Helper()
	u := &wtwire.StateUpdate{SeqNum: seq, LastApplied: last, EncryptedBlob: make([]byte, sizeOf(t, p.BlobType))}
	binary.BigEndian.PutUint64(u.Hint[:], h)
	return u
}

func policyOf(kind blob.Type) wtpolicy.Policy {
	p := towertest.Policy()
	p.BlobType = kind
	return p
}

// TestStockProtocol: every blob type of lnd's, from the session to its deletion,
// and a breach punished through the whole tower.
func TestStockProtocol(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		e, chain := listening(t, open(), nil)
		tenant := register(t, e, 1)
		for n, kind := range blob.SupportedTypes() {
			session, policy := newSession(t), policyOf(kind)
			c := connect(t, e, tenant, session)
			code, err := c.Create(policy)
			require.NoError(t, err)
			if kind.Has(blob.FlagReward) {
				require.Equal(t, wtwire.CreateSessionCodeRejectBlobType, code, "the tower takes nothing")
				continue
			}
			require.Equal(t, wtwire.CodeOK, code)
			require.NoError(t, c.Close())
			c = connect(t, e, tenant, session)
			for seq := uint16(1); seq <= 3; seq++ {
				code, last, err := c.Update(stateUpdate(t, policy, seq, seq-1, uint64(n)*100+uint64(seq)))
				require.NoError(t, err)
				require.Equal(t, wtwire.CodeOK, code)
				require.Equal(t, seq, last)
			}
			require.NoError(t, c.Close())
			c = connect(t, e, tenant, session)
			code, err = c.Create(policy)
			require.NoError(t, err)
			require.Equal(t, wtwire.CreateSessionCodeAlreadyExists, code)
			require.NoError(t, c.Close())
			c = connect(t, e, tenant, session)
			code, err = c.Delete()
			require.NoError(t, err)
			require.Equal(t, wtwire.CodeOK, code)
			require.NoError(t, c.Close())
		}
		usageIsExact(t, e)

		b, err := towertest.NewBreach(towertest.Policy(), 1)
		require.NoError(t, err)
		session := newSession(t)
		c := connect(t, e, tenant, session)
		code, err := c.Create(towertest.Policy())
		require.NoError(t, err)
		require.Equal(t, wtwire.CodeOK, code)
		require.NoError(t, c.Close())
		c = connect(t, e, tenant, session)
		code, _, err = c.Update(&wtwire.StateUpdate{SeqNum: 1, IsComplete: 1, Hint: b.Hint, EncryptedBlob: b.Blob})
		require.NoError(t, err)
		require.Equal(t, wtwire.CodeOK, code)
		chain.Mine(b.Commit)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, chain.WaitPool(ctx, 1))
		require.True(t, chain.InPool(b.Justice.TxHash()))
	})
}

// TestTermsAreRefusedWithTheirCode: what the tower does not want to hold is refused
// when the session is made, and the session is not made.
func TestTermsAreRefusedWithTheirCode(t *testing.T) {
	e, _ := listening(t, storetest.Open(t, storetest.SQLite(t)), func(o *Options) {
		o.Config.Terms.MinSweepFee, o.Config.Terms.MaxUpdates = 2500, 1024
	})
	tenant := register(t, e, 1)
	for name, c := range map[string]struct {
		change func(*wtpolicy.Policy)
		want   wtwire.ErrorCode
	}{
		"a fee below the floor": {func(p *wtpolicy.Policy) { p.SweepFeeRate = 2499 }, wtwire.CreateSessionCodeRejectSweepFeeRate},
		"a fee at the floor":    {func(p *wtpolicy.Policy) { p.SweepFeeRate = 2500 }, wtwire.CodeOK},
		"too many updates":      {func(p *wtpolicy.Policy) { p.MaxUpdates = 1025 }, wtwire.CreateSessionCodeRejectMaxUpdates},
		"no updates":            {func(p *wtpolicy.Policy) { p.MaxUpdates = 0 }, wtwire.CreateSessionCodeRejectMaxUpdates},
		"a reward":              {func(p *wtpolicy.Policy) { p.RewardBase = 1 }, wtwire.CreateSessionCodeRejectRewardRate},
		"an unknown blob type":  {func(p *wtpolicy.Policy) { p.BlobType = 77 }, wtwire.CreateSessionCodeRejectBlobType},
	} {
		session, policy := newSession(t), towertest.Policy()
		c.change(&policy)
		client := connect(t, e, tenant, session)
		code, err := client.Create(policy)
		require.NoError(t, err, name)
		require.Equal(t, c.want, code, name)
		held, err := e.DB(tenant.ID).GetSessionInfo(ptr(client.ID()))
		require.Equal(t, c.want == wtwire.CodeOK, err == nil, "%s: %v", name, held)
	}
}

func ptr[T any](v T) *T { return &v }

// TestQuotas: who is over a limit, expired or suspended is told to come again, keeps
// what it has, loses nothing, and is not noticed by others.
func TestQuotas(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var mu sync.Mutex
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		cfg.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return now
		}
		e, _ := listening(t, storetest.Open(t, cfg), func(o *Options) {
			o.Config.Terms.Limits = watchtower.Limits{Sessions: 2, Updates: 5, Bytes: 1 << 20}
			o.Config.Terms.For, o.Config.Terms.Notice, o.Config.Terms.Grace = 10*24*time.Hour, 24*time.Hour, 5*24*time.Hour
		})
		greedy, other := register(t, e, 1), register(t, e, 2)
		policy := towertest.Policy()
		make := func(tenant watchtower.Tenant) (*btcec.PrivateKey, wtwire.ErrorCode) {
			session := newSession(t)
			c := connect(t, e, tenant, session)
			code, err := c.Create(policy)
			require.NoError(t, err)
			require.NoError(t, c.Close())
			return session, code
		}
		upload := func(tenant watchtower.Tenant, session *btcec.PrivateKey, seq uint16) wtwire.ErrorCode {
			c := connect(t, e, tenant, session)
			code, _, err := c.Update(stateUpdate(t, policy, seq, seq-1, binary.BigEndian.Uint64(session.Serialize())+uint64(seq)))
			require.NoError(t, err)
			require.NoError(t, c.Close())
			return code
		}
		a, code := make(greedy)
		require.Equal(t, wtwire.CodeOK, code)
		_, code = make(greedy)
		require.Equal(t, wtwire.CodeOK, code)
		_, code = make(greedy)
		require.Equal(t, wtwire.CodeTemporaryFailure, code, "sessions")
		for seq := uint16(1); seq <= 5; seq++ {
			require.Equal(t, wtwire.CodeOK, upload(greedy, a, seq))
		}
		require.Equal(t, wtwire.CodeTemporaryFailure, upload(greedy, a, 6), "updates")
		require.Equal(t, wtwire.CodeOK, upload(greedy, a, 5), "what is held already may come again")
		b, code := make(other)
		require.Equal(t, wtwire.CodeOK, code)
		require.Equal(t, wtwire.CodeOK, upload(other, b, 1), "nobody else is affected")

		set := func(change func(*tower.Settings)) {
			s := tower.Settings{Expires: greedy.Expires}
			change(&s)
			_, err := e.SetTenant(t.Context(), greedy.Identity, s)
			require.NoError(t, err)
		}
		set(func(s *tower.Settings) { s.Own.Updates = 100 })
		require.Equal(t, wtwire.CodeOK, upload(greedy, a, 6), "the client goes on where it was")
		set(func(s *tower.Settings) { s.Own.Bytes = 10 })
		require.Equal(t, wtwire.CodeTemporaryFailure, upload(greedy, a, 7), "bytes")
		set(func(s *tower.Settings) { s.Own.Updates, s.Suspended, s.Reason = 100, true, "unpaid" })
		require.Equal(t, wtwire.CodeTemporaryFailure, upload(greedy, a, 7), "suspended")
		_, err := e.Register(t.Context(), node(1), "192.0.2.1")
		require.Equal(t, errkind.Denied, errkind.Of(err), "nor does registering again help")
		set(func(s *tower.Settings) { s.Own.Updates = 100 })
		require.Equal(t, wtwire.CodeOK, upload(greedy, a, 7))

		pass := func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			now = now.Add(d)
		}
		standing := func() watchtower.Standing {
			got, err := e.Tenant(t.Context(), greedy.Identity)
			require.NoError(t, err)
			return got.Standing(e.Config().Terms, cfg.Now())
		}
		require.Equal(t, watchtower.Active, standing())
		pass(9*24*time.Hour + time.Minute)
		require.Equal(t, watchtower.Expiring, standing())
		require.Equal(t, wtwire.CodeOK, upload(greedy, a, 8))
		pass(24 * time.Hour)
		require.Equal(t, watchtower.Expired, standing())
		require.Equal(t, wtwire.CodeTemporaryFailure, upload(greedy, a, 9))
		held, err := e.Updates(t.Context(), greedy.ID, [33]byte(a.PubKey().SerializeCompressed()), 8)
		require.NoError(t, err)
		require.Len(t, held, 1, "what was stored is watched")
		// The other one renews; this one does not, and its time of grace passes.
		_, err = e.Register(t.Context(), node(2), "192.0.2.1")
		require.NoError(t, err)
		pass(5 * 24 * time.Hour)
		e.sweep(t.Context())
		require.NoError(t, e.loadKeys(t.Context()))
		_, err = towertest.Dial(e.URIs(greedy)[0], newSession(t))
		require.Error(t, err, "its key opens nothing any more")
		got, err := e.Tenant(t.Context(), greedy.Identity)
		require.NoError(t, err)
		require.Zero(t, got.Usage)
		require.Equal(t, wtwire.CodeOK, upload(other, b, 2))
		// Coming back gives the same URI, and an empty tower.
		back, err := e.Register(t.Context(), node(1), "192.0.2.1")
		require.NoError(t, err)
		require.Equal(t, greedy.TowerKey, back.TowerKey)
		require.Equal(t, wtwire.CodePermanentFailure, upload(back, a, 9), "the session is gone")
		usageIsExact(t, e)
	})
}

// TestTenantsApart: a session key that one tenant used opens nothing through
// another one's tower key.
func TestTenantsApart(t *testing.T) {
	e, _ := listening(t, storetest.Open(t, storetest.SQLite(t)), nil)
	a, b := register(t, e, 1), register(t, e, 2)
	session, policy := newSession(t), towertest.Policy()
	c := connect(t, e, a, session)
	code, err := c.Create(policy)
	require.NoError(t, err)
	require.Equal(t, wtwire.CodeOK, code)
	require.NoError(t, c.Close())
	c = connect(t, e, b, session)
	code, _, err = c.Update(stateUpdate(t, policy, 1, 0, 1))
	require.NoError(t, err)
	require.Equal(t, wtwire.CodePermanentFailure, code)
	require.NoError(t, c.Close())
	c = connect(t, e, b, session)
	code, err = c.Delete()
	require.NoError(t, err)
	require.Equal(t, wtwire.DeleteSessionCodeNotFound, code)
	_, err = e.Updates(t.Context(), b.ID, c.ID(), 1)
	require.Equal(t, errkind.NotFound, errkind.Of(err))
}

// TestGarbage: whatever a client sends at whatever moment, the tower lives, and
// others are served.
func TestGarbage(t *testing.T) {
	e, _ := listening(t, storetest.Open(t, storetest.SQLite(t)), nil)
	tenant, other := register(t, e, 1), register(t, e, 2)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's draws
	for range 150 {
		c, err := towertest.Dial(e.URIs(tenant)[0], newSession(t))
		require.NoError(t, err)
		if r.IntN(2) == 0 {
			require.NoError(t, c.Greet(*chaincfg.RegressionNetParams.GenesisHash))
		}
		for range 1 + r.IntN(3) {
			raw := make([]byte, r.IntN(600))
			for i := range raw {
				raw[i] = byte(r.Uint32())
			}
			if len(raw) >= 2 && r.IntN(4) > 0 {
				binary.BigEndian.PutUint16(raw, uint16(598+r.IntN(12)))
			}
			if c.SendRaw(raw) != nil {
				break
			}
		}
		require.NoError(t, c.Close())
	}
	c := connect(t, e, other, newSession(t))
	code, err := c.Create(towertest.Policy())
	require.NoError(t, err)
	require.Equal(t, wtwire.CodeOK, code)
	// Another chain is another tower's business.
	_, err = towertest.Open(e.URIs(tenant)[0], *chaincfg.MainNetParams.GenesisHash, newSession(t))
	require.Error(t, err)
}

// FuzzRefusal: judging a message neither fails nor lets a low fee through.
func FuzzRefusal(f *testing.F) {
	terms := Defaults().Terms
	f.Add([]byte{2, 90})
	f.Add([]byte{2, 90, 0, 6, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 231})
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := refusal(terms, raw)
		msg, err := wtwire.ReadMessage(bytes.NewReader(raw), 0)
		ask, ok := msg.(*wtwire.CreateSession)
		if err != nil || !ok {
			require.Equal(t, watchtower.NotRefused, got)
			return
		}
		require.Equal(t, uint64(ask.SweepFeeRate) < uint64(terms.MinSweepFee), got == watchtower.RefuseSweepFee)
	})
}

// TestRegistrations: who may, how many, and that coming again changes nothing.
func TestRegistrations(t *testing.T) {
	e := engineOn(t, storetest.Open(t, storetest.SQLite(t)), func(o *Options) {
		o.Config.MaxTenants, o.Config.NewPerAddress = 4, 3
	})
	first := register(t, e, 1)
	again := register(t, e, 1)
	require.Equal(t, first.ID, again.ID)
	require.Equal(t, first.TowerKey, again.TowerKey)
	register(t, e, 2)
	register(t, e, 3)
	_, err := e.Register(t.Context(), node(4), "192.0.2.1")
	require.Equal(t, errkind.Exhausted, errkind.Of(err), "one address")
	_, err = e.Register(t.Context(), node(4), "192.0.2.2")
	require.NoError(t, err)
	_, err = e.Register(t.Context(), node(5), "192.0.2.3")
	require.Equal(t, errkind.Exhausted, errkind.Of(err), "full")
	register(t, e, 3)
	_, err = e.Tenant(t.Context(), Identity(node(5)))
	require.Equal(t, errkind.NotFound, errkind.Of(err))

	closed := engineOn(t, storetest.Open(t, storetest.SQLite(t)), func(o *Options) { o.Config.Allow = map[ln.PubKey]bool{node(1): true} })
	register(t, closed, 1)
	_, err = closed.Register(t.Context(), node(2), "192.0.2.1")
	require.Equal(t, errkind.Denied, errkind.Of(err), "not one that the operator named")
}
