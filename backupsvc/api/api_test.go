package api_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-lsp/sluice/backupsvc/api"
	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/backupsvc/engine"
	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// gateway is the service behind the real server.
type gateway struct {
	t      *testing.T
	bakery *auth.Bakery
	conn   *grpc.ClientConn
	wallet backupsv1.VaultServiceClient
	op     backupsv1.VaultOperatorServiceClient
}

func start(t *testing.T, change func(*engine.Config)) *gateway {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	dir := t.TempDir()
	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, backups.Migrate(ctx, db))
	signer, err := vault.NewSigner(bytes.Repeat([]byte{1}, 32))
	require.NoError(t, err)
	c := engine.Defaults()
	if change != nil {
		change(&c)
	}
	e, err := engine.New(engine.Options{DB: db, Signer: signer, Epoch: vault.Epoch{1}, Config: c, Now: time.Now, Log: zaptest.NewLogger(t)})
	require.NoError(t, err)
	service := api.New()
	keys, err := auth.NewFileRootKeys(dir + "/keys")
	require.NoError(t, err)
	bakery, err := auth.NewBakery(ctx, keys, rand.Reader, time.Now)
	require.NoError(t, err)
	cert, err := selfcert.Open(selfcert.Config{CertPath: dir + "/tls.cert", KeyPath: dir + "/tls.key", Now: time.Now})
	require.NoError(t, err)
	server, err := rpcserver.Listen(ctx, rpcserver.Config{
		GRPCAddress: "localhost:0", RESTAddress: "localhost:0", TLS: cert.TLS(), Verifier: bakery, Limits: auth.DefaultLimits(), StopTimeout: time.Second,
		Log: zap.NewNop(), Now: time.Now, Rand: rand.Reader, Registry: prometheus.NewRegistry(),
	}, service)
	require.NoError(t, err)
	done := make(chan error, 2)
	go func() { done <- server.Run(ctx) }()
	go func() { done <- e.Run(ctx) }()
	tlsConfig, err := selfcert.ClientTLS(dir + "/tls.cert")
	require.NoError(t, err)
	tlsConfig.ServerName = "localhost"
	conn, err := grpc.NewClient(server.GRPCAddr().String(), grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		stop()
		require.NoError(t, errors.Join(<-done, <-done))
	})
	g := &gateway{
		t: t, bakery: bakery, conn: conn, wallet: backupsv1.NewVaultServiceClient(conn), op: backupsv1.NewVaultOperatorServiceClient(conn),
	}
	_, err = g.wallet.GetServer(g.as(1), &backupsv1.GetServerRequest{})
	require.ErrorIs(t, rpcserver.FromStatus(err), errkind.Unavailable, "until it runs")
	service.Ready(e)
	return g
}

func (g *gateway) with(id auth.Identity) context.Context {
	g.t.Helper()
	mac, err := g.bakery.Mint(g.t.Context(), auth.RootKeyWallets, id)
	require.NoError(g.t, err)
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(g.t.Context(), auth.MetadataMacaroon, mac), time.Minute)
	g.t.Cleanup(cancel)
	return ctx
}

// as is a call by the wallet of a node.
func (g *gateway) as(n byte) context.Context {
	return g.with(auth.Identity{Kind: auth.KindWallet, NodeKey: ln.PubKey{2, n}, Services: []string{api.Name}, Expires: time.Now().Add(time.Hour)})
}

func (g *gateway) operator() context.Context { return g.with(auth.Identity{Kind: auth.KindOperator}) }

func nonce() []byte { return bytes.Repeat([]byte{7}, vault.NonceSize) }

func put(key string, version int64, value string) *backupsv1.PutRequest {
	return &backupsv1.PutRequest{StoreId: "s", Puts: []*backupsv1.Item{{Key: key, Version: version, Value: []byte(value)}}}
}

// TestWallet: what a wallet stores comes back, with receipts and heads that
// hold together over the wire.
func TestWallet(t *testing.T) {
	g := start(t, nil)
	alice, bob := g.as(1), g.as(2)
	server, err := g.wallet.GetServer(alice, &backupsv1.GetServerRequest{})
	require.NoError(t, err)
	got, err := g.wallet.Put(alice, put("k", 0, "one"))
	require.NoError(t, err)
	receipt, err := api.ReceiptFromWire(got.GetReceipt())
	require.NoError(t, err)
	require.NoError(t, receipt.Verify())
	require.Equal(t, server.GetServerKey(), receipt.Head.Server[:])
	require.Equal(t, server.GetIdentity(), string(receipt.Head.Identity))
	require.Equal(t, vault.ContentHash([]byte("one")), receipt.Entries[0].Content)

	read, err := g.wallet.Get(alice, &backupsv1.GetRequest{StoreId: "s", Key: "k", Nonce: nonce()})
	require.NoError(t, err)
	require.Equal(t, "one", string(read.GetItem().GetValue()))
	head, err := api.HeadFromWire(read.GetHead())
	require.NoError(t, err)
	require.NoError(t, head.Verify())
	require.Equal(t, nonce(), head.Nonce)
	verdict, err := vault.Compare(receipt.Head.Head, head.Head, nil)
	require.NoError(t, err)
	require.Equal(t, vault.Same, verdict)
	_, err = g.wallet.Get(alice, &backupsv1.GetRequest{StoreId: "s", Key: "k"})
	require.ErrorIs(t, rpcserver.FromStatus(err), errkind.Invalid, "no nonce, no answer")

	_, err = g.wallet.Put(alice, put("k", 0, "two"))
	require.ErrorIs(t, rpcserver.FromStatus(err), errkind.Conflict)
	_, err = g.wallet.Put(alice, &backupsv1.PutRequest{StoreId: "s", Deletes: []*backupsv1.Item{{Key: "k", Version: 1}}, Puts: put("l", 0, "x").Puts})
	require.NoError(t, err)
	later, err := g.wallet.GetHead(alice, &backupsv1.GetHeadRequest{Nonce: nonce()})
	require.NoError(t, err)
	entries, err := g.wallet.ListEntries(alice, &backupsv1.ListEntriesRequest{After: receipt.Head.Seq})
	require.NoError(t, err)
	list, err := api.EntriesFromWire(entries.GetEntries())
	require.NoError(t, err)
	shown, err := api.HeadFromWire(later.GetHead())
	require.NoError(t, err)
	verdict, err = vault.Compare(receipt.Head.Head, shown.Head, list)
	require.NoError(t, err)
	require.Equal(t, vault.Continues, verdict)

	keys, err := g.wallet.ListKeys(alice, &backupsv1.ListKeysRequest{StoreId: "s"})
	require.NoError(t, err)
	require.Len(t, keys.GetKeys(), 1)

	// Another wallet sees nothing of it, and its empty log is signed too.
	_, err = g.wallet.Get(bob, &backupsv1.GetRequest{StoreId: "s", Key: "l", Nonce: nonce()})
	require.ErrorIs(t, rpcserver.FromStatus(err), errkind.NotFound)
	keys, err = g.wallet.ListKeys(bob, &backupsv1.ListKeysRequest{StoreId: "s"})
	require.NoError(t, err)
	require.Empty(t, keys.GetKeys())
	empty, err := g.wallet.GetHead(bob, &backupsv1.GetHeadRequest{Nonce: nonce()})
	require.NoError(t, err)
	head, err = api.HeadFromWire(empty.GetHead())
	require.NoError(t, err)
	require.NoError(t, head.Verify())
	require.Zero(t, head.Seq)

	_, err = g.wallet.GetServer(g.operator(), &backupsv1.GetServerRequest{})
	require.ErrorIs(t, rpcserver.FromStatus(err), errkind.Denied, "the operator is nobody's wallet")
	_, err = g.op.GetTotals(alice, &backupsv1.GetTotalsRequest{})
	require.ErrorIs(t, rpcserver.FromStatus(err), errkind.Denied)
}

func upload(t *testing.T, g *gateway, ctx context.Context, first *backupsv1.UploadRequest, value []byte) (*backupsv1.UploadResponse, error) { //nolint:revive // the test comes first
	t.Helper()
	stream, err := g.wallet.Upload(ctx)
	require.NoError(t, err)
	// A refusal shows when the stream is closed, not where it was sent.
	_ = stream.Send(first)
	for len(value) > 0 {
		n := min(len(value), 1<<20)
		_ = stream.Send(&backupsv1.UploadRequest{Piece: value[:n]})
		value = value[n:]
	}
	got, err := stream.CloseAndRecv()
	return got, rpcserver.FromStatus(err)
}

// TestLargeValues go up and down in pieces.
func TestLargeValues(t *testing.T) {
	g := start(t, func(c *engine.Config) { c.Quota.ObjectBytes = 6 << 20 })
	alice := g.as(1)
	value := make([]byte, 5<<20+3)
	_, err := rand.Read(value)
	require.NoError(t, err)
	sum := vault.ContentHash(value)
	first := func(size int64) *backupsv1.UploadRequest {
		return &backupsv1.UploadRequest{StoreId: "s", Key: "big", Size: size, ContentSha256: sum[:]}
	}
	for name, try := range map[string]struct {
		first *backupsv1.UploadRequest
		value []byte
		kind  errkind.Kind
	}{
		"shorter":     {first(int64(len(value))), value[:len(value)-1], errkind.Invalid},
		"longer":      {first(int64(len(value))), append(value[:len(value):len(value)], 0), errkind.Invalid},
		"other":       {first(4), []byte("four"), errkind.Invalid},
		"too large":   {first(6<<20 + 1), nil, errkind.Exhausted},
		"negative":    {first(-1), nil, errkind.Exhausted},
		"without sum": {&backupsv1.UploadRequest{StoreId: "s", Key: "big"}, nil, errkind.Invalid},
	} {
		_, err := upload(t, g, alice, try.first, try.value)
		require.ErrorIs(t, err, try.kind, name)
	}
	got, err := upload(t, g, alice, first(int64(len(value))), value)
	require.NoError(t, err)
	receipt, err := api.ReceiptFromWire(got.GetReceipt())
	require.NoError(t, err)
	require.NoError(t, receipt.Verify())
	require.Equal(t, sum, receipt.Entries[0].Content)
	require.EqualValues(t, 1, receipt.Head.Seq, "nothing of the refused ones is there")

	stream, err := g.wallet.Download(alice, &backupsv1.DownloadRequest{StoreId: "s", Key: "big", Nonce: nonce()})
	require.NoError(t, err)
	var down []byte
	var head *backupsv1.SignedHead
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if head == nil {
			head = m.GetHead()
			require.EqualValues(t, len(value), m.GetSize())
		}
		down = append(down, m.GetPiece()...)
	}
	require.True(t, bytes.Equal(value, down))
	shown, err := api.HeadFromWire(head)
	require.NoError(t, err)
	require.NoError(t, shown.Verify())

	export, err := g.wallet.Export(alice, &backupsv1.ExportRequest{})
	require.NoError(t, err)
	down = nil
	for {
		m, err := export.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		down = append(down, m.GetPiece()...)
	}
	require.True(t, bytes.Equal(value, down))
}

// TestDevicesHearOfEachOther by watching.
func TestDevicesHearOfEachOther(t *testing.T) {
	g := start(t, nil)
	stream, err := g.wallet.Watch(g.as(1), &backupsv1.WatchRequest{})
	require.NoError(t, err)
	for n := range int64(3) {
		_, err = g.wallet.Put(g.as(2), put("k", n, "bob's"))
		require.NoError(t, err)
		_, err = g.wallet.Put(g.as(1), put("k", n, "alice's"))
		require.NoError(t, err)
		m, err := stream.Recv()
		require.NoError(t, err)
		require.Len(t, m.GetEntries(), 1)
		require.EqualValues(t, n+1, m.GetEntries()[0].GetSeq())
		sum := vault.ContentHash([]byte("alice's"))
		require.Equal(t, sum[:], m.GetEntries()[0].GetContentSha256())
	}
	ahead, err := g.wallet.Watch(g.as(1), &backupsv1.WatchRequest{After: 99})
	require.NoError(t, err)
	_, err = ahead.Recv()
	require.ErrorIs(t, rpcserver.FromStatus(err), errkind.Conflict)
}

func TestOperator(t *testing.T) {
	g := start(t, nil)
	_, err := g.wallet.Put(g.as(1), put("k", 0, "12345"))
	require.NoError(t, err)
	list, err := g.op.ListIdentities(g.operator(), &backupsv1.ListIdentitiesRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetIdentities(), 1)
	id := list.GetIdentities()[0].GetIdentity()
	set, err := g.op.SetQuota(g.operator(), &backupsv1.SetQuotaRequest{Identity: id, OwnQuota: &backupsv1.Quota{Bytes: 6}})
	require.NoError(t, err)
	require.EqualValues(t, 6, set.GetIdentity().GetOwnQuota().GetBytes())
	_, err = g.wallet.Put(g.as(1), put("k", 1, "1234567"))
	require.ErrorIs(t, rpcserver.FromStatus(err), errkind.Exhausted)
	server, err := g.wallet.GetServer(g.as(1), &backupsv1.GetServerRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 6, server.GetQuota().GetBytes())
	_, err = g.op.SetQuota(g.operator(), &backupsv1.SetQuotaRequest{Identity: id, Blocked: true})
	require.NoError(t, err)
	_, err = g.wallet.Put(g.as(1), put("k", 1, "x"))
	require.ErrorIs(t, rpcserver.FromStatus(err), errkind.Denied)
	show, err := g.op.ShowIdentity(g.operator(), &backupsv1.ShowIdentityRequest{Identity: id})
	require.NoError(t, err)
	require.Equal(t, "s", show.GetStores()[0].GetStoreId())
	require.True(t, show.GetIdentity().GetBlocked())
	for _, bad := range []string{"", "x", "node:"} {
		_, err = g.op.ShowIdentity(g.operator(), &backupsv1.ShowIdentityRequest{Identity: bad})
		require.ErrorIs(t, rpcserver.FromStatus(err), errkind.Invalid, bad)
	}
	_, err = g.op.ShowIdentity(g.operator(), &backupsv1.ShowIdentityRequest{Identity: "sig:nobody"})
	require.ErrorIs(t, rpcserver.FromStatus(err), errkind.NotFound)
	totals, err := g.op.GetTotals(g.operator(), &backupsv1.GetTotalsRequest{})
	require.NoError(t, err)
	require.Equal(t, engine.Defaults().MaxBytes, totals.GetMaxBytes())
}

// FuzzReceipt: what is read of a receipt is what it says, or it is refused.
func FuzzReceipt(f *testing.F) {
	f.Add("node:02", uint64(1), []byte("h"), []byte{}, int32(1), "s", "k")
	f.Add("sig:02", uint64(0), bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{1}, 32), int32(2), "", "k")
	f.Fuzz(func(t *testing.T, id string, seq uint64, hash, nonce []byte, op int32, storeID, key string) {
		m := &backupsv1.Receipt{
			PrevHash: hash, Entries: []*backupsv1.Entry{{Seq: seq, Operation: backupsv1.Operation(op), StoreId: storeID, Key: key, ContentSha256: hash}},
			Head: &backupsv1.SignedHead{
				ServerKey: hash, Identity: id, Epoch: make([]byte, 16), Seq: seq, Hash: hash, Nonce: nonce, Signature: make([]byte, 64),
			},
		}
		r, err := api.ReceiptFromWire(m)
		if err != nil {
			return
		}
		if r.Verify() == nil {
			t.Fatal("nobody signed it")
		}
		back := api.ReceiptToWire(r)
		if back.GetHead().GetIdentity() != id || back.GetHead().GetSeq() != seq || !bytes.Equal(back.GetHead().GetNonce(), nonce) ||
			back.GetEntries()[0].GetKey() != key || back.GetEntries()[0].GetOperation() != backupsv1.Operation(op) {
			t.Fatal("it changed on the way")
		}
	})
}
