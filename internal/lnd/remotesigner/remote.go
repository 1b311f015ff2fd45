package remotesigner

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"gopkg.in/macaroon.v2"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Config says how to reach an lnd.
type Config struct {
	// Address is host:port of its gRPC.
	Address string
	// Certificate is its tls.cert, PEM.
	Certificate []byte
	// Macaroon is in lnd's binary form; empty for calls that need none.
	Macaroon []byte
	// Timeout bounds each call (0: 15 s).
	Timeout time.Duration
}

// Client is a connection to a signer, or to a node that is being made.
type Client struct {
	cfg    Config
	conn   *grpc.ClientConn
	wallet walletrpc.WalletKitClient
	signer signrpc.SignerClient
	state  lnrpc.StateClient
	node   lnrpc.LightningClient
	unlock lnrpc.WalletUnlockerClient
}

// macaroonCredential travels with TLS only.
type macaroonCredential string

func (m macaroonCredential) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if m == "" {
		return nil, nil
	}
	return map[string]string{"macaroon": string(m)}, nil
}

func (macaroonCredential) RequireTransportSecurity() bool { return true }

// Dial prepares a connection; it connects with the first call.
func Dial(cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 15 * time.Second
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(cfg.Certificate) {
		return nil, errors.New("the certificate of the lnd is no PEM certificate: name its tls.cert")
	}
	conn, err := grpc.NewClient(cfg.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})),
		grpc.WithPerRPCCredentials(macaroonCredential(hex.EncodeToString(cfg.Macaroon))),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
			defer cancel()
			return invoke(ctx, method, req, reply, cc, opts...)
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("lnd at %s: %w", cfg.Address, err)
	}
	return &Client{
		cfg: cfg, conn: conn, wallet: walletrpc.NewWalletKitClient(conn), signer: signrpc.NewSignerClient(conn),
		state: lnrpc.NewStateClient(conn), node: lnrpc.NewLightningClient(conn), unlock: lnrpc.NewWalletUnlockerClient(conn),
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Certificate is what the other end shows, before it is trusted.
func (c *Client) Certificate(ctx context.Context) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	dialer := tls.Dialer{NetDialer: &net.Dialer{}, Config: &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // it is compared with the pinned one, and nothing is sent
		MinVersion:         tls.VersionTLS12, NextProtos: []string{"h2"},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", c.cfg.Address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	shown := conn.(*tls.Conn).ConnectionState().PeerCertificates
	if len(shown) == 0 {
		return nil, errors.New("no certificate was shown")
	}
	return shown[0], nil
}

// State is lnd's word for how its wallet and its server stand.
func (c *Client) State(ctx context.Context) (string, error) {
	got, err := c.state.GetState(ctx, &lnrpc.GetStateRequest{})
	if err != nil {
		return "", fmt.Errorf("ask for the state: %w", err)
	}
	return got.State.String(), nil
}

// PublicKey is the key of a locator.
func (c *Client) PublicKey(ctx context.Context, key ln.KeyLocator) (ln.PubKey, error) {
	got, err := c.wallet.DeriveKey(ctx, locator(key))
	if err != nil {
		return ln.PubKey{}, fmt.Errorf("derive a key: %w", err)
	}
	return ln.PubKeyFromBytes(got.RawKeyBytes)
}

func locator(key ln.KeyLocator) *signrpc.KeyLocator {
	return &signrpc.KeyLocator{KeyFamily: key.Family, KeyIndex: key.Index}
}

// SignMessage gives the DER signature over the SHA-256 of a message.
func (c *Client) SignMessage(ctx context.Context, key ln.KeyLocator, msg []byte) ([]byte, error) {
	got, err := c.signer.SignMessage(ctx, &signrpc.SignMessageReq{Msg: msg, KeyLoc: locator(key)})
	if err != nil {
		return nil, fmt.Errorf("sign a message: %w", err)
	}
	return got.Signature, nil
}

// SignPsbt has the signer sign what it can of a packet.
func (c *Client) SignPsbt(ctx context.Context, packet []byte) ([]byte, error) {
	got, err := c.wallet.SignPsbt(ctx, &walletrpc.SignPsbtRequest{FundedPsbt: packet})
	if err != nil {
		return nil, fmt.Errorf("sign a PSBT: %w", err)
	}
	return got.SignedPsbt, nil
}

// MuSig2 opens a session of two keys and ends it.
func (c *Client) MuSig2(ctx context.Context, key ln.KeyLocator, own, other ln.PubKey) error {
	got, err := c.signer.MuSig2CreateSession(ctx, &signrpc.MuSig2SessionRequest{
		KeyLoc: locator(key), AllSignerPubkeys: [][]byte{own[:], other[:]}, Version: signrpc.MuSig2Version_MUSIG2_VERSION_V100RC2,
	})
	if err != nil {
		return fmt.Errorf("open a MuSig2 session: %w", err)
	}
	if _, err := c.signer.MuSig2Cleanup(ctx, &signrpc.MuSig2CleanupRequest{SessionId: got.SessionId}); err != nil {
		return fmt.Errorf("end a MuSig2 session: %w", err)
	}
	return nil
}

// Try calls a method with an empty request, which does nothing at any method that it is
// meant for: they refuse it, or only read. lnd checks the macaroon first.
func (c *Client) Try(ctx context.Context, method string) (bool, error) {
	err := c.conn.Invoke(ctx, method, &lnrpc.GetInfoRequest{}, &lnrpc.StopResponse{})
	return allowed(method, err)
}

func allowed(method string, err error) (bool, error) {
	switch code := status.Code(err); {
	case err == nil:
		return true, nil
	case code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled:
		return false, fmt.Errorf("try %s: %w", method, err)
	case code == codes.Unimplemented:
		// This lnd was built without the service: nobody can call it.
		return false, nil
	}
	for _, refusal := range []string{"permission denied", "cannot get macaroon", "verification failed", "cannot retrieve macaroon", "unknown permissions", "unable to get permissions"} {
		if strings.Contains(err.Error(), refusal) {
			return false, nil
		}
	}
	return true, nil
}

// Op is one entry of a macaroon.
type Op struct {
	Entity  string
	Actions []string
}

// Macaroon is what a macaroon says of itself. lnd keeps the permissions in the
// identifier, under the signature.
type Macaroon struct {
	RootKey string
	Ops     []Op
	// Caveats narrow it further.
	Caveats []string
}

// idVersion is the first byte of the identifiers that lnd's bakery writes.
const idVersion = 3

// ReadMacaroon reads lnd's binary form.
func ReadMacaroon(raw []byte) (Macaroon, error) {
	var m macaroon.Macaroon
	if err := m.UnmarshalBinary(raw); err != nil {
		return Macaroon{}, fmt.Errorf("the macaroon cannot be read: %w", err)
	}
	id := m.Id()
	if len(id) == 0 || id[0] != idVersion {
		return Macaroon{}, errors.New("the macaroon is not one of lnd's")
	}
	var parsed lnrpc.MacaroonId
	if err := proto.Unmarshal(id[1:], &parsed); err != nil {
		return Macaroon{}, fmt.Errorf("the macaroon's identifier cannot be read: %w", err)
	}
	out := Macaroon{RootKey: string(parsed.StorageId)}
	for _, op := range parsed.Ops {
		out.Ops = append(out.Ops, Op{Entity: op.Entity, Actions: op.Actions})
	}
	for _, c := range m.Caveats() {
		out.Caveats = append(out.Caveats, string(c.Id))
	}
	return out, nil
}
