package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lws/tenant"
	tenants "github.com/sluice-lsp/sluice/lws/tenant/store"
)

func at(n int) time.Time { return time.UnixMilli(1_772_000_000_000 + int64(n)*1000).UTC() }

func key(n int) ln.PubKey { return ln.PubKey{2, byte(n)} }

func plan(name string) tenant.Plan {
	return tenant.Plan{Name: name, Services: []string{"lsp", "backups"}, Nodes: 3, Users: 4, Macaroons: 5}
}

func fresh(t *testing.T, db *store.DB) *tenants.Store {
	t.Helper()
	require.NoError(t, tenants.Migrate(t.Context(), db))
	s := tenants.New(db)
	_, err := s.PutPlan(t.Context(), "operator", plan("small"), at(0))
	require.NoError(t, err)
	_, err = s.PutPlan(t.Context(), "operator", tenant.Plan{Name: "large", Services: []string{"lsp"}, Nodes: 9, Users: 9, Macaroons: 9}, at(0))
	require.NoError(t, err)
	return s
}

// anyCommand draws a command; many of them are refused.
func anyCommand(r *rand.Rand, n uint64) tenant.Command {
	user := func() string { return string(rune('a' + r.IntN(6))) }
	switch r.IntN(12) {
	case 10, 11:
		return tenant.ClaimNode{Key: key(r.IntN(8)), Place: place(r.IntN(2)), Made: r.IntN(2) == 0, Moved: r.IntN(4) == 0}
	case 9:
		return tenant.SetDrain{Drain: r.IntN(2) == 0}
	case 0:
		return tenant.SetStatus{To: []tenant.Status{tenant.Active, tenant.Suspended, tenant.Active, tenant.Active}[r.IntN(4)], Reason: "why"}
	case 1:
		return tenant.SetNodeLogin{Allowed: r.IntN(2) == 0}
	case 2:
		return tenant.AddNode{Key: key(r.IntN(8))}
	case 3:
		return tenant.RemoveNode{Key: key(r.IntN(8))}
	case 4:
		return tenant.AddUser{Name: user(), Role: tenant.Roles()[r.IntN(3)]}
	case 5:
		return tenant.RemoveUser{Name: user()}
	case 6:
		return tenant.SetService{Service: "backups", Accepted: r.IntN(2) == 0}
	case 7:
		return tenant.Revoke{ID: 1 + r.Uint64N(n+1)}
	}
	c := tenant.Issue{Macaroon: tenant.Macaroon{ID: n, User: user(), Services: []string{"lsp"}, Expires: at(int(n) + 1 + r.IntN(300))}}
	if r.IntN(2) == 0 {
		c.Macaroon.Node = key(r.IntN(8))
	}
	if r.IntN(3) == 0 {
		c.Instead = 1 + r.Uint64N(n)
	}
	return c
}

// same compares tenants; what is below them has no order.
func same(t *testing.T, want, got tenant.Tenant) {
	t.Helper()
	require.ElementsMatch(t, want.Declined, got.Declined)
	require.ElementsMatch(t, want.Nodes, got.Nodes)
	require.ElementsMatch(t, want.Claims, got.Claims)
	require.ElementsMatch(t, want.Users, got.Users)
	require.ElementsMatch(t, want.Macaroons, got.Macaroons)
	for _, x := range []*tenant.Tenant{&want, &got} {
		x.Declined, x.Nodes, x.Claims, x.Users, x.Macaroons = nil, nil, nil, nil, nil
	}
	require.Equal(t, want, got)
}

// theirs tells whether a command wants a key that another tenant has.
func theirs(other tenant.Tenant, c tenant.Command) bool {
	var k ln.PubKey
	switch c := c.(type) {
	case tenant.AddNode:
		k = c.Key
	case tenant.ClaimNode:
		k = c.Key
	default:
		return false
	}
	_, claimed := other.Claim(k)
	return claimed || other.HasNode(k)
}

// TestAgainstTheDomain: what is stored is what the domain decided, over random
// commands of two tenants, and the log tells each change and no refusal.
func TestAgainstTheDomain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r, s := rand.New(rand.NewPCG(seed, 0)), fresh(t, open())
		model, changes := map[string]tenant.Tenant{}, int64(2)
		for _, id := range []string{"acme", "bolt"} {
			done, err := s.Register(t.Context(), "operator", id, tenant.Hosted, "small", at(0))
			require.NoError(t, err)
			model[id] = done.Tenant
			changes++
		}
		for n := uint64(1); n <= 150; n++ {
			id := []string{"acme", "bolt"}[r.IntN(2)]
			other := map[string]string{"acme": "bolt", "bolt": "acme"}[id]
			c := anyCommand(r, n)
			want, note, refused := tenant.Apply(model[id], plan("small"), c, at(int(n)))
			if refused == nil && !note.Unchanged() && theirs(model[other], c) {
				refused = errkind.New(errkind.Conflict, "another's")
			}
			done, err := s.Apply(t.Context(), "operator", id, c, at(int(n)))
			require.Equal(t, errkind.Of(refused), errkind.Of(err), "%#v: %v, %v", c, refused, err)
			if refused == nil {
				same(t, want, done.Tenant)
				model[id] = want
				if !note.Unchanged() {
					changes++
				}
				require.Equal(t, changes, done.Head.Seq)
			}
		}
		all, err := s.All(t.Context())
		require.NoError(t, err)
		require.Equal(t, changes, all.Head.Seq)
		for id, want := range model {
			got, p, err := s.Tenant(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, plan("small"), p)
			for _, x := range []tenant.Tenant{got, all.Tenants[id]} {
				same(t, want, x)
			}
		}
		chain, err := s.Verify(t.Context(), []tenant.Head{all.Head})
		require.NoError(t, err)
		require.Empty(t, chain.Problems())
	})
}

// TestTamperedRows: whoever can write the tables is found out by the log.
func TestTamperedRows(t *testing.T) {
	for name, c := range map[string]struct{ statement, said string }{
		"altered":      {"UPDATE tenant_audit SET detail = '{}' WHERE seq = 3", "entry 3 was altered"},
		"removed":      {"DELETE FROM tenant_audit WHERE seq = 3", "entries 3 to 3 are missing"},
		"cut off":      {"DELETE FROM tenant_audit WHERE seq > 3", "the log ends at entry 3, and entry 5 was noted"},
		"a short hash": {"UPDATE tenant_audit SET hash = prev WHERE seq = 5", "entry 5 was altered"},
	} {
		storetest.Each(t, func(t *testing.T, open func() *store.DB) {
			db := open()
			s := fresh(t, db)
			_, err := s.Register(t.Context(), "operator", "acme", tenant.Own, "small", at(0))
			require.NoError(t, err)
			for i := range 2 {
				_, err := s.Apply(t.Context(), "operator", "acme", tenant.AddNode{Key: key(i)}, at(1))
				require.NoError(t, err)
			}
			head, err := s.Head(t.Context())
			require.NoError(t, err)
			require.NoError(t, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				_, err := tx.ExecContext(ctx, c.statement)
				return err
			}))
			chain, err := s.Verify(t.Context(), []tenant.Head{head})
			require.NoError(t, err)
			require.Contains(t, fmt.Sprint(chain.Problems()), c.said, name)
		})
	}
}

// TestCrashAtEveryCommit: a change is there with its entry, or neither is.
func TestCrashAtEveryCommit(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		faults := &storetest.Faults{}
		cfg.Hooks = faults.Hooks()
		s := fresh(t, storetest.Open(t, cfg))
		for i, point := range []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit} {
			id := []string{"acme", "bolt"}[i]
			head, err := s.Head(t.Context())
			require.NoError(t, err)
			faults.CrashAt(1, point)
			_, err = s.Register(t.Context(), "operator", id, tenant.Own, "small", at(0))
			require.ErrorIs(t, err, store.ErrUnavailable)
			faults.Restart()
			_, _, err = s.Tenant(t.Context(), id)
			after, headErr := s.Head(t.Context())
			require.NoError(t, headErr)
			if errors.Is(err, errkind.NotFound) {
				require.Equal(t, head, after, "an entry without its change")
			} else {
				require.NoError(t, err)
				require.Equal(t, head.Seq+1, after.Seq, "a change without its entry")
			}
			require.Equal(t, point == storetest.AfterCommit, err == nil)
		}
	})
}

// TestTwoAtOnce: two changes of one tenant at the same moment are made one after the
// other, each on what the other left; a node that two tenants want is one's.
func TestTwoAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		one := fresh(t, open())
		two := tenants.New(open())
		for _, id := range []string{"acme", "bolt"} {
			_, err := one.Register(t.Context(), "operator", id, tenant.Own, "small", at(0))
			require.NoError(t, err)
		}
		errs := make(chan error, 16)
		for i := range 8 {
			go func() {
				_, err := one.Apply(t.Context(), "operator", "acme", tenant.AddUser{Name: fmt.Sprint(i), Role: tenant.Viewer}, at(1))
				errs <- err
			}()
			go func() {
				_, err := two.Apply(t.Context(), "operator", []string{"acme", "bolt"}[i%2], tenant.AddNode{Key: key(0)}, at(1))
				errs <- err
			}()
		}
		took := 0
		for range 16 {
			if err := <-errs; err == nil {
				took++
			} else {
				require.Contains(t, []errkind.Kind{errkind.Exhausted, errkind.Conflict}, errkind.Of(err), err)
			}
		}
		require.Equal(t, 5, took, "four users, and one node of one tenant")
		chain, err := two.Verify(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, chain.Problems())
		require.Equal(t, int64(4+5), chain.Head().Seq)
	})
}

func TestWhatIsNotThere(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		s := fresh(t, open())
		_, err := s.Register(t.Context(), "operator", "acme", tenant.Own, "none", at(0))
		require.ErrorIs(t, err, errkind.NotFound)
		_, err = s.Register(t.Context(), "operator", "acme", tenant.Own, "small", at(0))
		require.NoError(t, err)
		_, err = s.Register(t.Context(), "operator", "acme", tenant.Own, "small", at(0))
		require.ErrorIs(t, err, errkind.Conflict)
		_, err = s.Apply(t.Context(), "operator", "bolt", tenant.SetNodeLogin{}, at(0))
		require.ErrorIs(t, err, errkind.NotFound)
		_, err = s.ChangePlan(t.Context(), "operator", "acme", "none", at(0))
		require.ErrorIs(t, err, errkind.NotFound)
		done, err := s.ChangePlan(t.Context(), "operator", "acme", "large", at(0))
		require.NoError(t, err)
		require.Equal(t, "large", done.Tenant.Plan)
		mine, err := s.Audit(t.Context(), "acme", 100, 10)
		require.NoError(t, err)
		require.Len(t, mine, 2)
		all, err := s.Audit(t.Context(), "", 4, 2)
		require.NoError(t, err)
		require.Equal(t, int64(3), all[0].Seq)
		require.Len(t, all, 2)
	})
}
