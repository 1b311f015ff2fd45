package provider_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

func places() map[string]func(testing.TB) provider.Place {
	return map[string]func(testing.TB) provider.Place{
		"gateway": func(t testing.TB) provider.Place { return gatewayPlace(t) },
		"vss":     vssPlace,
		"dir":     dirPlace,
		"s3":      func(t testing.TB) provider.Place { return s3Place(t, &bucket{objects: map[string][]byte{}}) },
	}
}

// TestEveryKind holds each kind to the same promises.
func TestEveryKind(t *testing.T) {
	for kind, open := range places() {
		t.Run(kind, func(t *testing.T) {
			p, ctx := open(t), t.Context()
			_, err := p.Get(ctx, "id")
			require.ErrorIs(t, err, errkind.NotFound)
			first, err := p.Put(ctx, "id", provider.Absent, []byte("one"))
			require.NoError(t, err)
			_, err = p.Put(ctx, "id", provider.Absent, []byte("two"))
			require.ErrorIs(t, err, errkind.Conflict, "it is there already")
			got, err := p.Get(ctx, "id")
			require.NoError(t, err)
			require.Equal(t, []byte("one"), got.Value)
			require.Equal(t, first.Version, got.Version)
			second, err := p.Put(ctx, "id", got.Version, []byte("two"))
			require.NoError(t, err)
			_, err = p.Put(ctx, "id", got.Version, []byte("three"))
			require.ErrorIs(t, err, errkind.Conflict, "the version known is not there any more")
			_, err = p.Put(ctx, "other", second.Version+"1", []byte("x"))
			require.Error(t, err, "nothing is there under this name")

			large := make([]byte, 5<<20)
			_, _ = rand.Read(large)
			third, err := p.Put(ctx, "id", second.Version, large)
			require.NoError(t, err)
			got, err = p.Get(ctx, "id")
			require.NoError(t, err)
			require.True(t, bytes.Equal(large, got.Value))

			// Of two that know the same version one wins.
			var won atomic.Int32
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() {
					if _, err := p.Put(ctx, "id", third.Version, bytes.Repeat([]byte{byte(i)}, 100)); err == nil {
						won.Add(1)
					}
				})
			}
			wg.Wait()
			require.EqualValues(t, 1, won.Load())
			gone, cancel := context.WithCancel(ctx)
			cancel()
			if kind != "dir" {
				_, err = p.Get(gone, "id")
				require.Error(t, err)
				require.NotErrorIs(t, err, errkind.NotFound, "no answer is not nothing")
			}
			require.NoError(t, p.Close())
		})
	}
}

func TestGatewayProves(t *testing.T) {
	g, ctx := gatewayPlace(t), t.Context()
	empty, err := g.Prove(ctx, 0)
	require.NoError(t, err)
	require.Zero(t, empty.Shown.Seq)
	stored, err := g.Put(ctx, "id", provider.Absent, []byte("one"))
	require.NoError(t, err)
	require.Equal(t, empty.Shown.Hash, stored.Receipt.Prev)
	for range 3 {
		stored, err = g.Put(ctx, "id", stored.Version, []byte("more"))
		require.NoError(t, err)
	}
	p, err := g.Prove(ctx, 1)
	require.NoError(t, err)
	require.EqualValues(t, 4, p.Shown.Seq)
	require.Len(t, p.Entries, 3)
	require.NotEmpty(t, p.Binding)
	require.Equal(t, stored.Receipt.Head.Hash, p.Shown.Hash)

	// What is there is compared with what the log ends with.
	whole, err := g.Prove(ctx, 0)
	require.NoError(t, err)
	known := vault.Head{Seq: 1, Hash: vault.Extend(empty.Shown.Hash, whole.Entries[0])}
	for _, from := range []struct {
		proof provider.Proof
		known *vault.Head
	}{{whole, nil}, {p, &known}} {
		require.False(t, from.proof.Contradicts(from.known, "id", []byte("more")))
		require.True(t, from.proof.Contradicts(from.known, "id", []byte("one")), "an old value")
		require.True(t, from.proof.Contradicts(from.known, "id", nil), "it was withheld")
		require.False(t, from.proof.Contradicts(from.known, "other", nil))
	}
	require.True(t, whole.Contradicts(nil, "other", []byte("x")), "the whole log knows nothing of it")
	require.False(t, p.Contradicts(&known, "other", []byte("x")), "a part of it may not reach back to it")
	require.False(t, p.Contradicts(nil, "id", []byte("one")), "what leads nowhere proves nothing of the value")
}

// liar is a gateway that answers what change makes of an honest one's answers.
type liar struct {
	backupsv1.VaultServiceClient
	receipt func(*backupsv1.Receipt)
	head    func(*backupsv1.SignedHead)
	server  func(*backupsv1.GetServerResponse)
}

func (l *liar) Put(ctx context.Context, r *backupsv1.PutRequest, o ...grpc.CallOption) (*backupsv1.PutResponse, error) {
	got, err := l.VaultServiceClient.Put(ctx, r, o...)
	if err == nil && l.receipt != nil {
		l.receipt(got.Receipt)
	}
	return got, err
}

func (l *liar) GetHead(ctx context.Context, r *backupsv1.GetHeadRequest, o ...grpc.CallOption) (*backupsv1.GetHeadResponse, error) {
	got, err := l.VaultServiceClient.GetHead(ctx, r, o...)
	if err == nil && l.head != nil {
		l.head(got.Head)
	}
	return got, err
}

func (l *liar) GetServer(ctx context.Context, r *backupsv1.GetServerRequest, o ...grpc.CallOption) (*backupsv1.GetServerResponse, error) {
	got, err := l.VaultServiceClient.GetServer(ctx, r, o...)
	if err == nil && l.server != nil {
		l.server(got)
	}
	return got, err
}

// TestLyingGateways: nothing that does not hold together is taken for a receipt
// or a head.
func TestLyingGateways(t *testing.T) {
	honest := backupsv1.NewVaultServiceClient(vaultConn(t))
	var old *backupsv1.SignedHead
	n := 0
	for name, l := range map[string]*liar{
		"no receipt":        {receipt: func(r *backupsv1.Receipt) { proto.Reset(r) }},
		"another value":     {receipt: func(r *backupsv1.Receipt) { r.Entries[0].ContentSha256[0] ^= 1 }},
		"another signature": {receipt: func(r *backupsv1.Receipt) { r.Head.Signature[3] ^= 1 }},
		"no entries":        {receipt: func(r *backupsv1.Receipt) { r.Entries = nil }},
		"an old head":       {head: func(h *backupsv1.SignedHead) { proto.Reset(h); proto.Merge(h, old) }},
		"no nonce":          {head: func(h *backupsv1.SignedHead) { h.Nonce = nil }},
		"another key":       {server: func(s *backupsv1.GetServerResponse) { s.ServerKey[1] ^= 1; s.Binding = "" }},
		"another node's binding": {server: func(s *backupsv1.GetServerResponse) {
			s.Binding = signed(t, 9, vault.BindingText(vault.ServerKey(s.ServerKey)))
		}},
		"a binding of another key": {server: func(s *backupsv1.GetServerResponse) { s.Binding = signed(t, gatewayNode, "something else") }},
	} {
		l.VaultServiceClient = honest
		got, err := honest.GetHead(t.Context(), &backupsv1.GetHeadRequest{Nonce: make([]byte, vault.NonceSize)})
		require.NoError(t, err)
		old = got.Head
		g := provider.NewGateway(nodeOf(gatewayNode), nodeOf(walletNode), l, http.NoBody)
		n++
		_, putErr := g.Put(t.Context(), name, provider.Absent, []byte("v"))
		_, proveErr := g.Prove(t.Context(), 0)
		require.True(t, putErr != nil || proveErr != nil, name)
		require.Equal(t, l.receipt != nil, putErr != nil, name)
	}
	// Another wallet's log is not ours.
	g := provider.NewGateway(nodeOf(gatewayNode), nodeOf(7), honest, http.NoBody)
	_, err := g.Put(t.Context(), "x", provider.Absent, []byte("v"))
	require.Error(t, err)
	_, err = g.Get(t.Context(), "x")
	require.Error(t, err)
}

// TestGarbage: what is not the protocol's own word for it never means that
// nothing is there.
func TestGarbage(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter){
		"a proxy's 404":       func(w http.ResponseWriter) { w.WriteHeader(404); _, _ = w.Write([]byte("<html>not found")) },
		"404 without body":    func(w http.ResponseWriter) { w.WriteHeader(404) },
		"a proxy's 409":       func(w http.ResponseWriter) { w.WriteHeader(409) },
		"200 without body":    func(http.ResponseWriter) {},
		"200 with a page":     func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>welcome")) },
		"a redirect to login": func(w http.ResponseWriter) { w.Header().Set("Location", "/login"); w.WriteHeader(302) },
		"500":                 func(w http.ResponseWriter) { w.WriteHeader(500) },
		"broken off":          func(w http.ResponseWriter) { w.Header().Set("Content-Length", "100"); _, _ = w.Write([]byte("x")) },
	} {
		p := vssAt(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
		_, err := p.Get(t.Context(), "id")
		require.Error(t, err, name)
		require.NotErrorIs(t, err, errkind.NotFound, name)
		_, err = p.Put(t.Context(), "id", provider.Absent, []byte("v"))
		if name != "200 without body" { // which is what VSS answers
			require.Error(t, err, name)
			require.NotErrorIs(t, err, errkind.Conflict, name)
		}
		b := &bucket{objects: map[string][]byte{}, refuse: func(w http.ResponseWriter, _ *http.Request) bool { answer(w); return true }}
		_, err = s3Place(t, b).Get(t.Context(), "id")
		if name != "404 without body" && name != "a proxy's 404" && name != "200 with a page" && name != "200 without body" {
			// S3's own answers may have no body: then the status is its word.
			require.Error(t, err, name)
			require.NotErrorIs(t, err, errkind.NotFound, name)
		}
	}
}

func TestDirIsTheMediumOrNothing(t *testing.T) {
	dir := t.TempDir()
	p := provider.OpenDir(dir, "f00d")
	_, err := p.Get(t.Context(), "id")
	require.ErrorIs(t, err, errkind.Unavailable, "an empty mount point is not an empty medium")
	_, err = p.Put(t.Context(), "id", provider.Absent, []byte("v"))
	require.ErrorIs(t, err, errkind.Unavailable)
	require.NoError(t, provider.PrepareDir(dir))
	_, err = p.Put(t.Context(), "id", provider.Absent, []byte("v"))
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(dir, "sluice-f00d", "*.slb"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	// What a crash left half-written is not the file.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sluice-f00d", ".new-1"), []byte("half"), 0o600))
	got, err := p.Get(t.Context(), "id")
	require.NoError(t, err)
	require.Equal(t, []byte("v"), got.Value)
}

func TestAddresses(t *testing.T) {
	for _, bad := range []string{"http://h/vss", "https://", "https://u:p@h/vss", "h", "https://h/vss?x=1"} {
		_, err := provider.OpenVSS(bad, keyOf(1), "", nil, nil)
		require.Error(t, err, bad)
		_, err = provider.OpenS3(provider.S3Config{URL: bad}, "id")
		require.Error(t, err, bad)
	}
	_, err := provider.OpenS3(provider.S3Config{URL: "https://h/"}, "id")
	require.ErrorContains(t, err, "no bucket")
}
