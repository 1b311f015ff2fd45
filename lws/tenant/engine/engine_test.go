package engine_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/engine"
	tenants "github.com/sluice-lsp/sluice/lws/tenant/store"
)

type process struct {
	*engine.Engine
	bakery *auth.Bakery
	logs   *observer.ObservedLogs
}

type world struct {
	t    *testing.T
	open func() *store.DB
	dir  string
	now  atomic.Int64
}

func newWorld(t *testing.T, open func() *store.DB) *world {
	w := &world{t: t, open: open, dir: t.TempDir()}
	w.now.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMilli())
	return w
}

func (w *world) clock() time.Time { return time.UnixMilli(w.now.Load()) }

func gateway() ln.PubKey { return ln.PubKey{3, 7} }

// start is a process on the database; those of one world share root keys, as
// replicas do.
func (w *world) start(name string) process {
	w.t.Helper()
	db := w.open()
	require.NoError(w.t, tenants.Migrate(w.t.Context(), db))
	keys, err := auth.NewFileRootKeys(filepath.Join(w.dir, "keys"))
	require.NoError(w.t, err)
	bakery, err := auth.NewBakery(w.t.Context(), keys, rand.Reader, w.clock)
	require.NoError(w.t, err)
	core, logs := observer.New(zap.WarnLevel)
	e, err := engine.New(w.t.Context(), engine.Options{
		DB: db, Bakery: bakery, Services: []string{"lsp", "backups"}, Gateway: gateway(), Anchors: filepath.Join(w.dir, name),
		Now: w.clock, Random: rand.Reader, Log: zap.New(core),
	})
	require.NoError(w.t, err)
	return process{e, bakery, logs}
}

type node struct{ secret *btcec.PrivateKey }

func newNode(t *testing.T) node {
	secret, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	return node{secret}
}

func (n node) key() (out ln.PubKey) {
	copy(out[:], n.secret.PubKey().SerializeCompressed())
	return out
}

func (n node) sign(t *testing.T, text string) string {
	got, err := auth.EncodeSignature(ecdsa.SignCompact(n.secret, chainhash.DoubleHashB([]byte("Lightning Signed Message:"+text)), true))
	require.NoError(t, err)
	return got
}

// active registers an active tenant with a node and an admin.
func (w *world) active(p process, id string, kind tenant.Kind) node {
	w.t.Helper()
	n := newNode(w.t)
	_, err := p.Register(w.t.Context(), "operator", id, kind, "standard")
	require.NoError(w.t, err)
	_, err = p.AddNode(w.t.Context(), "operator", id, n.key(), n.sign(w.t, tenant.Statement(gateway(), id, n.key())))
	require.NoError(w.t, err)
	for _, c := range []tenant.Command{tenant.AddUser{Name: "ann", Role: tenant.Admin}, tenant.SetStatus{To: tenant.Active}} {
		_, err = p.Apply(w.t.Context(), "operator", id, c)
		require.NoError(w.t, err)
	}
	return n
}

// admit is what the guard does with a macaroon.
func (p process) admit(ctx context.Context, macaroon string) (auth.Identity, error) {
	id, err := p.bakery.Verify(ctx, macaroon, "")
	if err != nil {
		return id, err
	}
	return p.Admit(ctx, id)
}

// TestRevocationTakesEffectAtOnce, in every process on the database, before any of
// them was notified.
func TestRevocationTakesEffectAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		w := newWorld(t, open)
		one, two := w.start("one"), w.start("two")
		n := w.active(one, "acme", tenant.Hosted)
		issue := func(wish engine.Wish) engine.Issued {
			t.Helper()
			got, err := one.Issue(t.Context(), "operator", "acme", wish)
			require.NoError(t, err)
			return got
		}
		good := func(m string) auth.Identity {
			t.Helper()
			var id auth.Identity
			for _, p := range []process{two, one} {
				var err error
				id, err = p.admit(t.Context(), m)
				require.NoError(t, err)
			}
			return id
		}
		refused := func(m string, kind errkind.Kind) {
			t.Helper()
			for _, p := range []process{two, one} {
				_, err := p.admit(t.Context(), m)
				require.ErrorIs(t, err, kind)
			}
		}
		change := func(c tenant.Command) {
			t.Helper()
			_, err := one.Apply(t.Context(), "operator", "acme", c)
			require.NoError(t, err)
		}
		a := issue(engine.Wish{User: "ann", Node: n.key()})
		id := good(a.Macaroon)
		require.Equal(t, "ann", id.User)
		require.Equal(t, "admin", id.Role)
		require.Equal(t, n.key(), id.NodeKey)
		require.Equal(t, []string{"tenant", "lsp", "backups"}, id.Services)

		// What is declined is no part of any macaroon from then on.
		change(tenant.SetService{Service: "lsp"})
		require.Equal(t, []string{"tenant", "backups"}, good(a.Macaroon).Services)
		// A role is looked up at each call; who may only look acts for no node.
		change(tenant.SetRole{Name: "ann", Role: tenant.Viewer})
		require.True(t, good(a.Macaroon).NodeKey.IsZero())
		change(tenant.SetRole{Name: "ann", Role: tenant.Member})

		b := issue(engine.Wish{Instead: a.Of.ID})
		refused(a.Macaroon, errkind.Unauthenticated)
		require.Equal(t, n.key(), good(b.Macaroon).NodeKey)
		change(tenant.SetStatus{To: tenant.Suspended, Reason: "unpaid"})
		refused(b.Macaroon, errkind.Denied)
		change(tenant.SetStatus{To: tenant.Active})
		good(b.Macaroon)
		change(tenant.Revoke{ID: b.Of.ID})
		refused(b.Macaroon, errkind.Unauthenticated)

		c := issue(engine.Wish{User: "ann", For: time.Hour, Services: []string{"backups"}})
		require.Equal(t, []string{"backups"}, good(c.Macaroon).Services)
		w.now.Add(time.Hour.Milliseconds())
		refused(c.Macaroon, errkind.Unauthenticated)
		d := issue(engine.Wish{User: "ann"})
		change(tenant.RemoveUser{Name: "ann"})
		refused(d.Macaroon, errkind.Unauthenticated)
		change(tenant.AddUser{Name: "ann", Role: tenant.Admin})
		refused(d.Macaroon, errkind.Unauthenticated)
		e := issue(engine.Wish{User: "ann"})
		change(tenant.SetStatus{To: tenant.Closed, Reason: "left"})
		refused(e.Macaroon, errkind.Unauthenticated)
	})
}

// TestOneTenantsMacaroonIsNoOthers: root keys differ, and an id of another tenant's
// is not found.
func TestOneTenantsMacaroonIsNoOthers(t *testing.T) {
	w := newWorld(t, func() *store.DB { return storetest.Open(t, storetest.SQLite(t)) })
	p := w.start("one")
	w.active(p, "acme", tenant.SelfHosted)
	n := w.active(p, "bolt", tenant.SelfHosted)
	a, err := p.Issue(t.Context(), "operator", "acme", engine.Wish{User: "ann"})
	require.NoError(t, err)
	_, err = p.Issue(t.Context(), "tenant/bolt/ann", "bolt", engine.Wish{Instead: a.Of.ID})
	require.ErrorIs(t, err, errkind.NotFound)
	_, err = p.Apply(t.Context(), "tenant/bolt/ann", "bolt", tenant.Revoke{ID: a.Of.ID})
	require.ErrorIs(t, err, errkind.NotFound)
	_, err = p.Issue(t.Context(), "tenant/acme/ann", "acme", engine.Wish{User: "ann", Node: n.key()})
	require.ErrorIs(t, err, errkind.NotFound, "another's node")
	// A macaroon under acme's root key that says it is bolt's.
	forged, err := p.bakery.Mint(t.Context(), a.Of.ID, auth.Identity{Kind: auth.KindTenant, Tenant: "bolt", Services: []string{"tenant"}, Expires: w.clock().Add(time.Hour)})
	require.NoError(t, err)
	_, err = p.admit(t.Context(), forged)
	require.ErrorIs(t, err, errkind.Unauthenticated)
	_, err = p.admit(t.Context(), a.Macaroon)
	require.NoError(t, err, "nothing happened to acme's own")
}

// TestWhoseNode: a node's own word is needed, for this tenant at this gateway.
func TestWhoseNode(t *testing.T) {
	w := newWorld(t, func() *store.DB { return storetest.Open(t, storetest.SQLite(t)) })
	p, n := w.start("one"), newNode(t)
	_, err := p.Register(t.Context(), "operator", "acme", tenant.SelfHosted, "standard")
	require.NoError(t, err)
	for name, signature := range map[string]string{
		"nothing":         "",
		"another's":       newNode(t).sign(t, tenant.Statement(gateway(), "acme", n.key())),
		"another tenant":  n.sign(t, tenant.Statement(gateway(), "bolt", n.key())),
		"another gateway": n.sign(t, tenant.Statement(ln.PubKey{2, 9}, "acme", n.key())),
	} {
		_, err := p.AddNode(t.Context(), "operator", "acme", n.key(), signature)
		require.ErrorIs(t, err, errkind.Invalid, name)
		require.Contains(t, errkind.Sentence(err), tenant.Statement(gateway(), "acme", n.key()), name)
	}
}

// TestNodesOfTenants: what a node's own login is good for.
func TestNodesOfTenants(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		w := newWorld(t, open)
		p := w.start("one")
		other := w.start("two")
		heard := make(chan struct{}, 100)
		other.OnChange(func(context.Context) { heard <- struct{}{} })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- other.Run(ctx) }()
		defer func() { cancel(); require.NoError(t, <-done) }()
		n := w.active(p, "acme", tenant.SelfHosted)
		hosted := w.active(p, "bolt", tenant.Hosted)
		require.NoError(t, p.NodeMay(newNode(t).key(), "lsp"), "a stranger is no business of the registry")
		require.NoError(t, p.NodeMay(n.key(), "lsp"))
		require.ErrorIs(t, p.NodeMay(n.key(), "watchtower"), errkind.Denied, "not in its plan")
		require.ErrorIs(t, p.NodeMay(hosted.key(), "lsp"), errkind.Denied, "its host could sign for it")
		_, err := p.Apply(t.Context(), "operator", "acme", tenant.SetService{Service: "backups"})
		require.NoError(t, err)
		require.ErrorIs(t, p.NodeMay(n.key(), "backups"), errkind.Denied)
		require.NoError(t, p.NodeMay(n.key(), "lsp"))
		_, err = p.Apply(t.Context(), "operator", "acme", tenant.SetStatus{To: tenant.Suspended, Reason: "unpaid"})
		require.NoError(t, err)
		require.ErrorIs(t, p.NodeMay(n.key(), "lsp"), errkind.Denied)
		if p2 := w.open(); p2.Engine() != store.Postgres {
			return // one process: there is nobody else to tell
		}
		limit := time.After(30 * time.Second)
		for other.NodeMay(n.key(), "lsp") == nil {
			select {
			case <-heard:
			case <-limit:
				t.Fatal("the other process did not hear of it")
			}
		}
	})
}

// TestWithoutTheDatabase tenants' macaroons are refused as unavailable: whether they
// were revoked cannot be known.
func TestWithoutTheDatabase(t *testing.T) {
	cfg := storetest.SQLite(t)
	faults := &storetest.Faults{}
	cfg.Hooks = faults.Hooks()
	w := newWorld(t, func() *store.DB { return storetest.Open(t, cfg) })
	p := w.start("one")
	w.active(p, "acme", tenant.SelfHosted)
	m, err := p.Issue(t.Context(), "operator", "acme", engine.Wish{User: "ann"})
	require.NoError(t, err)
	faults.Set(storetest.Gone)
	_, err = p.admit(t.Context(), m.Macaroon)
	require.ErrorIs(t, err, errkind.Unavailable)
	faults.Set(storetest.Healthy)
	_, err = p.admit(t.Context(), m.Macaroon)
	require.NoError(t, err)
}

// TestAnchors: the log that was written anew, with hashes that fit, is found out by
// what was noted beside the database; each start tells it, and nothing is refused.
func TestAnchors(t *testing.T) {
	cfg := storetest.SQLite(t)
	w := newWorld(t, func() *store.DB { return storetest.Open(t, cfg) })
	p := w.start("one")
	w.active(p, "acme", tenant.SelfHosted)
	check, err := p.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, check.Problems)
	require.Equal(t, int64(5), check.Head.Seq)
	require.Equal(t, 5, check.Anchors)
	// Cut short while it was written: no line, and no obstacle.
	f, err := os.OpenFile(filepath.Join(w.dir, "one"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("\n6 abcd")
	require.NoError(t, err)
	require.NoError(t, f.Close())

	db := w.open()
	require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		var prev tenant.Head
		rows, err := tx.QueryContext(ctx, "SELECT seq, hash FROM tenant_audit WHERE seq = 3")
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var hash []byte
			if err := rows.Scan(&prev.Seq, &hash); err != nil {
				return err
			}
			prev.Hash = [32]byte(hash)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for seq := 4; seq <= 5; seq++ {
			e, err := prev.Append(w.clock(), "operator", "acme", tenant.Note{Action: "harmless"})
			if err != nil {
				return err
			}
			prev = tenant.Head{Seq: e.Seq, Hash: e.Hash}
			if _, err := tx.ExecContext(ctx, "UPDATE tenant_audit SET at_ms = $1, action = $2, detail = $3, prev = $4, hash = $5 WHERE seq = $6",
				e.At.UnixMilli(), e.Action, e.Detail, e.Prev[:], e.Hash[:], e.Seq); err != nil {
				return err
			}
		}
		return nil
	}))
	again := w.start("one")
	require.Equal(t, 2, again.logs.FilterMessageSnippet("tampered").Len(), again.logs.All())
	_, err = again.Apply(t.Context(), "operator", "acme", tenant.SetStatus{To: tenant.Suspended, Reason: "look into it"})
	require.NoError(t, err, "what is wrong with the log keeps nobody from working")
	check, err = again.Verify(t.Context())
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(check.Problems), "entry 4 is not the one whose hash was noted")
	// Somebody without the noted ends sees nothing.
	blind := w.start("two")
	require.Zero(t, blind.logs.Len())
}
