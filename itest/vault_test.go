//go:build itest

package itest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	backupsapi "github.com/sluice-lsp/sluice/backupsvc/api"
	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/backupsvc/vss/vssv1"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
)

// keeper is a sluiced's vault as its clients see it.
type keeper struct {
	t   *testing.T
	s   *devnet.Sluiced
	api backupsv1.VaultServiceClient
	// vss is the address of VSS, and web the client that trusts it.
	vss string
	web *http.Client
	key *btcec.PrivateKey
	// pg has its database "vault"; nil on SQLite.
	pg *devnet.Postgres
	// tokens is the key that an issuer signs tokens with.
	tokens *rsa.PrivateKey
}

// TestVault drives a real sluiced on both databases: a wallet's node logs in and
// stores, a VSS client stores beside it, sluiced is killed in the middle of
// writes and of an upload, its database goes back, with and without its saying so,
// and its disk fills up.
func TestVault(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	t.Run("sqlite", func(t *testing.T) {
		newKeeper(ctx, t, net, "vault-sqlite", "").all(ctx, net)
	})
	t.Run("postgres", func(t *testing.T) {
		pg := startPostgres(ctx, t, net)
		dsn, err := pg.CreateDatabase(ctx, "vault")
		require.NoError(t, err)
		k := newKeeper(ctx, t, net, "vault-postgres", dsn)
		k.pg = pg
		k.all(ctx, net)
	})
	t.Run("full disk", func(t *testing.T) { fillsUp(ctx, t, net) })
}

func (k *keeper) all(ctx context.Context, net *devnet.Standard) {
	k.clauses(ctx)
	k.serves(ctx)
	k.clocksAreWrong(ctx, net)
	k.survivesKill(ctx)
	k.losesUpload(ctx)
	k.admitsRestore(ctx)
	k.isConvicted(ctx, net)
}

func newKeeper(ctx context.Context, t *testing.T, net *devnet.Standard, name, dsn string) *keeper {
	t.Helper()
	k := &keeper{t: t}
	var err error
	k.vss, err = net.Port()
	require.NoError(t, err)
	k.tokens, err = rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(k.tokens.Public())
	require.NoError(t, err)
	tokenFile := filepath.Join(t.TempDir(), "token.pem")
	require.NoError(t, os.WriteFile(tokenFile, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600))
	k.s, err = net.StartSluiced(ctx, net.Gateway, lnd.GatewayRights(), devnet.SluicedConfig{
		Name: name, DSN: dsn, Services: []string{"backups"},
		Settings: map[string]string{"backups.vss.listen": k.vss, "backups.vss.token_key_file": tokenFile, "limits.address.per_second": "10000", "limits.address.burst": "10000", "backups.rate.per_second": "10000", "backups.rate.burst": "10000", "limits.wallet.per_second": "10000", "limits.wallet.burst": "10000"},
	})
	require.NoError(t, err)
	tlsConfig, err := selfcert.ClientTLS(k.s.TLSCert)
	require.NoError(t, err)
	k.api = k.login(net, time.Now)
	k.web = &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig}}
	k.key, err = btcec.NewPrivateKey()
	require.NoError(t, err)
	return k
}

// login is the wallet's node, by a clock.
func (k *keeper) login(net *devnet.Standard, now func() time.Time) backupsv1.VaultServiceClient {
	t := k.t
	t.Helper()
	tlsConfig, err := selfcert.ClientTLS(k.s.TLSCert)
	require.NoError(t, err)
	wallet := dialNode(t, net.Wallet)
	conn, _, err := auth.Dial(k.s.GRPC, credentials.NewTLS(tlsConfig), auth.ClientConfig{
		Server: auth.Server{NodeKey: mustKey(t, net.Gateway.PubKey)}, Node: mustKey(t, net.Wallet.PubKey), Services: []string{backupsapi.Name}, Now: now,
		Sign: func(ctx context.Context, msg string) (string, error) { return wallet.SignMessage(ctx, []byte(msg)) },
	}, grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return backupsv1.NewVaultServiceClient(conn)
}

// post is a call of a VSS client that signs.
func (k *keeper) post(ctx context.Context, path string, req, resp proto.Message) int {
	k.t.Helper()
	now, pub := strconv.FormatInt(time.Now().Unix(), 10), k.key.PubKey().SerializeCompressed()
	digest := sha256.Sum256([]byte("VSS Signature Authorizer Signing Salt Constant.................." + string(pub) + now))
	raw, err := proto.Marshal(req)
	require.NoError(k.t, err)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+k.vss+"/vss/"+path, bytes.NewReader(raw))
	require.NoError(k.t, err)
	r.Header.Set("Authorization", hex.EncodeToString(pub)+hex.EncodeToString(ecdsa.SignCompact(k.key, digest[:], true)[1:])+now)
	got, err := k.web.Do(r)
	require.NoError(k.t, err)
	defer func() { _ = got.Body.Close() }()
	body, err := io.ReadAll(got.Body)
	require.NoError(k.t, err)
	if got.StatusCode == http.StatusOK {
		require.NoError(k.t, proto.Unmarshal(body, resp))
	}
	return got.StatusCode
}

func (k *keeper) put(ctx context.Context, key string, version int64, value string) (vault.Receipt, error) {
	got, err := k.api.Put(ctx, &backupsv1.PutRequest{StoreId: "s", Puts: []*backupsv1.Item{{Key: key, Version: version, Value: []byte(value)}}})
	if err != nil {
		return vault.Receipt{}, err
	}
	receipt, err := backupsapi.ReceiptFromWire(got.GetReceipt())
	if err != nil {
		return vault.Receipt{}, err
	}
	return receipt, receipt.Verify()
}

// head asks where the log stands and judges it by what was known.
func (k *keeper) head(ctx context.Context, known vault.Head) (vault.Head, vault.Verdict) {
	k.t.Helper()
	nonce := make([]byte, vault.NonceSize)
	_, err := rand.Read(nonce)
	require.NoError(k.t, err)
	got, err := k.api.GetHead(ctx, &backupsv1.GetHeadRequest{Nonce: nonce})
	require.NoError(k.t, err)
	head, err := backupsapi.HeadFromWire(got.GetHead())
	require.NoError(k.t, err)
	require.NoError(k.t, head.Verify())
	require.Equal(k.t, nonce, head.Nonce)
	log, err := k.api.ListEntries(ctx, &backupsv1.ListEntriesRequest{After: known.Seq, Limit: 1000})
	require.NoError(k.t, err)
	entries, err := backupsapi.EntriesFromWire(log.GetEntries())
	require.NoError(k.t, err)
	verdict, err := vault.Compare(known, head.Head, entries)
	require.NoError(k.t, err)
	return head.Head, verdict
}

func (k *keeper) serves(ctx context.Context) {
	t := k.t
	_, err := k.put(ctx, "k", 0, "node's")
	require.NoError(t, err)
	write := &vssv1.PutObjectRequest{StoreId: "s", GlobalVersion: proto.Int64(0), TransactionItems: []*vssv1.KeyValue{{Key: "k", Value: []byte("vss's")}}}
	require.Equal(t, 200, k.post(ctx, "putObjects", write, &vssv1.PutObjectResponse{}))
	require.Equal(t, 409, k.post(ctx, "putObjects", write, &vssv1.PutObjectResponse{}))
	var got vssv1.GetObjectResponse
	require.Equal(t, 200, k.post(ctx, "getObject", &vssv1.GetObjectRequest{StoreId: "s", Key: "k"}, &got))
	require.Equal(t, "vss's", string(got.GetValue().GetValue()))
	require.EqualValues(t, 1, got.GetValue().GetVersion())
	require.Equal(t, 404, k.post(ctx, "getObject", &vssv1.GetObjectRequest{StoreId: "s", Key: "none"}, &got))
}

// survivesKill kills sluiced again and again while a wallet writes: what has a
// receipt is there, and the log goes on from it.
func (k *keeper) survivesKill(ctx context.Context) {
	t := k.t
	known, version := vault.Receipt{}, int64(0)
	for round := range 4 {
		writing, stop := context.WithCancel(ctx)
		acked := make(chan struct{}, 1000)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				receipt, err := k.put(writing, "counter", version, fmt.Sprint(version))
				if err != nil {
					return
				}
				known, version = receipt, receipt.Entries[0].Version
				select {
				case acked <- struct{}{}:
				default:
				}
			}
		})
		for range 20 * (round + 1) {
			<-acked
		}
		require.NoError(t, k.s.Kill())
		stop()
		wg.Wait()
		require.NoError(t, k.s.Start(ctx))
		head, verdict := k.head(ctx, known.Head.Head)
		require.Contains(t, []vault.Verdict{vault.Same, vault.Continues}, verdict)
		require.LessOrEqual(t, head.Seq, known.Head.Seq+1, "at most the write whose answer was lost")
		nonce := make([]byte, vault.NonceSize)
		got, err := k.api.Get(ctx, &backupsv1.GetRequest{StoreId: "s", Key: "counter", Nonce: nonce})
		require.NoError(t, err)
		require.GreaterOrEqual(t, got.GetItem().GetVersion(), version)
		require.Equal(t, fmt.Sprint(got.GetItem().GetVersion()-1), string(got.GetItem().GetValue()))
		version = got.GetItem().GetVersion()
	}
}
