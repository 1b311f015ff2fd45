// Package engine keeps the registry of tenants: it makes changes, issues macaroons,
// and says at each call what a caller may do now.
//
// It promises that a change takes effect before the call that made it returns, here
// and for tenants' macaroons in every process on the database; that a macaroon is
// refused when the registry cannot be read; and that the end of the log of changes
// is noted outside the database, so that whoever can write the database alone cannot
// rewrite the log unseen.
package engine

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lws/tenant"
	tenants "github.com/sluice-lsp/sluice/lws/tenant/store"
)

// Bakery makes macaroons, each under a root key of its own.
type Bakery interface {
	AddRootKey(ctx context.Context, id uint64) error
	Mint(ctx context.Context, id uint64, who auth.Identity) (string, error)
	// Revoke deletes a root key; an unknown one is no error.
	Revoke(ctx context.Context, id uint64) error
}

// Options are what the engine needs.
type Options struct {
	DB     *store.DB
	Bakery Bakery
	// Services are those that a plan can offer.
	Services []string
	// Gateway is the gateway's node: statements of nodes name it.
	Gateway ln.PubKey
	// Anchors is the file in which the ends of the log are noted.
	Anchors string
	Now     func() time.Time
	Random  io.Reader
	Log     *zap.Logger
}

// Engine is the registry of one process. It is safe for concurrent use.
type Engine struct {
	o       Options
	store   *tenants.Store
	anchors anchors
	current atomic.Pointer[directory]
	// loading lets one copy be read at a time, so that an older one never replaces
	// a newer one.
	loading sync.Mutex
	recheck atomic.Pointer[func(context.Context)]
	broken  atomic.Int64
}

// directory is a copy of the registry; it is never changed.
type directory struct {
	tenants.Registry
	byNode map[ln.PubKey]string
}

func newDirectory(r tenants.Registry) *directory {
	d := &directory{Registry: r, byNode: map[ln.PubKey]string{}}
	for id, t := range r.Tenants {
		for _, n := range t.Nodes {
			d.byNode[n.Key] = id
		}
	}
	return d
}

// New reads the registry of a migrated database, and checks its log. What is wrong
// with the log is told and keeps nobody from working: whoever altered it must not be
// able to stop the gateway, nor to keep an operator from revoking.
func New(ctx context.Context, o Options) (*Engine, error) {
	e := &Engine{o: o, store: tenants.New(o.DB), anchors: anchors{path: o.Anchors}}
	if err := e.store.FirstPlan(ctx, firstPlan(o.Services), e.now()); err != nil {
		return nil, fmt.Errorf("the first plan of tenants: %w", err)
	}
	if err := e.refresh(ctx); err != nil {
		return nil, fmt.Errorf("read the registry of tenants: %w", err)
	}
	check, err := e.Verify(ctx)
	if err != nil {
		return nil, fmt.Errorf("check the log of tenants: %w", err)
	}
	for _, problem := range check.Problems {
		o.Log.Error("the log of changes of tenants was tampered with, or the database is an older copy: see docs/tenant.md", zap.String("problem", problem))
	}
	return e, e.note(check.Head)
}

// firstPlan is there from the start, so that a tenant can be registered.
func firstPlan(services []string) tenant.Plan {
	return tenant.Plan{Name: "standard", Services: services, Nodes: 1, Users: 20, Macaroons: 50}
}

// now is in what the tables keep, so that a tenant is the same before and after it
// was stored.
func (e *Engine) now() time.Time { return e.o.Now().UTC().Truncate(time.Millisecond) }

// OnChange has f called after each change of the registry, also by another process.
func (e *Engine) OnChange(f func(context.Context)) { e.recheck.Store(&f) }

// Run takes in the changes of other processes until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	for range e.o.DB.Listen(ctx, tenants.Topic) {
		if err := e.refresh(ctx); err != nil && ctx.Err() == nil {
			e.o.Log.Warn("the registry of tenants could not be read; macaroons of tenants are refused until it can", zap.Error(err))
			continue
		}
		e.changed(ctx)
	}
	return nil
}

func (e *Engine) changed(ctx context.Context) {
	if f := e.recheck.Load(); f != nil {
		(*f)(ctx)
	}
}

func (e *Engine) refresh(ctx context.Context) error {
	e.loading.Lock()
	defer e.loading.Unlock()
	all, err := e.store.All(ctx)
	if err != nil {
		return err
	}
	e.current.Store(newDirectory(all))
	return nil
}

// fresh is a copy of the registry that was the present one when it was asked for.
func (e *Engine) fresh(ctx context.Context) (*directory, error) {
	head, err := e.store.Head(ctx)
	if err == nil && e.current.Load().Head != head {
		err = e.refresh(ctx)
	}
	if err != nil {
		return nil, errkind.Wrap(errkind.Unavailable, err, "The registry of tenants cannot be read now: try again in a moment.")
	}
	return e.current.Load(), nil
}

// Admit implements auth.Registry.
func (e *Engine) Admit(ctx context.Context, id auth.Identity) (auth.Identity, error) {
	d, err := e.fresh(ctx)
	if err != nil {
		return auth.Identity{}, err
	}
	t, there := d.Tenants[id.Tenant]
	m, listed := t.Macaroon(id.RootKey)
	user, known := t.User(m.User)
	switch {
	case t.Status == tenant.Suspended || t.Status == tenant.Closed:
		return auth.Identity{}, standing(t)
	case !there || !listed || !known || !e.now().Before(m.Expires):
		return auth.Identity{}, errkind.New(errkind.Unauthenticated, "This macaroon was revoked, replaced, or has expired: ask an admin of the tenant, or the operator, for another.")
	}
	id.User, id.Role, id.NodeKey = user.Name, string(user.Role), ln.PubKey{}
	allowed := []string{tenant.ServiceSelf}
	if t.Status == tenant.Active {
		allowed = append(allowed, t.Offered(d.Plans[t.Plan])...)
		if user.Role != tenant.Viewer {
			id.NodeKey = m.Node
		}
	}
	id.Services = slices.DeleteFunc(slices.Clone(id.Services), func(s string) bool {
		return !slices.Contains(m.Services, s) || !slices.Contains(allowed, s)
	})
	return id, nil
}

func standing(t tenant.Tenant) error {
	return errkind.Newf(errkind.Denied, "The tenant %s is %s (%s): ask the operator.", t.ID, t.Status, t.Reason)
}

// NodeMay implements auth.Registry. It decides by the copy in memory: wallets call
// often, and what another process changed is here within a moment.
func (e *Engine) NodeMay(node ln.PubKey, service string) error {
	d := e.current.Load()
	id, theirs := d.byNode[node]
	if !theirs {
		return nil
	}
	t := d.Tenants[id]
	switch {
	case t.Status == tenant.Onboarding:
		return errkind.Newf(errkind.Denied, "The tenant %s is being onboarded: its nodes are served once it is active.", t.ID)
	case t.Status != tenant.Active:
		return standing(t)
	case !t.NodeLogin:
		return errkind.Newf(errkind.Denied, "The nodes of the tenant %s do not log in with their own keys: use a macaroon of the tenant that acts for the node.", t.ID)
	case !slices.Contains(t.Offered(d.Plans[t.Plan]), service):
		return errkind.Newf(errkind.Denied, "The tenant %s has declined the service %q, or its plan does not offer it.", t.ID, service)
	}
	return nil
}

// Register makes a new tenant.
func (e *Engine) Register(ctx context.Context, actor, id string, kind tenant.Kind, plan string) (tenant.Tenant, error) {
	done, err := e.store.Register(ctx, actor, id, kind, plan, e.now())
	return e.made(ctx, done, err)
}

// Apply makes a change of a tenant.
func (e *Engine) Apply(ctx context.Context, actor, id string, c tenant.Command) (tenant.Tenant, error) {
	done, err := e.store.Apply(ctx, actor, id, c, e.now())
	return e.made(ctx, done, err)
}

// ChangePlan puts a tenant under another plan.
func (e *Engine) ChangePlan(ctx context.Context, actor, id, plan string) (tenant.Tenant, error) {
	done, err := e.store.ChangePlan(ctx, actor, id, plan, e.now())
	return e.made(ctx, done, err)
}

// AddNode adds a node that signed whose it is. Without its word one letter too many
// would give a tenant what another node stores here.
func (e *Engine) AddNode(ctx context.Context, actor, id string, node ln.PubKey, signature string) (tenant.Tenant, error) {
	text := tenant.Statement(e.o.Gateway, id, node)
	signer, err := auth.RecoverSigner(text, signature)
	if err != nil || subtle.ConstantTimeCompare(signer[:], node[:]) != 1 {
		return tenant.Tenant{}, errkind.Newf(errkind.Invalid, "The signature is not that node's over the statement. Have the node sign exactly this (lncli signmessage): %s", text)
	}
	return e.Apply(ctx, actor, id, tenant.AddNode{Key: node})
}

// made brings a change into effect in this process.
func (e *Engine) made(ctx context.Context, done tenants.Done, err error) (tenant.Tenant, error) {
	if err != nil {
		return tenant.Tenant{}, err
	}
	e.publish(ctx, done)
	for _, id := range done.Ended {
		// The registry refuses it already; without its root key it stays refused even
		// with an older copy of the database.
		if err := e.o.Bakery.Revoke(ctx, id); err != nil {
			e.o.Log.Warn("the root key of a macaroon that ended could not be deleted", zap.String("macaroon", tenant.FormatID(id)), zap.Error(err))
		}
	}
	return done.Tenant, nil
}

func (e *Engine) publish(ctx context.Context, done tenants.Done) {
	// The change is durable, whatever the caller's context does now.
	ctx = context.WithoutCancel(ctx)
	if err := e.refresh(ctx); err != nil {
		e.o.Log.Warn("the registry of tenants could not be read again after a change", zap.Error(err))
		e.replace(done)
	}
	if err := e.note(done.Head); err != nil {
		e.o.Log.Error("the end of the log of tenants could not be noted outside the database", zap.Error(err))
	}
	e.changed(ctx)
}

// replace puts a changed tenant into the copy. The copy keeps its head, so that it
// is read anew as soon as that is possible.
func (e *Engine) replace(done tenants.Done) {
	e.loading.Lock()
	defer e.loading.Unlock()
	old := e.current.Load()
	all := tenants.Registry{Tenants: map[string]tenant.Tenant{}, Plans: map[string]tenant.Plan{}, Head: old.Head}
	for id, t := range old.Tenants {
		all.Tenants[id] = t
	}
	for name, p := range old.Plans {
		all.Plans[name] = p
	}
	if done.Tenant.ID != "" {
		all.Tenants[done.Tenant.ID] = done.Tenant
	}
	if done.Plan.Name != "" {
		all.Plans[done.Plan.Name] = done.Plan
	}
	e.current.Store(newDirectory(all))
}

// Wish is what somebody asks a macaroon to be.
type Wish struct {
	User string
	Node ln.PubKey
	// Services empty are all of the plan, and the registration itself.
	Services []string
	// For zero is a year.
	For time.Duration
	// Instead is the id of the macaroon that it replaces, or 0.
	Instead uint64
}

// Issued is a macaroon in hex, which is not kept, and what is kept of it.
type Issued struct {
	Macaroon string
	Of       tenant.Macaroon
}

// defaultLife is how long a macaroon lasts.
const defaultLife = 365 * 24 * time.Hour

// Issue makes a macaroon for a user of a tenant.
func (e *Engine) Issue(ctx context.Context, actor, id string, w Wish) (Issued, error) {
	t, plan, err := e.store.Tenant(ctx, id)
	if err != nil {
		return Issued{}, err
	}
	m := tenant.Macaroon{User: w.User, Node: w.Node, Services: w.Services}
	if w.Instead != 0 && w.User == "" {
		// A rotation is the same macaroon under another root key.
		old, there := t.Macaroon(w.Instead)
		if !there {
			return Issued{}, errkind.New(errkind.NotFound, "The tenant has no such macaroon: it was revoked, or has expired.")
		}
		m.User, m.Node, m.Services = old.User, old.Node, old.Services
	}
	if len(m.Services) == 0 {
		m.Services = append([]string{tenant.ServiceSelf}, plan.Services...)
	}
	// A name that is none cannot be put into a macaroon.
	if err := tenant.CheckServices(m.Services, plan); err != nil {
		return Issued{}, err
	}
	if w.For == 0 {
		w.For = defaultLife
	}
	// Macaroons count whole seconds.
	m.Expires = e.now().Add(w.For).Truncate(time.Second)
	if m.ID, err = e.newID(); err != nil {
		return Issued{}, err
	}
	if err := e.o.Bakery.AddRootKey(ctx, m.ID); err != nil {
		return Issued{}, err
	}
	text, err := e.o.Bakery.Mint(ctx, m.ID, auth.Identity{Kind: auth.KindTenant, Tenant: id, Services: m.Services, Expires: m.Expires})
	if err == nil {
		_, err = e.Apply(ctx, actor, id, tenant.Issue{Macaroon: m, Instead: w.Instead})
	}
	if err != nil {
		return Issued{}, errors.Join(err, e.o.Bakery.Revoke(context.WithoutCancel(ctx), m.ID))
	}
	return Issued{Macaroon: text, Of: m}, nil
}

// firstID keeps clear of the ids that operators choose for their own.
const firstID = 1 << 40

func (e *Engine) newID() (uint64, error) {
	var raw [8]byte
	if _, err := io.ReadFull(e.o.Random, raw[:]); err != nil {
		return 0, fmt.Errorf("draw a macaroon's id: %w", err)
	}
	return binary.BigEndian.Uint64(raw[:])>>1 | firstID, nil
}

func (e *Engine) setPlan(ctx context.Context, actor string, p tenant.Plan) error {
	head, err := e.store.PutPlan(ctx, actor, p, e.now())
	if err != nil {
		return err
	}
	e.publish(ctx, tenants.Done{Plan: p, Head: head})
	return nil
}
