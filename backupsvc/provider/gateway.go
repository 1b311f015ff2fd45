package provider

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	backupsapi "github.com/sluice-lsp/sluice/backupsvc/api"
	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
)

// Gateway is a vault of ours. Each write has a receipt, and reads prove where
// the log stands.
type Gateway struct {
	node, self ln.PubKey
	client     backupsv1.VaultServiceClient
	conn       io.Closer

	mu      sync.Mutex
	key     vault.ServerKey
	binding string
	bound   bool
}

// GatewayConfig says whose vault it is and who asks.
type GatewayConfig struct {
	Address string
	// Node is the gateway's node, Self the wallet's.
	Node, Self ln.PubKey
	TLS        *tls.Config
	Sign       auth.Sign
	Now        func() time.Time
}

// maxPut is what fits a message; larger values go in pieces.
const (
	maxPut    = 2 << 20
	pieceSize = 512 << 10
)

// OpenGateway reaches a vault. It connects at the first call.
func OpenGateway(c GatewayConfig) (*Gateway, error) {
	conn, _, err := auth.Dial(c.Address, credentials.NewTLS(c.TLS), auth.ClientConfig{
		Server: auth.Server{NodeKey: c.Node}, Node: c.Self, Services: []string{backupsapi.Name}, Sign: c.Sign, Now: c.Now,
	},
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	)
	if err != nil {
		return nil, err
	}
	return NewGateway(c.Node, c.Self, backupsv1.NewVaultServiceClient(conn), conn), nil
}

// NewGateway uses a connection that logs in by itself.
func NewGateway(node, self ln.PubKey, client backupsv1.VaultServiceClient, conn io.Closer) *Gateway {
	return &Gateway{node: node, self: self, client: client, conn: conn}
}

// Close implements Place.
func (g *Gateway) Close() error { return g.conn.Close() }

func (g *Gateway) identity() vault.Identity {
	return vault.Identity(string(vault.SchemeNode) + ":" + g.self.String())
}

// Get implements Place.
func (g *Gateway) Get(ctx context.Context, id string) (Object, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	nonce, err := newNonce()
	if err != nil {
		return Object{}, err
	}
	stream, err := g.client.Download(ctx, &backupsv1.DownloadRequest{StoreId: Store, Key: id, Nonce: nonce})
	if err != nil {
		return Object{}, rpcserver.FromStatus(err)
	}
	first, err := stream.Recv()
	if err != nil {
		return Object{}, rpcserver.FromStatus(err)
	}
	if err := g.checkHead(first.GetHead(), nonce); err != nil {
		return Object{}, err
	}
	if first.GetSize() < 0 || first.GetSize() > maxObject {
		return Object{}, errkind.New(errkind.Invalid, "the object is larger than any backup")
	}
	value := first.GetPiece()
	for int64(len(value)) < first.GetSize() {
		m, err := stream.Recv()
		if err != nil {
			return Object{}, rpcserver.FromStatus(err)
		}
		value = append(value, m.GetPiece()...)
	}
	if int64(len(value)) != first.GetSize() {
		return Object{}, errkind.New(errkind.Invalid, "the server sent more than it announced")
	}
	return Object{Value: value, Version: strconv.FormatInt(first.GetVersion(), 10)}, nil
}

// Put implements Place. A receipt that does not hold together, or that is of
// something else, is no receipt.
func (g *Gateway) Put(ctx context.Context, id, known string, value []byte) (Stored, error) {
	version, err := number(known)
	if err != nil {
		return Stored{}, err
	}
	m, err := g.put(ctx, id, version, value)
	if err != nil {
		return Stored{}, rpcserver.FromStatus(err)
	}
	receipt, err := backupsapi.ReceiptFromWire(m)
	if err == nil {
		err = receipt.Verify()
	}
	if err != nil {
		return Stored{}, errkind.Wrap(errkind.Unavailable, err, "the server's receipt is none")
	}
	if len(receipt.Entries) != 1 || receipt.Head.Identity != g.identity() {
		return Stored{}, errkind.New(errkind.Unavailable, "the server's receipt is of something else")
	}
	e := receipt.Entries[0]
	if e.Op != vault.OpPut || e.Store != Store || e.Key != id || e.Content != vault.ContentHash(value) || e.Version != version+1 {
		return Stored{}, errkind.New(errkind.Unavailable, "the server's receipt is of something else")
	}
	return Stored{Version: strconv.FormatInt(e.Version, 10), Receipt: &receipt}, nil
}

func (g *Gateway) put(ctx context.Context, id string, version int64, value []byte) (*backupsv1.Receipt, error) {
	if len(value) <= maxPut {
		got, err := g.client.Put(ctx, &backupsv1.PutRequest{StoreId: Store, Puts: []*backupsv1.Item{{Key: id, Version: version, Value: value}}})
		return got.GetReceipt(), err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := g.client.Upload(ctx)
	if err != nil {
		return nil, err
	}
	sum := vault.ContentHash(value)
	m := &backupsv1.UploadRequest{StoreId: Store, Key: id, Version: version, Size: int64(len(value)), ContentSha256: sum[:]}
	for len(value) > 0 {
		n := min(len(value), pieceSize)
		m.Piece, value = value[:n], value[n:]
		if err := stream.Send(m); errors.Is(err, io.EOF) {
			break // the server's answer says why
		} else if err != nil {
			return nil, err
		}
		m = &backupsv1.UploadRequest{}
	}
	got, err := stream.CloseAndRecv()
	return got.GetReceipt(), err
}

// Prove implements Attested.
func (g *Gateway) Prove(ctx context.Context, after uint64) (Proof, error) {
	var p Proof
	key, binding, err := g.Binding(ctx)
	if err != nil {
		return p, err
	}
	p.Binding = binding
	nonce, err := newNonce()
	if err != nil {
		return p, err
	}
	got, err := g.client.GetHead(ctx, &backupsv1.GetHeadRequest{Nonce: nonce})
	if err != nil {
		return p, rpcserver.FromStatus(err)
	}
	if err := g.checkHead(got.GetHead(), nonce); err != nil {
		return p, err
	}
	if p.Shown, err = backupsapi.HeadFromWire(got.GetHead()); err != nil {
		return p, err
	}
	if p.Shown.Server != key {
		return p, errkind.New(errkind.Invalid, "the server signs with two keys")
	}
	for at := after; at < p.Shown.Seq; {
		list, err := g.client.ListEntries(ctx, &backupsv1.ListEntriesRequest{After: at, Limit: entriesPage})
		if err != nil {
			return p, rpcserver.FromStatus(err)
		}
		entries, err := backupsapi.EntriesFromWire(list.GetEntries())
		if err != nil {
			return p, err
		}
		// A log that was trimmed begins later: what is missing proves nothing.
		if len(entries) == 0 || entries[0].Seq != at+1 || len(p.Entries) > maxEntries {
			p.Entries = nil
			return p, nil
		}
		for _, e := range entries {
			if e.Seq <= p.Shown.Seq {
				p.Entries = append(p.Entries, e)
			}
		}
		at = entries[len(entries)-1].Seq
	}
	return p, nil
}

const (
	entriesPage = 1000
	maxEntries  = 200_000
)

// Binding implements Attested: it asks once.
func (g *Gateway) Binding(ctx context.Context) (vault.ServerKey, string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.bound {
		return g.key, g.binding, nil
	}
	got, err := g.client.GetServer(ctx, &backupsv1.GetServerRequest{})
	if err != nil {
		return vault.ServerKey{}, "", rpcserver.FromStatus(err)
	}
	if len(got.GetServerKey()) != len(g.key) {
		return vault.ServerKey{}, "", errkind.New(errkind.Invalid, "the server's key is none")
	}
	copy(g.key[:], got.GetServerKey())
	if got.GetBinding() != "" {
		signer, err := auth.RecoverSigner(vault.BindingText(g.key), got.GetBinding())
		if err != nil {
			return vault.ServerKey{}, "", fmt.Errorf("the server's binding: %w", err)
		}
		if signer != g.node {
			return vault.ServerKey{}, "", errkind.Newf(errkind.Denied, "the key of the server's receipts is not its node's: %s signed it", signer)
		}
	}
	// A server that cannot sign now may be able to later.
	g.binding, g.bound = got.GetBinding(), got.GetBinding() != ""
	return g.key, g.binding, nil
}

// checkHead verifies a head as one of our log over our nonce.
func (g *Gateway) checkHead(m *backupsv1.SignedHead, nonce []byte) error {
	head, err := backupsapi.HeadFromWire(m)
	if err == nil {
		err = head.Verify()
	}
	if err != nil {
		return errkind.Wrap(errkind.Invalid, err, "the server's head is none")
	}
	if string(head.Nonce) != string(nonce) || head.Identity != g.identity() {
		return errkind.New(errkind.Invalid, "the server's head is an old one, or of another log")
	}
	return nil
}

func newNonce() ([]byte, error) {
	nonce := make([]byte, vault.NonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("nonce: %w", err)
	}
	return nonce, nil
}
