package auth

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/sluice-lsp/sluice/internal/errkind"
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
}

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
	if permission.For == Public {
		return ctx, addr, g.chargeAddress(addr)
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
	if err := permission.check(id); err != nil {
		return nil, "", err
	}
	return WithIdentity(ctx, id), id.String(), nil
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
		expires := known && !id.Expires.IsZero()
		if expires {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, id.Expires.Sub(g.now()), errMacaroonEnded())
			defer cancel()
		}
		err = handler(srv, &guardedStream{ServerStream: ss, ctx: ctx})
		if expires && err != nil && ss.Context().Err() == nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
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
