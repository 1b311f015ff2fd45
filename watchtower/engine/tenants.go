package engine

import (
	"context"
	"crypto/sha256"
	"errors"

	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/lightningnetwork/lnd/watchtower/wtdb"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/watchtower"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
	"github.com/sluice-lsp/sluice/watchtower/transport"
)

// Identity is a node's identity at the tower.
func Identity(node ln.PubKey) string { return "node:" + node.String() }

// Register gives a node its tower, or prolongs what it has. address is where the
// call comes from.
func (e *Engine) Register(ctx context.Context, node ln.PubKey, address string) (watchtower.Tenant, error) {
	if len(e.o.Config.Addresses) == 0 {
		return watchtower.Tenant{}, errkind.New(errkind.Unavailable, "The tower has no public address yet: its operator must set watchtower.addresses.")
	}
	private, err := transport.Derive(e.o.Secret, Identity(node))
	if err != nil {
		return watchtower.Tenant{}, err
	}
	key := transport.NewKey(0, private).PubKey()
	admitted := false
	t, err := e.store.Register(ctx, Identity(node), key, e.o.Config.Terms, func(watched int64) error {
		// A transaction may run several times; who was let in once pays once.
		if admitted {
			return nil
		}
		err := e.admit(node, watched, address)
		admitted = err == nil
		return err
	})
	if err != nil {
		return t, err
	}
	if t.TowerKey != key {
		return t, errors.New("the tower's secret is not the one that this registration was made with: bring its file back")
	}
	// The client may connect the moment it has the URI.
	if err := e.loadKeys(ctx); err != nil {
		return t, err
	}
	e.o.Log.Info("registered", zap.String("identity", t.Identity), zap.Int64("tenant", t.ID), zap.Time("expires", t.Expires))
	return t, nil
}

func (e *Engine) admit(node ln.PubKey, watched int64, address string) error {
	c := e.o.Config
	if len(c.Allow) > 0 && !c.Allow[node] {
		return errkind.New(errkind.Denied, "This tower is for nodes that its operator knows: ask to be let in.")
	}
	if watched >= c.MaxTenants || e.full() {
		return errkind.New(errkind.Exhausted, "This tower takes no new registrations: it is full. Ask its operator, or use another.")
	}
	if !e.newFrom.Allow(address, e.o.Now()) || !e.newcomer.AllowN(e.o.Now(), 1) {
		return errkind.New(errkind.Exhausted, "Too many new registrations in this hour: try again later.")
	}
	return nil
}

// URIs are how a tenant's client reaches its tower.
func (e *Engine) URIs(t watchtower.Tenant) []string {
	out := make([]string, 0, len(e.o.Config.Addresses))
	for _, a := range e.o.Config.Addresses {
		out = append(out, t.TowerKey.String()+"@"+a)
	}
	return out
}

// Tenant finds a tenant.
func (e *Engine) Tenant(ctx context.Context, identity string) (watchtower.Tenant, error) {
	return e.store.Tenant(ctx, identity)
}

// TenantByID finds a tenant by the database's number.
func (e *Engine) TenantByID(ctx context.Context, id int64) (watchtower.Tenant, error) {
	return e.store.TenantByID(ctx, id)
}

// Tenants lists them.
func (e *Engine) Tenants(ctx context.Context, after string, limit int) ([]watchtower.Tenant, error) {
	return e.store.Tenants(ctx, after, limit)
}

// SetTenant stores an operator's settings. A suspension also ends the sessions'
// connections: they come back and hear it.
func (e *Engine) SetTenant(ctx context.Context, identity string, set tower.Settings) (watchtower.Tenant, error) {
	if set.Suspended && set.Reason == "" {
		return watchtower.Tenant{}, errkind.New(errkind.Invalid, "Say why: the tenant reads the reason.")
	}
	if !set.Suspended {
		set.Reason = ""
	}
	t, err := e.store.SetTenant(ctx, identity, set)
	if err == nil {
		e.o.Log.Info("tenant set", zap.String("identity", identity), zap.Bool("suspended", set.Suspended), zap.String("reason", set.Reason), zap.Time("expires", set.Expires))
	}
	return t, err
}

// Sessions lists a tenant's sessions.
func (e *Engine) Sessions(ctx context.Context, tenant, after int64, limit int) ([]tower.Session, error) {
	return e.store.Sessions(ctx, tenant, after, limit)
}

// Breaches lists a tenant's breaches, or with tenant 0 all.
func (e *Engine) Breaches(ctx context.Context, tenant int64, after tower.Cursor, limit int) ([]watchtower.Breach, error) {
	return e.store.Breaches(ctx, tenant, after, limit)
}

// Breach shows one with its story.
func (e *Engine) Breach(ctx context.Context, tenant int64, id watchtower.BreachID) (watchtower.Breach, []tower.Line, error) {
	return e.store.Breach(ctx, tenant, id)
}

// Updates reads what is held under a sequence number of a tenant's session.
func (e *Engine) Updates(ctx context.Context, tenant int64, session [33]byte, seq uint16) ([]tower.Held, error) {
	out, err := e.store.Updates(ctx, tenant, wtdb.SessionID(session), seq)
	if errors.Is(err, wtdb.ErrSessionNotFound) {
		return nil, errkind.New(errkind.NotFound, "The tower holds no such session of this registration.")
	}
	return out, err
}

// Tally counts breaches by state, a few seconds ago.
func (e *Engine) Tally() []tower.Tally { return *e.tally.Load() }

// Statement signs what a tenant has here, over the caller's nonce. Its updates are
// counted one by one: a statement of what was once added up would hide their loss.
func (e *Engine) Statement(ctx context.Context, t watchtower.Tenant, nonce []byte) (watchtower.Statement, error) {
	if len(nonce) != watchtower.NonceSize {
		return watchtower.Statement{}, errkind.Newf(errkind.Invalid, "A nonce has %d bytes.", watchtower.NonceSize)
	}
	sessions, err := e.store.Held(ctx, t.ID)
	if err != nil {
		return watchtower.Statement{}, err
	}
	s := watchtower.Statement{Identity: t.Identity, Nonce: nonce, AtMs: e.o.Now().UnixMilli(), Sessions: sessions}
	copy(s.ServerKey[:], schnorr.SerializePubKey(e.signer.PubKey()))
	digest := sha256.Sum256(s.Text())
	signature, err := schnorr.Sign(e.signer, digest[:])
	if err != nil {
		return s, err
	}
	copy(s.Signature[:], signature.Serialize())
	return s, nil
}
