package tenant_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant"
)

func place(id byte, words string) tenant.Place {
	return tenant.Place{ID: strings.Repeat(string("0123456789abcdef"[id]), 32), Words: words}
}

func claim(n byte, p tenant.Place) tenant.ClaimNode { return tenant.ClaimNode{Key: key(n), Place: p} }

// TestClaims: who gets a node's key, of all who may ask for it.
func TestClaims(t *testing.T) {
	here, there := place(1, "alpha:/lnd"), place(2, "beta:/lnd")
	moved, made := claim(1, there), claim(1, there)
	moved.Moved, made.Made = true, true
	claimed := []tenant.Command{claim(1, here)}
	added := append([]tenant.Command{}, tenant.AddNode{Key: key(1)}, tenant.SetStatus{To: tenant.Active})
	both := append(append([]tenant.Command{}, claimed...), added...)
	for name, c := range map[string]struct {
		before []tenant.Command
		ask    tenant.ClaimNode
		kind   errkind.Kind
		said   string
		// action and from are what the log says; unchanged is an empty action.
		action, from string
	}{
		"a free key":                                  {nil, claim(1, here), "", "", "node.claim", ""},
		"another key beside it":                       {claimed, claim(2, there), "", "", "node.claim", ""},
		"the same place":                              {claimed, claim(1, here), "", "", "", ""},
		"the same place, registered":                  {both, claim(1, here), "", "", "", ""},
		"another place":                               {claimed, claim(1, there), errkind.Conflict, "alpha:/lnd, since 2026-02-25 06:13:21 UTC", "", ""},
		"another place, registered":                   {both, claim(1, there), errkind.Conflict, "--moved", "", ""},
		"another place with a wallet":                 {both, made, errkind.Conflict, "at another place: alpha:/lnd", "", ""},
		"moved":                                       {claimed, moved, "", "", "node.move", "alpha:/lnd"},
		"moved, registered":                           {both, moved, "", "", "node.move", "alpha:/lnd"},
		"moved, and free":                             {nil, moved, "", "", "node.claim", ""},
		"a copied directory":                          {claimed, claim(1, tenant.Place{ID: here.ID, Words: "beta:/lnd"}), errkind.Conflict, "it was moved or copied", "", ""},
		"another directory there":                     {claimed, claim(1, tenant.Place{ID: there.ID, Words: here.Words}), errkind.Conflict, "at another place", "", ""},
		"made before there were claims, and not here": {added, claim(1, there), errkind.Conflict, "made before, and not here", "", ""},
		"made before there were claims, here":         {added, made, "", "", "node.claim", ""},
		"made before there were claims, moved":        {added, moved, "", "", "node.move", "a place that is not known"},
		"beyond the plan":                             {[]tenant.Command{claim(1, here), tenant.AddNode{Key: key(2)}}, claim(3, there), errkind.Exhausted, "or being made", "", ""},
		"no id":                                       {nil, claim(1, tenant.Place{Words: "x"}), errkind.Invalid, "32 lower-case hex", "", ""},
		"a bad id":                                    {nil, claim(1, tenant.Place{ID: strings.Repeat("G", 32), Words: "x"}), errkind.Invalid, "32 lower-case hex", "", ""},
		"no words":                                    {nil, claim(1, place(1, "")), errkind.Invalid, "Name the machine", "", ""},
		"words that move the cursor":                  {nil, claim(1, place(1, "x\x1b[2J")), errkind.Invalid, "control characters", "", ""},
		"too many words":                              {nil, claim(1, place(1, strings.Repeat("x", 1001))), errkind.Invalid, "1000 bytes", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			x := do(t, acme(t), c.before...)
			got, note, err := tenant.Apply(x, plan(), c.ask, at(5))
			if c.kind != "" {
				require.ErrorIs(t, err, c.kind)
				require.ErrorContains(t, err, c.said)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.action, note.Action)
			have, claimed := got.Claim(c.ask.Key)
			require.True(t, claimed)
			require.Equal(t, c.ask.Place, have.Place)
			if note.Unchanged() {
				require.Equal(t, x, got, "nothing changes, and nothing is logged")
				return
			}
			require.Equal(t, at(5), have.Since)
			require.Equal(t, at(5), got.Changed)
			require.Equal(t, c.from, note.Detail["from"])
			require.Equal(t, c.ask.Place.Words, note.Detail["place"])
		})
	}
	for _, kind := range []tenant.Kind{tenant.Own, tenant.SelfHosted} {
		x, _, err := tenant.Register("a", kind, "small", at(0))
		require.NoError(t, err)
		_, _, err = tenant.Apply(x, plan(), claim(1, here), at(1))
		require.ErrorIs(t, err, errkind.Conflict, "its node is made elsewhere")
	}
}

// TestClaimsEnd when the node is removed, added or not, and when the tenant is closed.
func TestClaimsEnd(t *testing.T) {
	here, there := place(1, "alpha:/lnd"), place(2, "beta:/lnd")
	x := do(t, acme(t), claim(1, here), claim(2, here))
	_, _, err := tenant.Apply(x, plan(), tenant.AddNode{Key: key(3)}, at(1))
	require.ErrorIs(t, err, errkind.Exhausted, "its room is a claim's")
	x = do(t, x, tenant.AddNode{Key: key(1)}, tenant.SetStatus{To: tenant.Active}, tenant.RemoveNode{Key: key(2)})
	require.Len(t, x.Claims, 1)
	_, _, err = tenant.Apply(x, plan(), tenant.RemoveNode{Key: key(2)}, at(1))
	require.ErrorIs(t, err, errkind.NotFound)
	_, _, err = tenant.Apply(x, plan(), tenant.RemoveNode{Key: key(1)}, at(1))
	require.ErrorIs(t, err, errkind.Conflict, "the last node")
	require.Equal(t, "alpha:/lnd", x.Elsewhere(key(1), there))
	require.Empty(t, x.Elsewhere(key(1), here))
	require.Empty(t, x.Elsewhere(key(1), tenant.Place{}), "nothing is known")
	require.Empty(t, x.Elsewhere(key(9), there))
	x = do(t, x, tenant.SetStatus{To: tenant.Suspended, Reason: "unpaid"}, claim(1, here))
	x = do(t, x, tenant.SetStatus{To: tenant.Closed, Reason: "left"})
	require.Empty(t, x.Claims)
	_, _, err = tenant.Apply(x, plan(), claim(1, here), at(1))
	require.ErrorContains(t, err, "closed, for good")
}

// TestOnePlace: whatever is asked in whatever order, a key is only taken from a place by
// who says that it was moved, or that it is given up.
func TestOnePlace(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		x, _, err := tenant.Register("acme", tenant.Hosted, "small", at(0))
		require.NoError(r, err)
		places := []tenant.Place{place(1, "a:/x"), place(2, "b:/x"), place(1, "b:/x")}
		for range rapid.IntRange(1, 30).Draw(r, "steps") {
			k := key(byte(rapid.IntRange(1, 2).Draw(r, "key")))
			before, held := x.Claim(k)
			var c tenant.Command
			free := false
			switch rapid.IntRange(0, 4).Draw(r, "what") {
			case 0:
				c = tenant.AddNode{Key: k}
			case 1:
				c, free = tenant.RemoveNode{Key: k}, true
			default:
				claim := tenant.ClaimNode{Key: k, Place: rapid.SampledFrom(places).Draw(r, "place"), Made: rapid.Bool().Draw(r, "made"), Moved: rapid.Bool().Draw(r, "moved")}
				c, free = claim, claim.Moved
			}
			next, note, err := tenant.Apply(x, plan(), c, at(1))
			if err != nil {
				continue
			}
			after, still := next.Claim(k)
			if held && !free {
				require.True(r, still)
				require.Equal(r, before, after)
			}
			if held && still && before.Place != after.Place {
				require.Equal(r, "node.move", note.Action, "the log tells of it")
			}
			x = next
		}
		seen := map[ln.PubKey]bool{}
		for _, c := range x.Claims {
			require.False(r, seen[c.Node])
			seen[c.Node] = true
		}
	})
}
