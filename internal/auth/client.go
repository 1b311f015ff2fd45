package auth

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/auth/api/authv1"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// renewBefore is how long before a macaroon's end a new one is fetched.
const renewBefore = time.Minute

// Sign signs a text with the node's key as lnd's SignMessage does and gives
// the z-base-32 signature.
type Sign func(ctx context.Context, message string) (string, error)

// ClientConfig says who logs in where.
type ClientConfig struct {
	// Server is whom the caller means to talk to. NodeKey is required: it is
	// what keeps a false server from passing our login on to another. An empty
	// ID accepts any deployment at that node.
	Server   Server
	Node     ln.PubKey
	Services []string
	Sign     Sign
	Now      func() time.Time
}

// Credentials logs in when a call first needs it, and again before the
// macaroon ends or when the server no longer takes it. Use Dial, or give it to
// grpc.WithPerRPCCredentials and connect Bind and the interceptors yourself.
type Credentials struct {
	cfg   ClientConfig
	login authv1.AuthClient
	// turn lets one login run at a time while others wait for its result or
	// for their own context.
	turn    chan struct{}
	current session
}

type session struct {
	macaroon string
	renewAt  time.Time
}

// NewCredentials makes credentials that cannot log in before Bind.
func NewCredentials(cfg ClientConfig) (*Credentials, error) {
	if cfg.Server.NodeKey.IsZero() || cfg.Node.IsZero() || cfg.Sign == nil || cfg.Now == nil {
		return nil, fmt.Errorf("credentials need the server's node key, our own, a signer and a clock")
	}
	return &Credentials{cfg: cfg, turn: make(chan struct{}, 1)}, nil
}

// Bind says over which connection to log in; it must come before the first
// call, and may be the connection that carries these credentials.
func (c *Credentials) Bind(conn grpc.ClientConnInterface) { c.login = authv1.NewAuthClient(conn) }

var _ credentials.PerRPCCredentials = (*Credentials)(nil)

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (c *Credentials) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	// The login itself goes without a macaroon, or it would wait for itself.
	if len(uri) == 1 && strings.HasSuffix(uri[0], "/"+authv1.Auth_ServiceDesc.ServiceName) {
		return nil, nil
	}
	mac, err := c.Macaroon(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]string{MetadataMacaroon: mac}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: a
// macaroon is never sent in the clear.
func (c *Credentials) RequireTransportSecurity() bool { return true }

// Macaroon gives a macaroon in hex that is good now, logging in if needed.
func (c *Credentials) Macaroon(ctx context.Context) (string, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if c.current.macaroon != "" && c.cfg.Now().Before(c.current.renewAt) {
		return c.current.macaroon, nil
	}
	fresh, err := c.logIn(ctx)
	if err != nil {
		return "", fmt.Errorf("log in at gateway %s: %w", c.cfg.Server.NodeKey.Short(), err)
	}
	c.current = fresh
	return fresh.macaroon, nil
}

// Forget drops a macaroon that the server refused, unless a newer one is
// already in place.
func (c *Credentials) Forget(ctx context.Context, macaroon string) error {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.current.macaroon == macaroon {
		c.current = session{}
	}
	return nil
}

func (c *Credentials) logIn(ctx context.Context) (session, error) {
	if c.login == nil {
		return session{}, fmt.Errorf("credentials are not bound to a connection")
	}
	asked, err := c.login.Challenge(ctx, &authv1.ChallengeRequest{NodeId: c.cfg.Node.String(), Services: c.cfg.Services})
	if err != nil {
		return session{}, err
	}
	text := asked.GetMessage()
	parsed, err := parseChallenge(text)
	if err != nil {
		return session{}, err
	}
	now := c.cfg.Now()
	if err := parsed.checkForSigning(c.cfg.Server, c.cfg.Node, c.cfg.Services, now); err != nil {
		return session{}, err
	}
	signature, err := c.cfg.Sign(ctx, text)
	if err != nil {
		return session{}, fmt.Errorf("sign the challenge: %w", err)
	}
	got, err := c.login.Login(ctx, &authv1.LoginRequest{Message: text, Seal: asked.GetSeal(), Signature: signature})
	if err != nil {
		return session{}, err
	}
	// Of the end only the distance from the server's present counts: our clock may
	// be wrong by a day.
	life := time.Unix(got.GetExpiresAtUnix(), 0).Sub(parsed.expires.Add(-challengeLife))
	return session{macaroon: got.GetMacaroon(), renewAt: renewalTime(now, now.Add(max(0, life)))}, nil
}

// renewalTime is a minute before the end, or half-way for short lives.
func renewalTime(now, end time.Time) time.Time {
	life := end.Sub(now)
	if life < 2*renewBefore {
		return now.Add(life / 2)
	}
	return end.Add(-renewBefore)
}

// Unary repeats a call once after a new login when the server refused the
// macaroon (revoked, or the server was set up anew). That is safe for any
// call: a refused one never reached its handler.
func (c *Credentials) Unary() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if strings.HasPrefix(method, "/"+authv1.Auth_ServiceDesc.ServiceName+"/") {
			return invoke(ctx, method, req, reply, conn, opts...)
		}
		used, err := c.Macaroon(ctx)
		if err != nil {
			return err
		}
		err = invoke(ctx, method, req, reply, conn, opts...)
		if status.Code(err) != codes.Unauthenticated {
			return err
		}
		if forgot := c.Forget(ctx, used); forgot != nil {
			return err
		}
		return invoke(ctx, method, req, reply, conn, opts...)
	}
}

// Stream logs in anew when the server ends a stream because of its macaroon,
// so that the caller's next attempt has a fresh one.
func (c *Credentials) Stream() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		used, err := c.Macaroon(ctx)
		if err != nil {
			return nil, err
		}
		s, err := open(ctx, desc, conn, method, opts...)
		if err != nil {
			return nil, err
		}
		return &forgettingStream{ClientStream: s, creds: c, used: used}, nil
	}
}

type forgettingStream struct {
	grpc.ClientStream
	creds *Credentials
	used  string
}

func (s *forgettingStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if status.Code(err) == codes.Unauthenticated {
		_ = s.creds.Forget(s.Context(), s.used)
	}
	return err
}

// Dial makes a connection whose calls carry a wallet's macaroon, logging in
// when needed. It connects lazily, like grpc.NewClient.
func Dial(target string, transport credentials.TransportCredentials, cfg ClientConfig, opts ...grpc.DialOption) (*grpc.ClientConn, *Credentials, error) {
	creds, err := NewCredentials(cfg)
	if err != nil {
		return nil, nil, err
	}
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(creds),
		grpc.WithChainUnaryInterceptor(creds.Unary()),
		grpc.WithChainStreamInterceptor(creds.Stream()),
	}, opts...)
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, nil, fmt.Errorf("dial %s: %w", target, err)
	}
	creds.Bind(conn)
	return conn, creds, nil
}

// FileCredentials carry the macaroon of a file: the operator's.
type FileCredentials struct{ macaroon string }

// NewFileCredentials reads a binary macaroon file.
func NewFileCredentials(path string) (FileCredentials, error) {
	mac, err := ReadMacaroonFile(path)
	if err != nil {
		return FileCredentials{}, err
	}
	if _, err := hex.DecodeString(mac); err != nil {
		return FileCredentials{}, err
	}
	return FileCredentials{macaroon: mac}, nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (c FileCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{MetadataMacaroon: c.macaroon}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (c FileCredentials) RequireTransportSecurity() bool { return true }
