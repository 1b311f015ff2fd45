package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
	"github.com/sluice-lsp/sluice/lws/tenant/hosting"
	"github.com/sluice-lsp/sluice/lws/tenant/hosting/supervisor"
)

// machine is one on which an operator onboards tenants, with the gateway's files.
type machine struct {
	name string
	g    *Globals
	s    *session
}

func newMachine(t *testing.T, name, server, files string) *machine {
	t.Helper()
	g := &Globals{Server: server, DataDir: t.TempDir(), TLSCert: filepath.Join(files, "tls.cert"), Macaroon: filepath.Join(files, "operator.macaroon"), Timeout: time.Minute}
	s, err := g.connect()
	require.NoError(t, err)
	t.Cleanup(s.close)
	return &machine{name: name, g: g, s: s}
}

// begin is an onboarding until it may make the node; said is what it warned of.
func (m *machine) begin(t *testing.T, c TenantAddCmd, node ln.PubKey) (h *held, said string, err error) {
	t.Helper()
	var errs bytes.Buffer
	c.Network, c.Plan = "regtest", "standard"
	if c.Host == "" {
		c.Host = m.name
	}
	h, err = c.begin(t.Context(), &world{ctx: t.Context(), stderr: &errs, now: fakeNow}, m.s, m.g, node)
	return h, errs.String(), err
}

func key(n int) ln.PubKey { return ln.PubKey{2, byte(n >> 8), byte(n)} }

func machines(t *testing.T) (alpha, beta *machine) {
	t.Helper()
	files := t.TempDir()
	server, stop := startFake(t, files)
	t.Cleanup(stop)
	return newMachine(t, "alpha", server, files), newMachine(t, "beta", server, files)
}

// TestTwoMachinesAtOnce: two onboardings that begin on two machines at the very same
// moment, of one tenant or of two with one seed. One goes on, always; of the other one
// nothing is made.
func TestTwoMachinesAtOnce(t *testing.T) {
	alpha, beta := machines(t)
	for round := range 20 {
		type end struct {
			m   *machine
			dir string
			err error
		}
		ends := make(chan end, 2)
		for i, m := range []*machine{alpha, beta} {
			name := fmt.Sprintf("acme-%d", round)
			if round%2 == 1 && i == 1 {
				name += "-too"
			}
			dir := filepath.Join(t.TempDir(), "node")
			go func() {
				h, _, err := m.begin(t, TenantAddCmd{Tenant: name, Dir: dir}, key(round))
				if err == nil {
					h.release()
				}
				ends <- end{m, dir, err}
			}()
		}
		var won, lost []end
		for range 2 {
			if e := <-ends; e.err == nil {
				won = append(won, e)
			} else {
				lost = append(lost, e)
			}
		}
		require.Len(t, won, 1, "round %d: %v", round, lost)
		said := won[0].m.name + ":" + won[0].dir
		if round%2 == 1 {
			said = "tenant"
		}
		require.ErrorContains(t, lost[0].err, said)
		files, err := os.ReadDir(lost[0].dir)
		require.NoError(t, err)
		for _, f := range files {
			require.Contains(t, []string{".sluicectl.lock", placeFile}, f.Name(), "nothing of the node is made")
		}
		_, err = os.Stat(filepath.Join(lost[0].m.g.DataDir, hostedDir, fmt.Sprintf("acme-%d.d", round), "node.json"))
		if round%2 == 0 {
			require.ErrorIs(t, err, os.ErrNotExist, "the loser remembers nothing of a node")
		}
	}
}

// TestOneNodeOfATenant: two onboardings of one tenant, in one directory or in two, at once
// or later, on one machine or on two; a bundle of another seed; a node that was moved.
func TestOneNodeOfATenant(t *testing.T) {
	alpha, beta := machines(t)
	root := t.TempDir()
	first := TenantAddCmd{Tenant: "acme", Dir: filepath.Join(root, "first")}
	other := TenantAddCmd{Tenant: "acme", Dir: filepath.Join(root, "other")}
	h, said, err := alpha.begin(t, first, key(1))
	require.NoError(t, err)
	require.Empty(t, said)
	_, _, err = alpha.begin(t, first, key(1))
	require.ErrorContains(t, err, "another sluicectl works on", "at once, in the same directory")
	_, _, err = alpha.begin(t, other, key(1))
	require.ErrorContains(t, err, "another sluicectl works on", "at once, in another directory")
	_, _, err = beta.begin(t, other, key(1))
	require.ErrorContains(t, err, "alpha:"+first.Dir, "at once, on another machine")
	h.release()
	entries := func() int {
		got, err := tenantsOf(alpha.s).ListAudit(t.Context(), &tenantv1.ListAuditRequest{Tenant: "acme"})
		require.NoError(t, err)
		return len(got.GetEntries())
	}
	before := entries()
	_, _, err = alpha.begin(t, other, key(1))
	require.ErrorContains(t, err, "the node of acme is in "+first.Dir+": a second one of the same seed")
	_, _, err = alpha.begin(t, first, key(9))
	require.ErrorContains(t, err, "its signer has another seed now")
	h, _, err = alpha.begin(t, first, key(1))
	require.NoError(t, err, "and the same again, as often as wished")
	h.release()
	_, _, err = beta.begin(t, TenantAddCmd{Tenant: "bolt", Dir: filepath.Join(root, "bolt")}, key(1))
	require.ErrorContains(t, err, "is the tenant acme's already")
	// The same directory on a machine of another name is one that was moved or copied.
	renamed := first
	renamed.Host = "gamma"
	_, _, err = alpha.begin(t, renamed, key(1))
	require.ErrorContains(t, err, "it was moved or copied")
	// So is a pod in another namespace.
	pod := first
	pod.Form, pod.Namespace = formKubernetes, "tenants"
	_, _, err = alpha.begin(t, pod, key(1))
	require.ErrorContains(t, err, "(Kubernetes, namespace tenants)")
	require.Equal(t, before, entries(), "refusals and the same again are no changes")

	// The machine burned down.
	other.Moved = true
	h, said, err = beta.begin(t, other, key(1))
	require.NoError(t, err)
	require.Contains(t, said, "was at alpha:"+first.Dir)
	require.Contains(t, said, "the money in their channels is lost")
	require.Equal(t, before+1, entries())
	require.NoError(t, h.still(t.Context(), beta.s))
	_, _, err = alpha.begin(t, first, key(1))
	require.ErrorContains(t, err, "at another place: beta:"+other.Dir)
	// An onboarding under way there finds out before it makes a wallet.
	back := first
	back.Moved = true
	mine, _, err := alpha.begin(t, back, key(1))
	require.NoError(t, err)
	mine.release()
	require.ErrorContains(t, h.still(t.Context(), beta.s), "at another place: alpha:")
	h.release()
	// What was given up is free.
	_, err = tenantsOf(alpha.s).RemoveTenantNode(t.Context(), &tenantv1.RemoveTenantNodeRequest{Tenant: "acme", NodeKey: mine.node[:]})
	require.NoError(t, err)
	_, _, err = beta.begin(t, TenantAddCmd{Tenant: "bolt", Dir: filepath.Join(root, "bolt")}, key(1))
	require.NoError(t, err)

	// Cut short by a crash of the disk's: said, not taken for nothing.
	for _, path := range []string{filepath.Join(alpha.g.DataDir, hostedDir, "acme.d", "node.json"), filepath.Join(first.Dir, placeFile)} {
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
		_, _, err = alpha.begin(t, first, key(1))
		require.ErrorContains(t, err, filepath.Base(path))
		require.NoError(t, os.WriteFile(path, whole, 0o600))
	}
}

// TestMovedOnOneMachine: the supervisor is told at once; of the old place it hears that the
// node is elsewhere, and what it says of it counts for nothing.
func TestMovedOnOneMachine(t *testing.T) {
	alpha, _ := machines(t)
	root := t.TempDir()
	c := TenantAddCmd{Tenant: "acme", Dir: filepath.Join(root, "old"), NodeRPC: "127.0.0.1:10109"}
	h, _, err := alpha.begin(t, c, key(1))
	require.NoError(t, err)
	require.NoError(t, h.c.note(alpha.g, sampleBundle(t, "signer.example:10019"), h))
	h.release()
	old, err := readHosted(noteFile(alpha.g, "acme"))
	require.NoError(t, err)
	require.Equal(t, h.place, tenant.Place{ID: old.PlaceID, Words: old.Place})

	c.Dir, c.Moved = filepath.Join(root, "new"), true
	moved, _, err := alpha.begin(t, c, key(1))
	require.NoError(t, err)
	moved.release()
	now, err := readHosted(noteFile(alpha.g, "acme"))
	require.NoError(t, err)
	require.Equal(t, c.Dir, now.Dir)
	require.Equal(t, moved.place, tenant.Place{ID: now.PlaceID, Words: now.Place})
	require.Equal(t, old.RPC, now.RPC)

	report := func(place tenant.Place) supervisor.Wish {
		wish, err := desk{client: tenantsOf(alpha.s), node: key(1), place: place, file: noteFile(alpha.g, "acme")}.Report(t.Context(), supervisor.Report{Tenant: "acme", State: hosting.Running, Said: place.Words})
		require.NoError(t, err)
		return wish
	}
	require.Empty(t, report(moved.place).Elsewhere)
	require.Equal(t, supervisor.Wish{Drain: true, Elsewhere: moved.place.Words}, report(h.place))
	require.Empty(t, report(tenant.Place{}).Elsewhere, "of a supervisor of before nothing is known")
	require.Empty(t, report(moved.place).Elsewhere)
	require.NotEmpty(t, report(h.place).Elsewhere)
	got, err := tenantsOf(alpha.s).ShowTenant(t.Context(), &tenantv1.ShowTenantRequest{Tenant: "acme"})
	require.NoError(t, err)
	require.Equal(t, moved.place.Words, got.GetTenant().GetHosting().GetSaid())
	var out bytes.Buffer
	require.NoError(t, showTenant(&world{stdout: &out, now: fakeNow}, alpha.g, got.GetTenant()))
	require.Contains(t, out.String(), "IS FOR THE NODE AT")
	require.Contains(t, out.String(), moved.place.Words)

	// What was heard of the place is in the note, for a supervisor that begins while sluiced
	// is away; of another place nothing is noted.
	noted := func() string {
		n, err := readHosted(noteFile(alpha.g, "acme"))
		require.NoError(t, err)
		return n.MovedTo
	}
	require.Empty(t, noted())
	require.NoError(t, old.keep(noteFile(alpha.g, "acme")))
	require.NotEmpty(t, report(h.place).Elsewhere)
	require.Equal(t, moved.place.Words, noted())
	moved, _, err = alpha.begin(t, c, key(1))
	require.NoError(t, err)
	moved.release()
	require.Empty(t, noted())

	// A watch whose note was written anew ends.
	s := &supervised{running: map[string]*watched{}}
	ended := false
	s.running["acme.json"] = &watched{note: []byte("old"), end: func() { ended = true }}
	require.False(t, s.changed("acme.json", []byte("old")))
	require.True(t, s.changed("acme.json", []byte("new")))
	require.True(t, ended)
	require.True(t, s.changed("acme.json", []byte("new")))
}
