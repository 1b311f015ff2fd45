package store_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lws/tenant"
	tenants "github.com/sluice-lsp/sluice/lws/tenant/store"
)

func place(n int) tenant.Place {
	return tenant.Place{ID: strings.Repeat("0", 31) + fmt.Sprint(n), Words: fmt.Sprintf("host%d:/lnd", n)}
}

// TestOneClaimWins: of two onboardings of one key at the same moment, of one tenant or of
// two, through two processes, exactly one goes on; the other one is told.
func TestOneClaimWins(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		one := fresh(t, open())
		processes := []*tenants.Store{one, tenants.New(open())}
		_, err := one.PutPlan(t.Context(), "operator", tenant.Plan{Name: "small", Services: []string{"lsp"}, Nodes: 100, Users: 1, Macaroons: 1}, at(0))
		require.NoError(t, err)
		for _, id := range []string{"acme", "bolt"} {
			_, err := one.Register(t.Context(), "operator", id, tenant.Hosted, "small", at(0))
			require.NoError(t, err)
		}
		const rounds = 40
		winners := map[int]int{}
		for round := range rounds {
			type end struct {
				who int
				err error
			}
			ends := make(chan end, 2)
			for who, process := range processes {
				id := "acme"
				if round%2 == 1 && who == 1 {
					id = "bolt"
				}
				go func() {
					_, err := process.Apply(context.Background(), "operator", id, tenant.ClaimNode{Key: key(round), Place: place(who)}, at(round))
					ends <- end{who, err}
				}()
			}
			won := 0
			for range 2 {
				if e := <-ends; e.err == nil {
					won++
					winners[e.who]++
				} else {
					require.ErrorIs(t, e.err, errkind.Conflict)
					said := "another tenant's, or is being made for one"
					if round%2 == 0 {
						said = fmt.Sprintf("host%d:/lnd, since", 1-e.who)
					}
					require.ErrorContains(t, e.err, said)
				}
			}
			require.Equal(t, 1, won, "round %d", round)
		}
		t.Logf("won by each process: %v", winners)
		chain, err := one.Verify(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, chain.Problems())
		require.Equal(t, int64(3+2+rounds), chain.Head().Seq, "one entry for each key")
	})
}

// TestClaimsAndNodes: a key is one tenant's, whether its node was added or is being made;
// the same claim again changes nothing; what ends a claim frees the key.
func TestClaimsAndNodes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		s := fresh(t, open())
		for _, id := range []string{"acme", "bolt"} {
			_, err := s.Register(t.Context(), "operator", id, tenant.Hosted, "small", at(0))
			require.NoError(t, err)
		}
		apply := func(id string, c tenant.Command) error {
			_, err := s.Apply(t.Context(), "operator", id, c, at(1))
			return err
		}
		require.NoError(t, apply("acme", tenant.ClaimNode{Key: key(1), Place: place(1)}))
		require.NoError(t, apply("bolt", tenant.AddNode{Key: key(2)}))
		require.ErrorIs(t, apply("bolt", tenant.AddNode{Key: key(1)}), errkind.Conflict)
		require.ErrorIs(t, apply("bolt", tenant.ClaimNode{Key: key(1), Place: place(2), Moved: true}), errkind.Conflict)
		require.ErrorIs(t, apply("acme", tenant.ClaimNode{Key: key(2), Place: place(1)}), errkind.Conflict)
		require.NoError(t, apply("acme", tenant.AddNode{Key: key(1)}))
		before, err := s.Head(t.Context())
		require.NoError(t, err)
		done, err := s.Apply(t.Context(), "operator", "acme", tenant.ClaimNode{Key: key(1), Place: place(1)}, at(9))
		require.NoError(t, err)
		require.Equal(t, before, done.Head)
		after, err := s.Head(t.Context())
		require.NoError(t, err)
		require.Equal(t, before, after, "nothing was logged")
		got, _, err := s.Tenant(t.Context(), "acme")
		require.NoError(t, err)
		require.Equal(t, []tenant.Claim{{Node: key(1), Place: place(1), Since: at(1)}}, got.Claims)
		require.Equal(t, at(1), got.Changed)
		// Closing frees what was claimed only; a node that was added stays the tenant's.
		require.NoError(t, apply("bolt", tenant.ClaimNode{Key: key(3), Place: place(2)}))
		require.NoError(t, apply("bolt", tenant.SetStatus{To: tenant.Closed, Reason: "left"}))
		require.NoError(t, apply("acme", tenant.ClaimNode{Key: key(3), Place: place(1)}))
		require.ErrorIs(t, apply("acme", tenant.ClaimNode{Key: key(2), Place: place(1)}), errkind.Conflict)
		require.NoError(t, apply("acme", tenant.RemoveNode{Key: key(3)}))
		all, err := s.All(t.Context())
		require.NoError(t, err)
		require.Len(t, all.Tenants["acme"].Claims, 1)
		require.Len(t, all.Tenants["acme"].Nodes, 1)
		require.Empty(t, all.Tenants["bolt"].Claims)
		require.Len(t, all.Tenants["bolt"].Nodes, 1)
	})
}
