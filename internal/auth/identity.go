package auth

import (
	"context"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Kind is the class of a caller, as it stands in macaroons.
type Kind string

// The kinds of callers.
const (
	KindOperator Kind = "operator"
	KindWallet   Kind = "wallet"
	// KindTenant is a user of a tenant, or a program of its.
	KindTenant Kind = "tenant"
)

// Identity is a caller that proved who it is.
type Identity struct {
	Kind Kind
	// NodeKey is the wallet's node, or the one that a tenant's macaroon acts for;
	// zero for operators and for macaroons that act for none.
	NodeKey ln.PubKey
	// Tenant is the tenant's name; User and Role are what the registry of tenants
	// says of the macaroon now. Empty for others.
	Tenant, User, Role string
	// RootKey is the id of the root key of the macaroon that proved all this.
	RootKey uint64
	// Services the caller may use; nil means every one, which only operators
	// have.
	Services []string
	// Expires is when the macaroon ends; zero means never.
	Expires time.Time
}

// Allows reports that the identity is good for a service.
func (i Identity) Allows(service string) bool {
	if i.Services == nil {
		return i.Kind == KindOperator
	}
	return slices.Contains(i.Services, service)
}

// String names the identity in logs and as the key of its limits.
func (i Identity) String() string {
	switch i.Kind {
	case KindWallet:
		return string(i.Kind) + ":" + i.NodeKey.String()
	case KindTenant:
		return string(i.Kind) + ":" + i.Tenant
	case KindOperator:
	}
	return string(i.Kind)
}

type identityKey struct{}

// WithIdentity gives a context that carries an identity; the guard does so for
// every call, tests do it for handlers.
func WithIdentity(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

type callerKey struct{}

func withCaller(ctx context.Context, addr string) context.Context {
	return context.WithValue(ctx, callerKey{}, addr)
}

// CallerOf is under what a caller without an identity is limited: its address, of
// IPv6 the /64.
func CallerOf(ctx context.Context) string {
	addr, _ := ctx.Value(callerKey{}).(string)
	return addr
}

// FromContext is the caller of this call. It is false in calls that need no
// macaroon.
func FromContext(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(identityKey{}).(Identity)
	return id, ok
}

// NodeOf is the node whose wallet calls, or that a tenant's macaroon acts for. The
// error is errkind.Unauthenticated when the caller acts for no node; operators do not.
func NodeOf(ctx context.Context) (ln.PubKey, error) {
	id, ok := FromContext(ctx)
	if !ok || id.Kind == KindOperator || id.NodeKey.IsZero() {
		return ln.PubKey{}, errkind.New(errkind.Unauthenticated, "Log in with the node's key first.")
	}
	return id.NodeKey, nil
}
