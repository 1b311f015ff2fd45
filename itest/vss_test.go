//go:build itest

package itest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-lsp/sluice/backupsvc/vss/vssv1"
)

// vssClient is somebody else's VSS client.
type vssClient struct {
	k *keeper
	t *testing.T
	// header proves the client; empty sends none.
	header string
	store  string
}

// as is a client that a new key signs for, at a time.
func (k *keeper) as(t *testing.T, key *btcec.PrivateKey, at time.Time) *vssClient {
	clock, pub := strconv.FormatInt(at.Unix(), 10), key.PubKey().SerializeCompressed()
	digest := sha256.Sum256([]byte("VSS Signature Authorizer Signing Salt Constant.................." + string(pub) + clock))
	return &vssClient{k: k, t: t, store: "s", header: hex.EncodeToString(pub) + hex.EncodeToString(ecdsa.SignCompact(key, digest[:], true)[1:]) + clock}
}

func (k *keeper) somebody(t *testing.T) *vssClient {
	key, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	return k.as(t, key, time.Now())
}

// raw sends bytes and gives the status, the kind of answer and its body.
func (c *vssClient) raw(ctx context.Context, path string, body io.Reader, size int64) (int, string, []byte) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+c.k.vss+path, body)
	require.NoError(c.t, err)
	r.ContentLength = size
	if c.header != "" {
		r.Header.Set("Authorization", c.header)
	}
	got, err := c.k.web.Do(r)
	require.NoError(c.t, err)
	defer func() { _ = got.Body.Close() }()
	out, err := io.ReadAll(got.Body)
	require.NoError(c.t, err)
	return got.StatusCode, got.Header.Get("Content-Type"), out
}

// call gives the error code of a refusal, and "ok" with into filled otherwise.
func (c *vssClient) call(ctx context.Context, path string, req, into proto.Message) string {
	c.t.Helper()
	raw, err := proto.Marshal(req)
	require.NoError(c.t, err)
	status, _, body := c.raw(ctx, "/vss/"+path, bytes.NewReader(raw), int64(len(raw)))
	if status == http.StatusOK {
		require.NoError(c.t, proto.Unmarshal(body, into))
		return "ok"
	}
	var e vssv1.ErrorResponse
	require.NoError(c.t, proto.Unmarshal(body, &e))
	require.NotEmpty(c.t, e.Message)
	return fmt.Sprintf("%d %s", status, strings.TrimPrefix(e.ErrorCode.String(), "ERROR_CODE_"))
}

const (
	conflict = "409 CONFLICT"
	invalid  = "400 INVALID_REQUEST"
	noKey    = "404 NO_SUCH_KEY"
	noAuth   = "401 AUTH"
)

func kv(key string, version int64, value string) *vssv1.KeyValue {
	return &vssv1.KeyValue{Key: key, Version: version, Value: []byte(value)}
}

func (c *vssClient) put(ctx context.Context, items ...*vssv1.KeyValue) string {
	c.t.Helper()
	return c.call(ctx, "putObjects", &vssv1.PutObjectRequest{StoreId: c.store, TransactionItems: items}, &vssv1.PutObjectResponse{})
}

func (c *vssClient) remove(ctx context.Context, key string, version int64) string {
	c.t.Helper()
	return c.call(ctx, "deleteObject", &vssv1.DeleteObjectRequest{StoreId: c.store, KeyValue: kv(key, version, "")}, &vssv1.DeleteObjectResponse{})
}

// get is the version and value, as "version:value", or the refusal.
func (c *vssClient) get(ctx context.Context, key string) string {
	c.t.Helper()
	var got vssv1.GetObjectResponse
	if said := c.call(ctx, "getObject", &vssv1.GetObjectRequest{StoreId: c.store, Key: key}, &got); said != "ok" {
		return said
	}
	require.Equal(c.t, key, got.Value.Key)
	return fmt.Sprintf("%d:%s", got.Value.Version, got.Value.Value)
}

// clauses plays VSS's behaviour clause by clause.
func (k *keeper) clauses(ctx context.Context) {
	for _, c := range []struct {
		name string
		play func(ctx context.Context, t *testing.T, c *vssClient)
	}{
		{"versions", vssVersions},
		{"all or nothing", vssAllOrNothing},
		{"deletes", vssDeletes},
		{"global version", vssGlobalVersion},
		{"lists", vssLists},
		{"limits", vssLimits},
		{"plain answers", vssPlain},
		{"identities", vssIdentities},
		{"tokens", vssTokens},
		{"the present only", vssPresentOnly},
	} {
		k.t.Run(c.name, func(t *testing.T) { c.play(ctx, t, k.somebody(t)) })
	}
}

func vssVersions(ctx context.Context, t *testing.T, c *vssClient) {
	require.Equal(t, noKey, c.get(ctx, "k"))
	require.Equal(t, "ok", c.put(ctx, kv("k", 0, "one")), "0 inserts")
	require.Equal(t, "1:one", c.get(ctx, "k"))
	require.Equal(t, conflict, c.put(ctx, kv("k", 0, "again")), "0 inserts only")
	require.Equal(t, "ok", c.put(ctx, kv("k", 1, "two")))
	require.Equal(t, "2:two", c.get(ctx, "k"), "n becomes n + 1")
	require.Equal(t, conflict, c.put(ctx, kv("k", 1, "old")))
	require.Equal(t, conflict, c.put(ctx, kv("k", 3, "new")))
	require.Equal(t, conflict, c.put(ctx, kv("none", 1, "x")), "nothing to compare with")
	require.Equal(t, "ok", c.put(ctx, kv("k", -1, "whatever")))
	require.Equal(t, "1:whatever", c.get(ctx, "k"), "-1 begins at 1")
	require.Equal(t, "ok", c.put(ctx, kv("new", -1, "x")), "-1 inserts as well")
	require.Equal(t, "1:x", c.get(ctx, "new"))
	require.Equal(t, invalid, c.put(ctx, kv("k", -2, "x")))
	require.Equal(t, "ok", c.put(ctx, kv("empty", 0, "")))
	require.Equal(t, "1:", c.get(ctx, "empty"), "an empty value is a value")
}

func vssAllOrNothing(ctx context.Context, t *testing.T, c *vssClient) {
	require.Equal(t, "ok", c.put(ctx, kv("a", 0, "1"), kv("b", 0, "1")))
	require.Equal(t, conflict, c.put(ctx, kv("a", 1, "2"), kv("b", 7, "2"), kv("c", 0, "2")))
	require.Equal(t, "1:1", c.get(ctx, "a"))
	require.Equal(t, noKey, c.get(ctx, "c"))
	both := &vssv1.PutObjectRequest{
		StoreId: c.store, TransactionItems: []*vssv1.KeyValue{kv("a", 1, "2")}, DeleteItems: []*vssv1.KeyValue{kv("none", 1, "")},
	}
	require.Equal(t, conflict, c.call(ctx, "putObjects", both, &vssv1.PutObjectResponse{}), "a delete of nothing is a conflict here")
	require.Equal(t, "1:1", c.get(ctx, "a"))
	both.DeleteItems[0] = kv("b", 1, "")
	require.Equal(t, "ok", c.call(ctx, "putObjects", both, &vssv1.PutObjectResponse{}))
	require.Equal(t, "2:2", c.get(ctx, "a"))
	require.Equal(t, noKey, c.get(ctx, "b"))
}

func vssDeletes(ctx context.Context, t *testing.T, c *vssClient) {
	require.Equal(t, "ok", c.remove(ctx, "none", 1), "deleting nothing is no error")
	require.Equal(t, "ok", c.put(ctx, kv("k", 0, "v")))
	require.Equal(t, "ok", c.remove(ctx, "k", 5), "another version is left alone")
	require.Equal(t, "1:v", c.get(ctx, "k"))
	require.Equal(t, "ok", c.remove(ctx, "k", 1))
	require.Equal(t, "ok", c.remove(ctx, "k", 1), "and may be repeated")
	require.Equal(t, noKey, c.get(ctx, "k"))
	require.Equal(t, "ok", c.put(ctx, kv("k", 0, "anew")))
	require.Equal(t, "1:anew", c.get(ctx, "k"))
	require.Equal(t, "ok", c.remove(ctx, "k", -1))
	require.Equal(t, noKey, c.get(ctx, "k"))
	require.Equal(t, invalid, c.call(ctx, "deleteObject", &vssv1.DeleteObjectRequest{StoreId: c.store}, &vssv1.DeleteObjectResponse{}))
}

func vssGlobalVersion(ctx context.Context, t *testing.T, c *vssClient) {
	put := func(global int64, items ...*vssv1.KeyValue) string {
		return c.call(ctx, "putObjects", &vssv1.PutObjectRequest{StoreId: c.store, GlobalVersion: proto.Int64(global), TransactionItems: items}, &vssv1.PutObjectResponse{})
	}
	require.Equal(t, conflict, put(1, kv("a", 0, "x")))
	require.Equal(t, "ok", put(0, kv("a", 0, "x")))
	require.Equal(t, conflict, put(0, kv("b", 0, "x")), "it is 1 now")
	require.Equal(t, noKey, c.get(ctx, "b"))
	require.Equal(t, "ok", put(1, kv("b", 0, "x")))
	require.Equal(t, "ok", c.put(ctx, kv("c", 0, "x")), "without one it does not matter")
	require.Equal(t, "2:", c.get(ctx, "global_version"))
	require.Equal(t, invalid, c.put(ctx, kv("global_version", 2, "x")), "nobody writes it")
	require.Equal(t, conflict, put(2, kv("a", 9, "x")), "an item's conflict leaves it")
	require.Equal(t, "2:", c.get(ctx, "global_version"))
}

func (c *vssClient) list(ctx context.Context, prefix string, size *int32, token *string) (string, *vssv1.ListKeyVersionsResponse) {
	c.t.Helper()
	var got vssv1.ListKeyVersionsResponse
	req := &vssv1.ListKeyVersionsRequest{StoreId: c.store, KeyPrefix: proto.String(prefix), PageSize: size, PageToken: token}
	said := c.call(ctx, "listKeyVersions", req, &got)
	return said, &got
}

func keys(r *vssv1.ListKeyVersionsResponse) (out []string) {
	for _, kv := range r.KeyVersions {
		out = append(out, kv.Key)
	}
	return out
}

func vssLists(ctx context.Context, t *testing.T, c *vssClient) {
	said, empty := c.list(ctx, "", nil, nil)
	require.Equal(t, "ok", said)
	require.Empty(t, empty.KeyVersions)
	require.Zero(t, empty.GetGlobalVersion())
	require.NotNil(t, empty.GlobalVersion)
	require.Empty(t, empty.GetNextPageToken())

	var items []*vssv1.KeyValue
	for i := range 250 {
		items = append(items, kv(fmt.Sprintf("k%03d", i), 0, "v"))
	}
	require.Equal(t, "ok", c.put(ctx, items...))
	require.Equal(t, "ok", c.put(ctx, kv("k000", 1, "newer")), "an update keeps its place")
	require.Equal(t, "ok", c.put(ctx, kv("50%_off", 0, "v"), kv("50x_off", 0, "v"), kv("a_b", 0, "v"), kv("axb", 0, "v")))
	var all []string
	var token *string
	for page := 0; ; page++ {
		_, got := c.list(ctx, "k", proto.Int32(1000), token)
		require.LessOrEqual(t, len(got.KeyVersions), 100)
		require.Equal(t, page == 0, got.GlobalVersion != nil, "the global version is in the first page only")
		for _, kv := range got.KeyVersions {
			require.Empty(t, kv.Value, "lists have no values")
		}
		all = append(all, keys(got)...)
		if got.GetNextPageToken() == "" {
			break
		}
		token = proto.String(got.GetNextPageToken())
	}
	require.Len(t, all, 250)
	require.Equal(t, "k249", all[0], "the last created comes first")
	require.Equal(t, "k000", all[249])
	_, got := c.list(ctx, "50%", nil, nil)
	require.Equal(t, []string{"50%_off"}, keys(got), "a prefix is text")
	_, got = c.list(ctx, "a_", nil, nil)
	require.Equal(t, []string{"a_b"}, keys(got))
	_, got = c.list(ctx, "k", proto.Int32(7), nil)
	require.Len(t, got.KeyVersions, 7)
	_, got = c.list(ctx, "", proto.Int32(0), nil)
	require.Empty(t, got.KeyVersions)
	require.NotNil(t, got.GlobalVersion)
	for _, bad := range []string{"", "x", "-1", "999999999999999999999"} {
		said, _ = c.list(ctx, "", nil, proto.String(bad))
		require.Equal(t, invalid, said, "token %q", bad)
	}
}

func vssLimits(ctx context.Context, t *testing.T, c *vssClient) {
	var items []*vssv1.KeyValue
	for i := range 1000 {
		items = append(items, kv(fmt.Sprint(i), 0, "v"))
	}
	require.Equal(t, invalid, c.put(ctx, append(items[:1000:1000], kv("one more", 0, "v"))...), "1,001 items")
	require.Equal(t, "ok", c.put(ctx, items...), "1,000 items")
	require.Equal(t, invalid, c.put(ctx, kv("a", 0, "v"), kv("a", 0, "v")), "a key twice")
	both := &vssv1.PutObjectRequest{StoreId: c.store, TransactionItems: []*vssv1.KeyValue{kv("0", 1, "v")}, DeleteItems: []*vssv1.KeyValue{kv("0", 1, "")}}
	require.Equal(t, invalid, c.call(ctx, "putObjects", both, &vssv1.PutObjectResponse{}), "put and delete of one key")
	long := strings.Repeat("k", 600)
	require.Equal(t, "ok", c.put(ctx, kv(long, 0, "v")))
	require.Equal(t, "1:v", c.get(ctx, long))
	require.Equal(t, invalid, c.put(ctx, kv(long+"k", 0, "v")))
	require.Equal(t, invalid, c.put(ctx, kv("", 0, "v")))
	c.store = strings.Repeat("s", 120)
	require.Equal(t, "ok", c.put(ctx, kv("k", 0, "v")))
	c.store += "s"
	require.Equal(t, invalid, c.put(ctx, kv("k", 0, "v")))
	c.store = ""
	require.Equal(t, "ok", c.put(ctx, kv("k", 0, "v")), "the empty store is one")
	require.Equal(t, invalid, c.put(ctx, kv("large", 0, strings.Repeat("x", 17<<20))), "beyond the quota: no retry helps")
}

// vssPlain: what is no message of VSS is answered in text.
func vssPlain(ctx context.Context, t *testing.T, c *vssClient) {
	for _, path := range []string{"/vss/nothing", "/vss/", "/vss/getObject/"} {
		status, kind, _ := c.raw(ctx, path, strings.NewReader(""), 0)
		require.Equal(t, http.StatusBadRequest, status, path)
		require.Contains(t, kind, "text/plain", path)
	}
	status, kind, _ := c.raw(ctx, "/vss/putObjects", strings.NewReader("\xff\xff"), 2)
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, kind, "text/plain")
	began := time.Now()
	status, kind, _ = c.raw(ctx, "/vss/putObjects", io.LimitReader(rand.Reader, 1<<30), 1<<30)
	require.Equal(t, http.StatusRequestEntityTooLarge, status)
	require.Contains(t, kind, "text/plain")
	require.Less(t, time.Since(began), 10*time.Second, "it is refused by its announced size")
}

func vssIdentities(ctx context.Context, t *testing.T, c *vssClient) {
	require.Equal(t, "ok", c.put(ctx, kv("k", 0, "mine")))
	require.Equal(t, noKey, c.k.somebody(t).get(ctx, "k"), "another's store")
	key, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	now := time.Now()
	require.Equal(t, "ok", c.k.as(t, key, now).put(ctx, kv("k", 0, "x")))
	for _, off := range []time.Duration{-23 * time.Hour, 23 * time.Hour} {
		require.Equal(t, "1:x", c.k.as(t, key, now.Add(off)).get(ctx, "k"), "a clock that is off by %s", off)
	}
	for _, off := range []time.Duration{-25 * time.Hour, 25 * time.Hour} {
		require.Equal(t, noAuth, c.k.as(t, key, now.Add(off)).get(ctx, "k"))
	}
	good := c.k.as(t, key, now)
	upper := *good
	upper.header = strings.ToUpper(good.header)
	require.Equal(t, "1:x", upper.get(ctx, "k"), "one key is one identity")
	for name, header := range map[string]string{
		"none":              "",
		"garbage":           "zz",
		"another signature": good.header[:100] + "00" + good.header[102:],
		"another time":      good.header[:len(good.header)-1] + string(good.header[len(good.header)-1]^1),
		"no time":           good.header[:66+128],
		"bearer of nothing": "Bearer ",
	} {
		bad := *good
		bad.header = header
		require.Equal(t, noAuth, bad.get(ctx, "k"), name)
	}
}

// token is a JWT that an issuer signed.
func (k *keeper) token(t *testing.T, header, claims string) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	digest := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, k.tokens, crypto.SHA256, digest[:])
	require.NoError(t, err)
	return "Bearer " + text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func vssTokens(ctx context.Context, t *testing.T, c *vssClient) {
	const rs256 = `{"alg":"RS256","typ":"JWT"}`
	now := time.Now().Unix()
	good := fmt.Sprintf(`{"sub":"alice","exp":%d}`, now+600)
	c.header = c.k.token(t, rs256, good)
	require.Equal(t, "ok", c.put(ctx, kv("k", 0, "token's")))
	c.header = c.k.token(t, rs256, fmt.Sprintf(`{"sub":"alice","exp":%d,"iat":%d}`, now+1200, now))
	require.Equal(t, "1:token's", c.get(ctx, "k"), "another token of the same subject")
	c.header = c.k.token(t, rs256, fmt.Sprintf(`{"sub":"bob","exp":%d}`, now+600))
	require.Equal(t, noKey, c.get(ctx, "k"))
	// A subject that reads like a key opens nothing of the key's.
	key, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	require.Equal(t, "ok", c.k.as(t, key, time.Now()).put(ctx, kv("k", 0, "key's")))
	c.header = c.k.token(t, rs256, fmt.Sprintf(`{"sub":"%x","exp":%d}`, key.PubKey().SerializeCompressed(), now+600))
	require.Equal(t, noKey, c.get(ctx, "k"))
	none := strings.Split(c.k.token(t, `{"alg":"none"}`, good), ".")
	for name, header := range map[string]string{
		"expired":       c.k.token(t, rs256, fmt.Sprintf(`{"sub":"alice","exp":%d}`, now-600)),
		"no expiry":     c.k.token(t, rs256, `{"sub":"alice"}`),
		"no subject":    c.k.token(t, rs256, fmt.Sprintf(`{"exp":%d}`, now+600)),
		"an audience":   c.k.token(t, rs256, fmt.Sprintf(`{"sub":"alice","aud":"x","exp":%d}`, now+600)),
		"alg none":      none[0] + "." + none[1] + ".",
		"alg HS256":     c.k.token(t, `{"alg":"HS256"}`, good),
		"not by issuer": c.k.token(t, rs256, good)[:200] + "AAAA",
	} {
		c.header = header
		require.Equal(t, noAuth, c.get(ctx, "k"), name)
	}
}

// vssPresentOnly: history is kept and never served.
func vssPresentOnly(ctx context.Context, t *testing.T, c *vssClient) {
	require.Equal(t, "ok", c.put(ctx, kv("k", 0, "old")))
	for n := int64(1); n < 5; n++ {
		require.Equal(t, "ok", c.put(ctx, kv("k", n, fmt.Sprint("value ", n))))
		require.Equal(t, fmt.Sprintf("%d:value %d", n+1, n), c.get(ctx, "k"))
	}
	require.Equal(t, "ok", c.remove(ctx, "k", 5))
	require.Equal(t, noKey, c.get(ctx, "k"))
}
