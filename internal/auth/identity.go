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
)

// Identity is a caller that proved who it is.
type Identity struct {
	Kind Kind
	// NodeKey is the wallet's node; zero for operators.
	NodeKey ln.PubKey
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
	if i.Kind == KindWallet {
		return string(i.Kind) + ":" + i.NodeKey.String()
	}
	return string(i.Kind)
}

type identityKey struct{}

// WithIdentity gives a context that carries an identity; the guard does so for
// every call, tests do it for handlers.
func WithIdentity(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

// FromContext is the caller of this call. It is false in calls that need no
// macaroon.
func FromContext(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(identityKey{}).(Identity)
	return id, ok
}

// NodeOf is the node whose wallet calls. The error is errkind.Unauthenticated when
// the caller proved no node's key; operators have none.
func NodeOf(ctx context.Context) (ln.PubKey, error) {
	id, ok := FromContext(ctx)
	if !ok || id.Kind != KindWallet || id.NodeKey.IsZero() {
		return ln.PubKey{}, errkind.New(errkind.Unauthenticated, "Log in with the node's key first.")
	}
	return id.NodeKey, nil
}
