package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
)

// held is what an onboarding has before it makes anything of the node: the locks of this
// machine, and the registry's claim of the node's key for this place.
type held struct {
	c       TenantAddCmd
	node    ln.PubKey
	place   tenant.Place
	release func()
}

// begin registers the tenant and takes its node's key for this place. Two watch-only nodes
// of one seed lose their channels' money: of all onboardings of one key, on whatever
// machines and for whichever tenants, the registry lets one through.
func (c TenantAddCmd) begin(ctx context.Context, w *world, s *session, g *Globals, node ln.PubKey) (out *held, err error) {
	unlock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	local, err := c.claim(g, node)
	if err != nil {
		unlock()
		return nil, err
	}
	h := &held{c: c, node: node, release: func() { local.release(); unlock() }}
	defer func() {
		if err != nil {
			h.release()
		}
	}()
	if h.place, err = c.place(); err != nil {
		return nil, err
	}
	if err := c.free(ctx, s, node); err != nil {
		return nil, err
	}
	known, err := c.register(ctx, s)
	if err != nil {
		return nil, err
	}
	before := claimOf(known, node)
	if err := h.take(ctx, s, c.Moved); err != nil {
		return nil, err
	}
	if c.Moved && before != nil && before.GetPlace() != h.place.Words {
		w.warn("WARNING. The node %s was at %s, and is here from now on. If that one starts again, there are two nodes of one seed, and the money in their channels is lost: remove its directory and its unit there, or see that the machine never comes back.\n", node, before.GetPlace())
	}
	if err := local.keep(); err != nil {
		return nil, err
	}
	return h, h.renote(g)
}

func (w *world) warn(format string, args ...any) { _, _ = fmt.Fprintf(w.stderr, format, args...) }

func claimOf(t *tenantv1.Tenant, node ln.PubKey) *tenantv1.NodeClaim {
	for _, c := range t.GetClaims() {
		if string(c.GetNodeKey()) == string(node[:]) {
			return c
		}
	}
	return nil
}

// take asks the registry for the key. It may be asked as often as wished.
func (h *held) take(ctx context.Context, s *session, moved bool) error {
	_, err := os.Stat(h.c.adminMacaroon())
	_, err = call(ctx, s, tenantsOf(s).ClaimTenantNode, &tenantv1.ClaimTenantNodeRequest{
		Tenant: h.c.Tenant, NodeKey: h.node[:], PlaceId: h.place.ID, Place: h.place.Words, Made: err == nil, Moved: moved,
	})
	return err
}

// still makes sure that the key was not taken over meanwhile.
func (h *held) still(ctx context.Context, s *session) error { return h.take(ctx, s, false) }

// placeFile has the id of a node's directory.
const placeFile = "sluice-place.json"

// place names this directory on this machine. A pod's node is wherever its namespace is.
func (c TenantAddCmd) place() (tenant.Place, error) {
	host := c.Host
	if host == "" {
		var err error
		if host, err = os.Hostname(); err != nil {
			return tenant.Place{}, fmt.Errorf("this machine's name: %w; give it with --host", err)
		}
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return tenant.Place{}, err
	}
	out := tenant.Place{Words: host + ":" + dir}
	if c.Form == formKubernetes {
		out.Words += " (Kubernetes, namespace " + c.Namespace + ")"
	}
	var kept struct {
		ID string `json:"place_id"`
	}
	path := filepath.Join(c.Dir, placeFile)
	raw, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err = json.Unmarshal(raw, &kept); err != nil {
			return tenant.Place{}, fmt.Errorf("%s: %w", path, err)
		}
	case errors.Is(err, os.ErrNotExist):
		id := make([]byte, 16)
		if _, err := rand.Read(id); err != nil {
			return tenant.Place{}, err
		}
		kept.ID = hex.EncodeToString(id)
		if raw, err = json.Marshal(kept); err == nil {
			err = auth.WriteFileAtomic(path, append(raw, '\n'))
		}
		if err != nil {
			return tenant.Place{}, err
		}
	default:
		return tenant.Place{}, err
	}
	out.ID = kept.ID
	return out, nil
}

// claimed is where a tenant's node is on this machine, and which one.
type claimed struct {
	Dir  string `json:"dir"`
	Node string `json:"node"`
}

// localClaim is this machine's. The registry's keeps other machines away; this one also
// knows of a signer whose seed is another one now, and of two commands at the same moment.
type localClaim struct {
	release func()
	keep    func() error
}

// claim has a tenant have one node on this machine, in one directory: a second one with its
// seed would lose its channels' money, and a node whose signer is replaced by one with
// another seed dies. It also keeps two commands apart that were given different directories.
func (c TenantAddCmd) claim(g *Globals, node ln.PubKey) (localClaim, error) {
	at := filepath.Join(g.DataDir, hostedDir, c.Tenant+".d")
	unlock, err := lockDir(at)
	if err != nil {
		return localClaim{}, err
	}
	path := filepath.Join(at, "node.json")
	want := claimed{Dir: c.Dir, Node: node.String()}
	var have claimed
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = nil
	case err == nil:
		if err = json.Unmarshal(raw, &have); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
			break
		}
		err = have.clash(want, c, path)
	}
	if err != nil {
		unlock()
		return localClaim{}, err
	}
	return localClaim{release: unlock, keep: func() error {
		if have == want {
			return nil
		}
		raw, err := json.Marshal(want)
		if err != nil {
			return err
		}
		return auth.WriteFileAtomic(path, append(raw, '\n'))
	}}, nil
}

func (have claimed) clash(want claimed, c TenantAddCmd, path string) error {
	switch {
	case have.Node != want.Node:
		return fmt.Errorf("the bundle is for the node %s, and %s has the node %s here: its signer has another seed now. Open the right wallet at the signer. If the node is given up for good, remove %s. Nothing was changed", want.Node, c.Tenant, have.Node, path)
	case have.Dir != want.Dir && !c.Moved:
		return fmt.Errorf("the node of %s is in %s: a second one of the same seed would lose its channels' money. Only if that one never starts again (its directory was moved to this one, or is gone for good with all its channels) use --moved. Nothing was changed", c.Tenant, have.Dir)
	}
	return nil
}

// free makes sure that the node is nobody else's: a signer serves one tenant. The
// registry refuses it as well, also at the same moment; this one says whose it is.
func (c TenantAddCmd) free(ctx context.Context, s *session, node ln.PubKey) error {
	for after := ""; ; {
		got, err := call(ctx, s, tenantsOf(s).ListTenants, &tenantv1.ListTenantsRequest{After: after})
		if err != nil {
			return err
		}
		for _, t := range got.GetTenants() {
			if t.GetTenant() != c.Tenant && (hasNode(t, node) || claimOf(t, node) != nil) {
				return fmt.Errorf("the node of this signer is the tenant %s's already: each tenant needs a signer with a seed of its own", t.GetTenant())
			}
			after = t.GetTenant()
		}
		if len(got.GetTenants()) == 0 {
			return nil
		}
	}
}

// register makes the tenant known, unless it is, also when another onboarding does so at
// the same moment.
func (c TenantAddCmd) register(ctx context.Context, s *session) (*tenantv1.Tenant, error) {
	show := func() (*tenantv1.Tenant, error) {
		got, err := tenantsOf(s).ShowTenant(ctx, &tenantv1.ShowTenantRequest{Tenant: c.Tenant})
		if err == nil && got.GetTenant().GetKind() != tenantv1.TenantKind_TENANT_KIND_HOSTED {
			return nil, fmt.Errorf("the tenant %s is registered as one whose node is not hosted here", c.Tenant)
		}
		return got.GetTenant(), err
	}
	t, err := show()
	if status.Code(err) == codes.NotFound {
		got, registered := tenantsOf(s).RegisterTenant(ctx, &tenantv1.RegisterTenantRequest{Tenant: c.Tenant, Kind: tenantv1.TenantKind_TENANT_KIND_HOSTED, Plan: c.Plan})
		if registered == nil {
			return got.GetTenant(), nil
		}
		if t, err = show(); status.Code(err) == codes.NotFound {
			err = registered
		}
	}
	if _, ours := status.FromError(err); err != nil && ours {
		return nil, s.target.Explain(err)
	}
	return t, err
}

// noOther is asked before a wallet is made: the tenant's node may have been made before,
// and lost here, or never have been here.
func (c TenantAddCmd) noOther(ctx context.Context, s *session, key ln.PubKey) error {
	got, err := call(ctx, s, tenantsOf(s).ShowTenant, &tenantv1.ShowTenantRequest{Tenant: c.Tenant})
	if err != nil {
		return err
	}
	if hasNode(got.GetTenant(), key) && !c.Moved {
		return fmt.Errorf("the node %s is registered, so it was made before, and its wallet is not here: a second one of its seed would lose its channels' money. Only if the first one never starts again, use --moved, and restore its channels' backup", key)
	}
	return nil
}
