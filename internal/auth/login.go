package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/auth/api/authv1"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

const (
	challengeLife = 2 * time.Minute
	// maxChallengeLife is the longest a client agrees to sign: the server's
	// life for one plus as much for clocks that differ.
	maxChallengeLife = 2 * challengeLife
	// clockSkew is how wrong a client's clock may be: it must not lose its backups
	// for a clock that is wrong by a day. The server's own clock bounds each
	// challenge to its minutes and each to one use; the client's check is that
	// nobody collects signatures that are good for years.
	clockSkew = 25 * time.Hour
	// maxUsedNonces bounds the memory for used challenges; a login beyond it
	// within one challenge's life is refused, never let through unchecked.
	maxUsedNonces = 100_000
)

// LoginConfig is what the login service needs.
type LoginConfig struct {
	Server Server
	Bakery *Bakery
	// Services that wallets may ask for.
	Services []string
	// MacaroonLife is how long a login lasts.
	MacaroonLife time.Duration
	Rand         io.Reader
	Now          func() time.Time
}

// Login is the login service: stateless challenges, one use each.
type Login struct {
	authv1.UnimplementedAuthServer
	cfg LoginConfig
	// sealKey lives and dies with the process, so that a challenge from before
	// a restart, whose use would be forgotten, is not good any more.
	sealKey [32]byte
	used    usedNonces
}

// NewLogin makes the service.
func NewLogin(cfg LoginConfig) (*Login, error) {
	if cfg.Server.NodeKey.IsZero() || cfg.Server.ID == "" {
		return nil, fmt.Errorf("login: the gateway's node key and the server's id must be known first")
	}
	if cfg.MacaroonLife <= 0 {
		return nil, fmt.Errorf("login: the macaroon's life must be positive")
	}
	if err := checkServices(cfg.Services); err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	l := &Login{cfg: cfg, used: usedNonces{until: map[[16]byte]time.Time{}}}
	if _, err := io.ReadFull(cfg.Rand, l.sealKey[:]); err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	return l, nil
}

// Name implements the server's service interface.
func (l *Login) Name() string { return "auth" }

// Permissions implements the server's service interface.
func (l *Login) Permissions() Permissions {
	return Permissions{
		authv1.Auth_Challenge_FullMethodName: {For: Public},
		authv1.Auth_Login_FullMethodName:     {For: Public},
	}
}

// RegisterGRPC implements the server's service interface.
func (l *Login) RegisterGRPC(r grpc.ServiceRegistrar) { authv1.RegisterAuthServer(r, l) }

// RegisterREST implements the server's service interface.
func (l *Login) RegisterREST(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error {
	return authv1.RegisterAuthHandler(ctx, mux, conn)
}

// Challenge implements authv1.AuthServer. It remembers nothing.
func (l *Login) Challenge(_ context.Context, req *authv1.ChallengeRequest) (*authv1.ChallengeResponse, error) {
	node, err := ln.ParsePubKey(req.GetNodeId())
	if err != nil {
		return nil, errkind.Wrap(errkind.Invalid, err, "Give node_id as the node's public key, 66 hex digits.")
	}
	services := req.GetServices()
	if len(services) == 0 {
		services = l.cfg.Services
	}
	if len(services) > maxServices {
		return nil, errkind.Newf(errkind.Invalid, "Ask for at most %d services.", maxServices)
	}
	if granted := intersect(l.cfg.Services, services); len(granted) != len(services) {
		return nil, errkind.Newf(errkind.Invalid, "Ask for services among %q, each once.", l.cfg.Services)
	}
	c := challenge{server: l.cfg.Server, node: node, services: services, expires: l.cfg.Now().Add(challengeLife).Truncate(time.Second)}
	if _, err := io.ReadFull(l.cfg.Rand, c.nonce[:]); err != nil {
		return nil, fmt.Errorf("make challenge: %w", err)
	}
	text := c.String()
	return &authv1.ChallengeResponse{Message: text, Seal: l.seal(text)}, nil
}

// Login implements authv1.AuthServer. Checks run from cheap to dear, and only
// a signature by the very node uses the challenge up: others cannot spend it.
func (l *Login) Login(ctx context.Context, req *authv1.LoginRequest) (*authv1.LoginResponse, error) {
	text := req.GetMessage()
	if len(text) > maxChallengeLen || !hmac.Equal(req.GetSeal(), l.seal(text)) {
		return nil, errkind.New(errkind.Unauthenticated, "This challenge is not from this server, or from before its restart: ask for a new one.")
	}
	c, err := parseChallenge(text)
	if err != nil {
		return nil, err
	}
	now := l.cfg.Now()
	if !now.Before(c.expires) {
		return nil, errkind.New(errkind.Unauthenticated, "The challenge has expired: ask for a new one and sign it at once.")
	}
	signer, err := RecoverSigner(text, req.GetSignature())
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(signer[:], c.node[:]) {
		return nil, errkind.New(errkind.Unauthenticated, "The signature is not by the node that asked for the challenge: sign the text unchanged, with that node's key.")
	}
	if err := l.used.use(c.nonce, c.expires, now); err != nil {
		return nil, err
	}
	id := Identity{Kind: KindWallet, NodeKey: c.node, Services: c.services, Expires: now.Add(l.cfg.MacaroonLife).Truncate(time.Second)}
	mac, err := l.cfg.Bakery.Mint(ctx, RootKeyWallets, id)
	if err != nil {
		return nil, err
	}
	return &authv1.LoginResponse{Macaroon: mac, Services: id.Services, ExpiresAtUnix: id.Expires.Unix()}, nil
}

func (l *Login) seal(text string) []byte {
	mac := hmac.New(sha256.New, l.sealKey[:])
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// usedNonces remembers used challenges until they expire.
type usedNonces struct {
	mu    sync.Mutex
	until map[[16]byte]time.Time
	// sweepAt is when the next sweep is due: at most one per second, so that
	// its cost does not grow with the number of calls.
	sweepAt time.Time
}

func (u *usedNonces) use(nonce [16]byte, until, now time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !now.Before(u.sweepAt) {
		for n, t := range u.until {
			if !now.Before(t) {
				delete(u.until, n)
			}
		}
		u.sweepAt = now.Add(time.Second)
	}
	if _, used := u.until[nonce]; used {
		return errkind.New(errkind.Unauthenticated, "This challenge was used before: ask for a new one.")
	}
	if len(u.until) >= maxUsedNonces {
		return errkind.New(errkind.Exhausted, "Too many logins at once: try again in a minute.")
	}
	u.until[nonce] = until
	return nil
}
