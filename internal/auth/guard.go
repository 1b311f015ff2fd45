package auth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Metadata keys that may carry a macaroon in hex: lnd's own, and the one that
// REST's Authorization header becomes, with "Bearer " before the hex.
const (
	MetadataMacaroon      = "macaroon"
	MetadataAuthorization = "authorization"
)

// Verifier checks a macaroon for a call of a method; *Bakery is one. Its
// errors carry a kind.
type Verifier interface {
	Verify(ctx context.Context, macaroonHex, method string) (Identity, error)
}

// Guard admits calls: it looks the method up, proves the caller, and applies
// the limits. Its order matters: a caller without a valid macaroon pays from
// its address's allowance, valid or not, before anything is said to it.
type Guard struct {
	verifier Verifier
	table    Permissions
	limits   Limits
	now      func() time.Time
	address  func(context.Context) netip.Addr

	wallets, addresses *limiters
	operator, unauth   *rate.Limiter
	streams            streamCounter
	tenants            Registry
	open               openStreams
}

// Registry is the registry of tenants, as it is now.
type Registry interface {
	// Admit completes the identity that a tenant's macaroon proved: user, role, node,
	// and the services that the macaroon, its user's tenant and its plan all allow. An
	// error of kind errkind.Unauthenticated or errkind.Denied says that it is good for
	// nothing any more; errkind.Unavailable that this cannot be known.
	Admit(ctx context.Context, id Identity) (Identity, error)
	// NodeMay refuses a service to a node that logged in with its key, where it is
	// a tenant's that may not have it. Nodes of no tenant may have any.
	NodeMay(node ln.PubKey, service string) error
}

// UseTenants has the guard ask a registry of tenants. It comes before the first
// call; without it tenants' macaroons are refused.
func (g *Guard) UseTenants(t Registry) { g.tenants = t }

// NewGuard makes a guard over a merged table. address tells where a call came
// from; nil takes gRPC's peer.
func NewGuard(v Verifier, table Permissions, limits Limits, now func() time.Time, address func(context.Context) netip.Addr) (*Guard, error) {
	if err := limits.Validate(); err != nil {
		return nil, err
	}
	if address == nil {
		address = PeerAddress
	}
	return &Guard{
		verifier: v, table: table, limits: limits, now: now, address: address,
		wallets:   newLimiters(limits.Wallet, limits.Tracked),
		addresses: newLimiters(limits.Address, limits.Tracked),
		operator:  rate.NewLimiter(rate.Limit(limits.Operator.PerSecond), limits.Operator.Burst),
		unauth:    rate.NewLimiter(rate.Limit(limits.Unauthenticated.PerSecond), limits.Unauthenticated.Burst),
		streams:   streamCounter{open: map[string]int{}},
	}, nil
}

// PeerAddress is the address at the other end of the connection; the zero
// address when it has none, which all such callers share.
func PeerAddress(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return netip.Addr{}
	}
	if tcp, ok := p.Addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr()
	}
	if ap, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
		return ap.Addr()
	}
	return netip.Addr{}
}

// Admit decides one call. It gives the context for the handler, with the
// identity in it where the method is not public, and the key under which the
// caller is limited.
func (g *Guard) Admit(ctx context.Context, method string) (context.Context, string, error) {
	permission, known := g.table[method]
	addr := addressKey(g.address(ctx))
	if !known {
		if err := g.chargeAddress(addr); err != nil {
			return nil, "", err
		}
		return nil, "", errkind.New(errkind.Denied, "This server does not offer that call: check the client's version against the server's.")
	}
	if permission.For == Public || permission.Nobody && !hasMacaroon(ctx) {
		return withCaller(ctx, addr), addr, g.chargeAddress(addr)
	}
	charged := false
	id, err := g.identify(withLookup(ctx, func() error {
		charged = true
		return g.chargeAddress(addr)
	}), method)
	if err != nil {
		if charged {
			return nil, "", err
		}
		if limited := g.chargeAddress(addr); limited != nil {
			return nil, "", limited
		}
		return nil, "", err
	}
	if !g.allow(id) {
		return nil, "", errkind.New(errkind.Exhausted, "Too many calls: wait a second and call less often.")
	}
	if id, err = g.permit(ctx, id, permission); err != nil {
		return nil, "", err
	}
	return WithIdentity(ctx, id), id.String(), nil
}

// permit decides whether a proven caller may call, with what the registry of
// tenants says of it now.
func (g *Guard) permit(ctx context.Context, id Identity, p Permission) (Identity, error) {
	switch {
	case id.Kind == KindTenant && g.tenants == nil:
		return id, errkind.New(errkind.Denied, "This server has no tenants: call the one that gave the macaroon.")
	case id.Kind == KindTenant:
		var err error
		if id, err = g.tenants.Admit(ctx, id); err != nil {
			return id, err
		}
	case id.Kind == KindWallet && g.tenants != nil && p.For&Wallets != 0:
		if err := g.tenants.NodeMay(id.NodeKey, p.Service); err != nil {
			return id, err
		}
	}
	return id, p.check(id)
}

func (g *Guard) allow(id Identity) bool {
	if id.Kind == KindOperator {
		return g.operator.AllowN(g.now(), 1)
	}
	return g.wallets.allow(id.String(), g.now())
}

func (g *Guard) chargeAddress(addr string) error {
	now := g.now()
	// The address first: one that is over its own allowance must not use up
	// the allowance of all.
	if !g.addresses.allow(addr, now) || !g.unauth.AllowN(now, 1) {
		return errkind.New(errkind.Exhausted, "Too many calls without a valid macaroon: wait a few seconds, then log in.")
	}
	return nil
}

type lookupKey struct{}

// withLookup has the caller pay before the database is read for a root key that
// nobody has used here yet: made-up ids would cost one read each.
func withLookup(ctx context.Context, charge func() error) context.Context {
	return context.WithValue(ctx, lookupKey{}, charge)
}

func chargeLookup(ctx context.Context) error {
	if charge, ok := ctx.Value(lookupKey{}).(func() error); ok {
		return charge()
	}
	return nil
}

func (g *Guard) identify(ctx context.Context, method string) (Identity, error) {
	text, err := macaroonFromContext(ctx)
	if err != nil {
		return Identity{}, err
	}
	return g.verifier.Verify(ctx, text, method)
}

// hasMacaroon says that something is shown for one, good or not.
func hasMacaroon(ctx context.Context) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	return len(md.Get(MetadataMacaroon))+len(md.Get(MetadataAuthorization)) > 0
}

func macaroonFromContext(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if values := md.Get(MetadataMacaroon); len(values) == 1 {
		return values[0], nil
	} else if len(values) > 1 {
		return "", errkind.New(errkind.Unauthenticated, "Send one macaroon, not several.")
	}
	if values := md.Get(MetadataAuthorization); len(values) == 1 {
		scheme, token, ok := strings.Cut(values[0], " ")
		if ok && strings.EqualFold(scheme, "bearer") {
			return strings.TrimSpace(token), nil
		}
	}
	return "", errkind.New(errkind.Unauthenticated, "This call needs a macaroon: log in with the node's key, or use the operator's macaroon file.")
}

// Unary guards unary calls.
func (g *Guard) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, _, err := g.Admit(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// Stream guards streams: besides admitting them it bounds how many a caller
// holds open, and ends each when its macaroon does.
func (g *Guard) Stream() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, key, err := g.Admit(ss.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		id, known := FromContext(ctx)
		if !known || id.Kind != KindOperator {
			if err := g.streams.acquire(key, g.limits.Streams); err != nil {
				return err
			}
			defer g.streams.release(key)
		}
		if known && id.Kind != KindOperator {
			var end context.CancelCauseFunc
			ctx, end = context.WithCancelCause(ctx)
			defer end(nil)
			open := &openStream{id: id, permission: g.table[info.FullMethod], end: end}
			defer g.open.add(open)()
			// Again, now that a Recheck finds the stream: what was revoked since the first
			// time would have missed it.
			if _, err := g.permit(ctx, id, open.permission); err != nil {
				return err
			}
		}
		if known && !id.Expires.IsZero() {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, id.Expires.Sub(g.now()), errMacaroonEnded())
			defer cancel()
		}
		err = handler(srv, &guardedStream{ServerStream: ss, ctx: ctx})
		if known && err != nil && ss.Context().Err() == nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
}

// Recheck ends the open streams of callers that the registry of tenants refuses
// now. Whoever changes the registry calls it, so that a revocation reaches streams
// as it does calls.
func (g *Guard) Recheck(ctx context.Context) {
	for _, s := range g.open.all() {
		_, err := g.permit(ctx, s.id, s.permission)
		// What cannot be known now is asked again when the registry is back.
		if errors.Is(err, errkind.Denied) || errors.Is(err, errkind.Unauthenticated) {
			s.end(err)
		}
	}
}

// openStream is a stream that a caller with limits has open, with the identity
// that its macaroon proved.
type openStream struct {
	id         Identity
	permission Permission
	end        context.CancelCauseFunc
}

type openStreams struct {
	mu   sync.Mutex
	open map[*openStream]struct{}
}

// add notes a stream until the function that it returns is called.
func (o *openStreams) add(s *openStream) func() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open == nil {
		o.open = map[*openStream]struct{}{}
	}
	o.open[s] = struct{}{}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.open, s)
	}
}

func (o *openStreams) all() []*openStream {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Keys(o.open))
}

func errMacaroonEnded() error {
	return errkind.New(errkind.Unauthenticated, "The macaroon of this stream has expired: log in and open it again.")
}

type guardedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *guardedStream) Context() context.Context { return s.ctx }

// CheckComplete compares the table with the methods that a server has: each
// must have an entry, and each entry a method, so that a table that lags
// behind a proto stops the start instead of a call.
func CheckComplete(table Permissions, registered map[string]grpc.ServiceInfo) error {
	methods := map[string]bool{}
	for service, info := range registered {
		for _, m := range info.Methods {
			full := "/" + service + "/" + m.Name
			methods[full] = true
			if _, ok := table[full]; !ok {
				return fmt.Errorf("method %s has no entry in its service's permissions", full)
			}
		}
	}
	for method := range table {
		if !methods[method] {
			return fmt.Errorf("permissions name %s, which no service has", method)
		}
	}
	return nil
}
