package lnd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/chainrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/peersrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnrpc/verrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/lightningnetwork/lnd/lnrpc/wtclientrpc"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/sharedcall"
)

// maxMessageBytes bounds what lnd may answer: ListChannels and forwarding
// history of a large gateway exceed gRPC's default of 4 MiB.
const maxMessageBytes = 200 << 20

// Config says how to reach one lnd.
type Config struct {
	// Address is HOST:PORT of lnd's gRPC listener.
	Address string
	// TLSCertFile is lnd's certificate; empty trusts the system's roots.
	TLSCertFile string
	// MacaroonFile is read anew for each new connection attempt's first call.
	MacaroonFile string
	// Network is the chain that lnd must be on: "mainnet", "testnet",
	// "signet" or "regtest".
	Network string
	// CallTimeout bounds a unary call whose context has no deadline.
	CallTimeout time.Duration
	Log         *zap.Logger
	// DialOptions are for tests: an in-memory dialer, without TLS.
	DialOptions []grpc.DialOption
}

// Client is a connection to one lnd. All methods may be used concurrently.
type Client struct {
	cfg       Config
	conn      *grpc.ClientConn
	inherited *inherited
	listings  sharedcall.Answers[[]ln.Channel]

	lightning lnrpc.LightningClient
	state     lnrpc.StateClient
	router    routerrpc.RouterClient
	invoices  invoicesrpc.InvoicesClient
	wallet    walletrpc.WalletKitClient
	chain     chainrpc.ChainNotifierClient
	blocks    chainrpc.ChainKitClient
	signer    signrpc.SignerClient
	peers     peersrpc.PeersClient
	version   verrpc.VersionerClient
	towers    wtclientrpc.WatchtowerClientClient
}

// macaroonCredential adds the macaroon to every call. It refuses to travel
// without TLS unless the test dialer asked for it.
type macaroonCredential struct {
	hex      string
	insecure bool
}

func (m macaroonCredential) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"macaroon": m.hex}, nil
}

func (m macaroonCredential) RequireTransportSecurity() bool { return !m.insecure }

// Dial prepares the connection; it does not wait for lnd. Files that cannot be
// read are errors that name the file.
func Dial(cfg Config) (*Client, error) {
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	had := new(inherited)
	opts := []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 60 * time.Second, Timeout: 10 * time.Second,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithUnaryInterceptor(deadline(cfg.CallTimeout)),
	}
	secure := insecure.NewCredentials()
	if len(cfg.DialOptions) == 0 {
		tlsConfig, err := tlsFromFile(cfg.TLSCertFile)
		if err != nil {
			return nil, err
		}
		secure = credentials.NewTLS(tlsConfig)
	}
	if cfg.MacaroonFile != "" {
		raw, err := os.ReadFile(cfg.MacaroonFile)
		if err != nil {
			return nil, fmt.Errorf("lnd's macaroon: %w; `sluiced macaroon` prints how to bake one", err)
		}
		opts = append(opts, grpc.WithPerRPCCredentials(macaroonCredential{
			hex: hex.EncodeToString(raw), insecure: len(cfg.DialOptions) > 0,
		}))
	}
	opts = append(opts, cfg.DialOptions...)
	opts = append(opts, grpc.WithTransportCredentials(countedCredentials{secure, had}))
	conn, err := grpc.NewClient(cfg.Address, opts...)
	if err != nil {
		return nil, fmt.Errorf("lnd at %s: %w", cfg.Address, err)
	}
	return &Client{
		cfg: cfg, conn: conn, inherited: had,
		lightning: lnrpc.NewLightningClient(conn),
		state:     lnrpc.NewStateClient(conn),
		router:    routerrpc.NewRouterClient(conn),
		invoices:  invoicesrpc.NewInvoicesClient(conn),
		wallet:    walletrpc.NewWalletKitClient(conn),
		chain:     chainrpc.NewChainNotifierClient(conn),
		blocks:    chainrpc.NewChainKitClient(conn),
		signer:    signrpc.NewSignerClient(conn),
		peers:     peersrpc.NewPeersClient(conn),
		version:   verrpc.NewVersionerClient(conn),
		towers:    wtclientrpc.NewWatchtowerClientClient(conn),
	}, nil
}

// Close ends the connection and every subscription on it.
func (c *Client) Close() error { return c.conn.Close() }

// Conn is the connection itself, for interceptor/stream, which speaks
// routerrpc's interceptor on it.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// WaitReady returns once lnd's RPC server serves calls. It waits on lnd's own
// state stream, so that it returns the moment lnd is ready, and again through
// every failed attempt until the context ends.
func (c *Client) WaitReady(ctx context.Context) error {
	for {
		err := c.waitReadyOnce(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, errWalletLocked) || ctx.Err() != nil {
			return err
		}
		c.cfg.Log.Debug("lnd is not ready", zap.Error(err))
		timer := time.NewTimer(100 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("waiting for lnd at %s: %w (last: %w)", c.cfg.Address, ctx.Err(), err)
		case <-timer.C:
		}
	}
}

var errWalletLocked = errors.New("lnd's wallet is locked or missing: unlock or create it (lncli unlock)")

func (c *Client) waitReadyOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.state.SubscribeState(ctx, &lnrpc.SubscribeStateRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return mapError("subscribe to lnd's state", err)
	}
	for {
		msg, err := stream.Recv()
		if err != nil {
			return mapError("lnd's state", err)
		}
		switch msg.State {
		case lnrpc.WalletState_SERVER_ACTIVE:
			return nil
		case lnrpc.WalletState_NON_EXISTING, lnrpc.WalletState_LOCKED:
			c.cfg.Log.Warn(errWalletLocked.Error())
		default:
		}
	}
}

func tlsFromFile(path string) (*tls.Config, error) {
	if path == "" {
		return &tls.Config{MinVersion: tls.VersionTLS12}, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("lnd's TLS certificate: %w; it is lnd's tls.cert, which lnd writes when it first starts: name the place where it is", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("lnd's TLS certificate %s holds no PEM certificate", path)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

func deadline(d time.Duration) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		if _, has := ctx.Deadline(); !has {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, d)
			defer cancel()
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
}

// shortMethod keeps error texts readable: "/lnrpc.Lightning/GetInfo" says no
// more than "GetInfo".
func shortMethod(full string) string { return full[strings.LastIndexByte(full, '/')+1:] }
