package tenant_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant"
)

func at(n int) time.Time { return time.UnixMilli(1_772_000_000_000 + int64(n)*1000).UTC() }

func key(n byte) ln.PubKey { return ln.PubKey{2, n} }

func plan() tenant.Plan {
	return tenant.Plan{Name: "small", Services: []string{"lsp", "backups"}, Nodes: 2, Users: 3, Macaroons: 4}
}

// do applies commands that must succeed.
func do(t *testing.T, x tenant.Tenant, commands ...tenant.Command) tenant.Tenant {
	t.Helper()
	for _, c := range commands {
		var err error
		x, _, err = tenant.Apply(x, plan(), c, at(1))
		require.NoError(t, err, "%T", c)
	}
	return x
}

func acme(t *testing.T) tenant.Tenant {
	t.Helper()
	x, note, err := tenant.Register("acme", tenant.Hosted, "small", at(0))
	require.NoError(t, err)
	require.Equal(t, "register", note.Action)
	return x
}

func macaroon(id uint64, user string, node ln.PubKey) tenant.Issue {
	return tenant.Issue{Macaroon: tenant.Macaroon{ID: id, User: user, Node: node, Services: []string{"tenant", "lsp"}, Expires: at(1000)}}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", "-a", "a-", "Acme", "a_b", "a/b", "a.b", "ä", "012345678901234567890123456789012"} {
		_, _, err := tenant.Register(name, tenant.Own, "small", at(0))
		require.ErrorIs(t, err, errkind.Invalid, name)
	}
	for _, name := range []string{"a", "acme-2", "0"} {
		_, _, err := tenant.Register(name, tenant.Own, "small", at(0))
		require.NoError(t, err, name)
	}
	_, _, err := tenant.Register("a", "elsewhere", "small", at(0))
	require.ErrorIs(t, err, errkind.Invalid)
}

// A hosted node's host can sign for it, so its key opens nothing unless somebody
// wants that.
func TestWhoLogsInWithItsNodesKey(t *testing.T) {
	for kind, allowed := range map[tenant.Kind]bool{tenant.Hosted: false, tenant.Own: true, tenant.SelfHosted: true} {
		x, _, err := tenant.Register("a", kind, "small", at(0))
		require.NoError(t, err)
		require.Equal(t, allowed, x.NodeLogin, kind)
	}
}

func TestStandings(t *testing.T) {
	x := acme(t)
	_, _, err := tenant.Apply(x, plan(), tenant.SetStatus{To: tenant.Active}, at(1))
	require.ErrorIs(t, err, errkind.Conflict, "without a node")
	x = do(t, x, tenant.AddNode{Key: key(1)}, tenant.SetStatus{To: tenant.Active})
	_, _, err = tenant.Apply(x, plan(), tenant.SetStatus{To: tenant.Suspended, Reason: " "}, at(1))
	require.ErrorIs(t, err, errkind.Invalid, "without a reason")
	_, _, err = tenant.Apply(x, plan(), tenant.SetStatus{To: "gone", Reason: "x"}, at(1))
	require.ErrorIs(t, err, errkind.Conflict)
	_, _, err = tenant.Apply(x, plan(), tenant.SetStatus{To: tenant.Onboarding, Reason: "x"}, at(1))
	require.ErrorIs(t, err, errkind.Conflict)
	x = do(t, x, tenant.SetStatus{To: tenant.Suspended, Reason: "unpaid"})
	require.Equal(t, "unpaid", x.Reason)
	x = do(t, x, tenant.SetStatus{To: tenant.Active})
	require.Empty(t, x.Reason)
	x = do(t, x, tenant.AddUser{Name: "ann", Role: tenant.Admin}, macaroon(1, "ann", key(1)), tenant.SetStatus{To: tenant.Closed, Reason: "left"})
	require.Empty(t, x.Macaroons, "a closed tenant has none")
	for _, c := range []tenant.Command{tenant.SetStatus{To: tenant.Active}, tenant.AddNode{Key: key(2)}, tenant.SetNodeLogin{Allowed: true}} {
		_, _, err := tenant.Apply(x, plan(), c, at(1))
		require.ErrorIs(t, err, errkind.Conflict, "%T: closed is for good", c)
	}
}

func TestQuotas(t *testing.T) {
	x := do(t, acme(t), tenant.AddNode{Key: key(1)}, tenant.AddNode{Key: key(2)})
	refused := func(c tenant.Command, kind errkind.Kind) {
		t.Helper()
		before := fmt.Sprintf("%+v", x)
		_, _, err := tenant.Apply(x, plan(), c, at(1))
		require.ErrorIs(t, err, kind)
		require.Equal(t, before, fmt.Sprintf("%+v", x), "a refused change changed something")
	}
	refused(tenant.AddNode{Key: key(3)}, errkind.Exhausted)
	refused(tenant.AddNode{Key: key(2)}, errkind.Conflict)
	x = do(t, x, tenant.AddUser{Name: "a", Role: tenant.Admin}, tenant.AddUser{Name: "b", Role: tenant.Member}, tenant.AddUser{Name: "c", Role: tenant.Viewer})
	refused(tenant.AddUser{Name: "d", Role: tenant.Viewer}, errkind.Exhausted)
	refused(tenant.AddUser{Name: "c", Role: tenant.Viewer}, errkind.Conflict)
	refused(tenant.SetRole{Name: "c", Role: "root"}, errkind.Invalid)
	refused(tenant.SetRole{Name: "z", Role: tenant.Admin}, errkind.NotFound)
	x = do(t, x, macaroon(1, "a", ln.PubKey{}), macaroon(2, "b", key(1)), macaroon(3, "b", key(2)), macaroon(4, "c", ln.PubKey{}))
	refused(macaroon(5, "a", ln.PubKey{}), errkind.Exhausted)
	refused(macaroon(5, "z", ln.PubKey{}), errkind.NotFound)
	refused(macaroon(5, "a", key(9)), errkind.NotFound)
	refused(tenant.Revoke{ID: 9}, errkind.NotFound)
	// A replacement needs no room of its own, and the replaced one is gone.
	instead := macaroon(5, "a", ln.PubKey{})
	instead.Instead = 1
	x = do(t, x, instead)
	_, there := x.Macaroon(1)
	require.False(t, there)
	refused(instead, errkind.NotFound)
	// With a user or a node go its macaroons.
	x = do(t, x, tenant.RemoveUser{Name: "c"}, tenant.RemoveNode{Key: key(1)})
	var left []uint64
	for _, m := range x.Macaroons {
		left = append(left, m.ID)
	}
	require.ElementsMatch(t, []uint64{3, 5}, left)
	x = do(t, x, tenant.SetStatus{To: tenant.Active})
	refused(tenant.RemoveNode{Key: key(2)}, errkind.Conflict)
	// Expired ones take no room.
	late := macaroon(6, "a", ln.PubKey{})
	late.Macaroon.Expires = at(3000)
	y, _, err := tenant.Apply(x, plan(), late, at(2000))
	require.NoError(t, err)
	require.Len(t, y.Macaroons, 1)
	for _, bad := range []func(*tenant.Macaroon){
		func(m *tenant.Macaroon) { m.Services = nil },
		func(m *tenant.Macaroon) { m.Services = []string{"swaps"} },
		func(m *tenant.Macaroon) { m.Services = []string{"lsp", "lsp"} },
		func(m *tenant.Macaroon) { m.Expires = at(1) },
		func(m *tenant.Macaroon) { m.Expires = at(1).Add(tenant.MaxLife + 1) },
	} {
		c := macaroon(7, "a", ln.PubKey{})
		bad(&c.Macaroon)
		refused(c, errkind.Invalid)
	}
}

func TestServices(t *testing.T) {
	x := do(t, acme(t), tenant.SetService{Service: "lsp"})
	require.Equal(t, []string{"backups"}, x.Offered(plan()))
	x = do(t, x, tenant.SetService{Service: "lsp"}, tenant.SetService{Service: "lsp", Accepted: true})
	require.Equal(t, []string{"lsp", "backups"}, x.Offered(plan()))
	_, _, err := tenant.Apply(x, plan(), tenant.SetService{Service: "swaps", Accepted: true}, at(1))
	require.ErrorIs(t, err, errkind.NotFound)
}

func TestPlans(t *testing.T) {
	known := []string{"lsp", "lws", "backups"}
	require.NoError(t, tenant.CheckPlan(plan(), known))
	for name, bad := range map[string]func(*tenant.Plan){
		"name":      func(p *tenant.Plan) { p.Name = "Big" },
		"unknown":   func(p *tenant.Plan) { p.Services = []string{"tenant"} },
		"twice":     func(p *tenant.Plan) { p.Services = []string{"lsp", "lsp"} },
		"nodes":     func(p *tenant.Plan) { p.Nodes = 101 },
		"users":     func(p *tenant.Plan) { p.Users = 0 },
		"macaroons": func(p *tenant.Plan) { p.Macaroons = 0 },
	} {
		p := plan()
		bad(&p)
		require.ErrorIs(t, tenant.CheckPlan(p, known), errkind.Invalid, name)
	}
}

func TestIDs(t *testing.T) {
	for _, id := range []uint64{1, 1<<63 - 1} {
		got, err := tenant.ParseID(tenant.FormatID(id))
		require.NoError(t, err)
		require.Equal(t, id, got)
	}
	for _, bad := range []string{"", "0", "x", "8000000000000000", "-1"} {
		_, err := tenant.ParseID(bad)
		require.ErrorIs(t, err, errkind.Invalid, bad)
	}
}

// log is a log of n entries.
func log(t require.TestingT, n int) []tenant.Entry {
	var head tenant.Head
	var out []tenant.Entry
	for i := range n {
		e, err := head.Append(at(i), "operator", "acme", tenant.Note{Action: "status", Detail: map[string]string{"to": "active", "n": fmt.Sprint(i)}})
		require.NoError(t, err)
		out, head = append(out, e), tenant.Head{Seq: e.Seq, Hash: e.Hash}
	}
	return out
}

func verify(entries []tenant.Entry, anchors ...tenant.Head) []string {
	c := tenant.NewChain(anchors)
	for _, e := range entries {
		c.Next(e)
	}
	return c.Problems()
}

// rehash is what somebody does who can write the database and knows how.
func rehash(t require.TestingT, entries []tenant.Entry) []tenant.Entry {
	var head tenant.Head
	for i := range entries {
		e := &entries[i]
		fresh, err := head.Append(e.At, e.Actor, e.Tenant, tenant.Note{Action: e.Action})
		require.NoError(t, err)
		*e, head = fresh, tenant.Head{Seq: fresh.Seq, Hash: fresh.Hash}
	}
	return entries
}

func TestTampering(t *testing.T) {
	whole := log(t, 9)
	noted := tenant.Head{Seq: 9, Hash: whole[8].Hash}
	require.Empty(t, verify(whole, noted, tenant.Head{Seq: 4, Hash: whole[3].Hash}))
	require.Empty(t, verify(nil))
	for name, c := range map[string]struct {
		tamper func([]tenant.Entry) []tenant.Entry
		said   string
	}{
		"time":     {func(e []tenant.Entry) []tenant.Entry { e[3].At = e[3].At.Add(time.Millisecond); return e }, "entry 4 was altered"},
		"actor":    {func(e []tenant.Entry) []tenant.Entry { e[3].Actor = "nobody"; return e }, "entry 4 was altered"},
		"tenant":   {func(e []tenant.Entry) []tenant.Entry { e[3].Tenant = "other"; return e }, "entry 4 was altered"},
		"detail":   {func(e []tenant.Entry) []tenant.Entry { e[8].Detail = "{}"; return e }, "entry 9 was altered"},
		"boundary": {func(e []tenant.Entry) []tenant.Entry { e[3].Actor, e[3].Tenant = "operatora", "cme"; return e }, "entry 4 was altered"},
		"removed":  {func(e []tenant.Entry) []tenant.Entry { return slices.Delete(e, 3, 5) }, "entries 4 to 5 are missing"},
		"swapped":  {func(e []tenant.Entry) []tenant.Entry { e[3].Detail, e[4].Detail = e[4].Detail, e[3].Detail; return e }, "entry 5 was altered"},
		"replaced": {func(e []tenant.Entry) []tenant.Entry {
			f, _ := tenant.Head{Seq: 3, Hash: e[2].Hash}.Append(at(3), "operator", "acme", tenant.Note{Action: "x"})
			e[3] = f
			return e
		}, "entry 5 does not follow entry 4"},
		"the first":      {func(e []tenant.Entry) []tenant.Entry { return e[1:] }, "entries 1 to 1 are missing"},
		"cut off":        {func(e []tenant.Entry) []tenant.Entry { return e[:7] }, "the log ends at entry 7, and entry 9 was noted"},
		"all of it":      {func([]tenant.Entry) []tenant.Entry { return nil }, "the log ends at entry 0, and entry 9 was noted"},
		"written anew":   {func(e []tenant.Entry) []tenant.Entry { return rehash(t, e) }, "entry 9 is not the one whose hash was noted"},
		"anew and added": {func(e []tenant.Entry) []tenant.Entry { return rehash(t, append(e, e[0])) }, "entry 9 is not the one whose hash was noted"},
	} {
		problems := verify(c.tamper(slices.Clone(whole)), noted)
		require.NotEmpty(t, problems, name)
		require.Contains(t, fmt.Sprint(problems), c.said, name)
	}
	require.Contains(t, verify(whole, noted, tenant.Head{Seq: 9})[0], "two hashes")
}

// Any single change of any field of any entry shows, without an anchor.
func TestAnyChangeShows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := log(t, rapid.IntRange(1, 12).Draw(t, "entries"))
		i := rapid.IntRange(0, len(entries)-1).Draw(t, "which")
		e := &entries[i]
		before := *e
		text := rapid.String().Draw(t, "text")
		switch rapid.IntRange(0, 6).Draw(t, "field") {
		case 0:
			e.Actor = text
		case 1:
			e.Tenant = text
		case 2:
			e.Action = text
		case 3:
			e.Detail = text
		case 4:
			e.Hash[rapid.IntRange(0, 31).Draw(t, "byte")] ^= 1
		case 5:
			e.Prev[rapid.IntRange(0, 31).Draw(t, "byte")] ^= 1
		case 6:
			e.Seq += rapid.Int64Range(1, 1<<40).Draw(t, "by")
		}
		if *e == before {
			t.Skip("the same text")
		}
		require.NotEmpty(t, verify(entries))
	})
}
