package vss_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-lsp/sluice/backupsvc/engine"
	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/backupsvc/vss"
	"github.com/sluice-lsp/sluice/backupsvc/vss/vssv1"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

const salt = "VSS Signature Authorizer Signing Salt Constant.................."

func clock() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// sign makes the header of a VSS client that signs.
func sign(key *btcec.PrivateKey, clock string) string {
	pub := key.PubKey().SerializeCompressed()
	digest := sha256.Sum256(append(append([]byte(salt), pub...), clock...))
	compact := ecdsa.SignCompact(key, digest[:], true)
	return hex.EncodeToString(pub) + hex.EncodeToString(compact[1:]) + clock
}

func keyOf(n byte) *btcec.PrivateKey {
	key, _ := btcec.PrivKeyFromBytes(bytes.Repeat([]byte{n}, 32))
	return key
}

// service is the whole service behind HTTP.
type service struct {
	t   *testing.T
	url string
}

type options struct {
	tokenKey *rsa.PublicKey
	maxBody  int64
	change   func(*engine.Config)
}

func start(t *testing.T, cfg store.Config, o options) *service {
	t.Helper()
	db := storetest.Open(t, cfg)
	require.NoError(t, backups.Migrate(t.Context(), db))
	signer, err := vault.NewSigner(bytes.Repeat([]byte{1}, 32))
	require.NoError(t, err)
	c := engine.Defaults()
	c.Rate = auth.Rate{PerSecond: 1e6, Burst: 1e6}
	if o.change != nil {
		o.change(&c)
	}
	e, err := engine.New(engine.Options{DB: db, Signer: signer, Config: c, Now: clock, Log: zaptest.NewLogger(t)})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	if o.maxBody == 0 {
		o.maxBody = 4 << 20
	}
	h, err := vss.New(vss.Config{
		Vault: e, Verifier: vss.Verifier{Signatures: true, Window: 24 * time.Hour, TokenKey: o.tokenKey, Now: clock},
		MaxBody: o.maxBody, MaxBodies: 4 * o.maxBody, Strangers: auth.Rate{PerSecond: 1e6, Burst: 1e6}, Tracked: 10, Now: clock, Log: zaptest.NewLogger(t),
	})
	require.NoError(t, err)
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		server.Close()
		stop()
		require.NoError(t, <-done)
	})
	return &service{t: t, url: server.URL}
}

func (s *service) post(path, authorization string, body []byte) (int, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+path, bytes.NewReader(body))
	require.NoError(s.t, err)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	return resp.StatusCode, out
}

// client is a wallet with a VSS client and one store.
type client struct {
	s     *service
	auth  string
	store string
}

func (s *service) client(n byte) client {
	return client{s: s, auth: sign(keyOf(n), strconv.FormatInt(clock().Unix(), 10)), store: "store"}
}

// refusal is an ErrorResponse with its HTTP status.
type refusal struct {
	status int
	code   vssv1.ErrorCode
}

func (c client) do(path string, req, resp proto.Message) *refusal {
	c.s.t.Helper()
	raw, err := proto.Marshal(req)
	require.NoError(c.s.t, err)
	status, body := c.s.post("/vss/"+path, c.auth, raw)
	if status == http.StatusOK {
		require.NoError(c.s.t, proto.Unmarshal(body, resp))
		return nil
	}
	var e vssv1.ErrorResponse
	require.NoError(c.s.t, proto.Unmarshal(body, &e), "%q", body)
	require.NotEmpty(c.s.t, e.GetMessage())
	return &refusal{status, e.GetErrorCode()}
}

func (c client) put(global *int64, items, deletes []*vssv1.KeyValue) *refusal {
	c.s.t.Helper()
	return c.do("putObjects", &vssv1.PutObjectRequest{StoreId: c.store, GlobalVersion: global, TransactionItems: items, DeleteItems: deletes}, &vssv1.PutObjectResponse{})
}

func (c client) get(key string) (*vssv1.KeyValue, *refusal) {
	c.s.t.Helper()
	var resp vssv1.GetObjectResponse
	r := c.do("getObject", &vssv1.GetObjectRequest{StoreId: c.store, Key: key}, &resp)
	return resp.GetValue(), r
}

func (c client) remove(key string, version int64) *refusal {
	c.s.t.Helper()
	return c.do("deleteObject", &vssv1.DeleteObjectRequest{StoreId: c.store, KeyValue: kv(key, "", version)}, &vssv1.DeleteObjectResponse{})
}

func (c client) list(prefix *string, size *int32, token *string) (*vssv1.ListKeyVersionsResponse, *refusal) {
	c.s.t.Helper()
	var resp vssv1.ListKeyVersionsResponse
	r := c.do("listKeyVersions", &vssv1.ListKeyVersionsRequest{StoreId: c.store, KeyPrefix: prefix, PageSize: size, PageToken: token}, &resp)
	return &resp, r
}

func kv(key, value string, version int64) *vssv1.KeyValue {
	return &vssv1.KeyValue{Key: key, Version: version, Value: []byte(value)}
}

func one(key, value string, version int64) []*vssv1.KeyValue {
	return []*vssv1.KeyValue{kv(key, value, version)}
}

func conflict() *refusal { return &refusal{409, vssv1.ErrorCode_ERROR_CODE_CONFLICT} }
func invalid() *refusal  { return &refusal{400, vssv1.ErrorCode_ERROR_CODE_INVALID_REQUEST} }
func missing() *refusal  { return &refusal{404, vssv1.ErrorCode_ERROR_CODE_NO_SUCH_KEY} }
func noAuth() *refusal   { return &refusal{401, vssv1.ErrorCode_ERROR_CODE_AUTH} }

// TestProtocol goes through VSS clause by clause, on both databases.
func TestProtocol(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		s := start(t, cfg, options{})
		n := byte(0)
		for _, clause := range []struct {
			name string
			f    func(t *testing.T, c client)
		}{
			{"conditional and unconditional puts", func(t *testing.T, c client) {
				require.Nil(t, c.put(proto.Int64(0), one("k1", "k1v1", 0), nil))
				require.Nil(t, c.put(proto.Int64(1), one("k1", "k1v2", 1), nil))
				for i := range int64(3) {
					require.Nil(t, c.put(proto.Int64(2+i), one("k2", fmt.Sprint("k2v", i), -1), nil))
				}
				got, r := c.get("k1")
				require.Nil(t, r)
				require.True(t, proto.Equal(kv("k1", "k1v2", 2), got))
				got, r = c.get("k2")
				require.Nil(t, r)
				require.True(t, proto.Equal(kv("k2", "k2v2", 1), got))
				got, r = c.get("global_version")
				require.Nil(t, r)
				require.EqualValues(t, 5, got.GetVersion())
			}},
			{"a conflict in one item fails all", func(t *testing.T, c client) {
				require.Nil(t, c.put(nil, []*vssv1.KeyValue{kv("k1", "a", 0), kv("k2", "a", 0)}, nil))
				require.Equal(t, conflict(), c.put(nil, []*vssv1.KeyValue{kv("k1", "b", 1), kv("k2", "b", 2)}, nil))
				require.Equal(t, conflict(), c.put(nil, one("k1", "b", 0), nil))
				got, _ := c.get("k1")
				require.True(t, proto.Equal(kv("k1", "a", 1), got))
			}},
			{"the global version", func(t *testing.T, c client) {
				require.Nil(t, c.put(nil, one("k1", "a", 0), nil))
				got, r := c.get("global_version")
				require.Nil(t, r)
				require.Zero(t, got.GetVersion(), "writes without it do not count")
				require.Equal(t, conflict(), c.put(proto.Int64(1), one("k1", "b", 1), nil))
				require.Nil(t, c.put(proto.Int64(0), one("k1", "b", 1), nil))
				require.Equal(t, conflict(), c.put(proto.Int64(0), one("k1", "c", 2), nil))
				require.Nil(t, c.put(proto.Int64(-1), one("k1", "c", 2), nil))
				require.Equal(t, invalid(), c.put(nil, one("global_version", "", 0), nil))
			}},
			{"puts and deletes are one transaction", func(t *testing.T, c client) {
				require.Nil(t, c.put(nil, one("k1", "a", 0), nil))
				require.Nil(t, c.put(nil, one("k2", "a", 0), one("k1", "", 1)))
				_, r := c.get("k1")
				require.Equal(t, missing(), r)
				require.Equal(t, conflict(), c.put(nil, one("k3", "a", 0), one("k2", "", 3)))
				require.Equal(t, conflict(), c.put(nil, one("k3", "a", 1), one("k2", "", 1)))
				require.Equal(t, conflict(), c.put(nil, one("k3", "a", 0), one("nothing", "", -1)))
				require.Equal(t, conflict(), c.put(proto.Int64(2), one("k3", "a", 0), one("k2", "", 1)))
				_, r = c.get("k3")
				require.Equal(t, missing(), r)
				_, r = c.get("k2")
				require.Nil(t, r)
			}},
			{"deletes may be repeated", func(t *testing.T, c client) {
				require.Nil(t, c.remove("k1", 0))
				require.Nil(t, c.put(nil, one("k1", "a", 0), nil))
				require.Nil(t, c.remove("k1", 7), "another version is left alone")
				_, r := c.get("k1")
				require.Nil(t, r)
				require.Nil(t, c.remove("k1", 1))
				require.Nil(t, c.remove("k1", 1))
				_, r = c.get("k1")
				require.Equal(t, missing(), r)
				require.Nil(t, c.put(nil, one("k1", "a", 0), nil))
				require.Nil(t, c.put(nil, one("k1", "a", 1), nil))
				require.Nil(t, c.remove("k1", -1))
				_, r = c.get("k1")
				require.Equal(t, missing(), r)
				require.Equal(t, invalid(), c.do("deleteObject", &vssv1.DeleteObjectRequest{StoreId: "store"}, &vssv1.DeleteObjectResponse{}))
			}},
			{"lists", func(t *testing.T, c client) {
				page, r := c.list(nil, nil, nil)
				require.Nil(t, r)
				require.Empty(t, page.GetKeyVersions())
				require.EqualValues(t, 0, page.GetGlobalVersion())
				require.Empty(t, page.GetNextPageToken())
				for i, key := range []string{"pfx_z", "pfx_a", "pfx_m", "pfx%", "other"} {
					require.Nil(t, c.put(proto.Int64(int64(i)), one(key, "v", 0), nil))
				}
				var keys []string
				var token *string
				for first := true; ; first = false {
					page, r := c.list(proto.String("pfx_"), proto.Int32(1), token)
					require.Nil(t, r)
					require.Equal(t, first, page.GlobalVersion != nil)
					for _, k := range page.GetKeyVersions() {
						require.Empty(t, k.GetValue())
						keys = append(keys, k.GetKey())
					}
					if page.GetNextPageToken() == "" {
						break
					}
					token = page.NextPageToken
				}
				require.Equal(t, []string{"pfx_m", "pfx_a", "pfx_z"}, keys, "newest created first, the prefix taken literally")
				page, r = c.list(nil, proto.Int32(0), nil)
				require.Nil(t, r)
				require.Empty(t, page.GetKeyVersions())
				require.EqualValues(t, 5, page.GetGlobalVersion())
				for _, bad := range []string{"", "0", "-1", "x", "99999999999999999999"} {
					_, r = c.list(nil, nil, proto.String(bad))
					require.Equal(t, invalid(), r, bad)
				}
				_, r = c.list(nil, proto.Int32(-1), nil)
				require.Equal(t, invalid(), r)
			}},
			{"limits", func(t *testing.T, c client) {
				var many []*vssv1.KeyValue
				for i := range 1001 {
					many = append(many, kv(fmt.Sprint(i), "", 0))
				}
				require.Equal(t, invalid(), c.put(nil, many, nil))
				require.Nil(t, c.put(nil, many[:1000], nil))
				page, r := c.list(nil, nil, nil)
				require.Nil(t, r)
				require.Len(t, page.GetKeyVersions(), 100)
				page, r = c.list(nil, proto.Int32(1000), nil)
				require.Nil(t, r)
				require.Len(t, page.GetKeyVersions(), 100)
				require.Equal(t, invalid(), c.put(nil, []*vssv1.KeyValue{kv("k", "", 0), kv("k", "", 0)}, nil))
				require.Equal(t, invalid(), c.put(nil, one(strings.Repeat("k", 601), "", 0), nil))
				require.Equal(t, invalid(), c.put(nil, one("k", "", -2), nil))
				_, r = c.get("")
				require.Equal(t, invalid(), r)
				c.store = strings.Repeat("s", 121)
				_, r = c.get("k")
				require.Equal(t, invalid(), r)
			}},
		} {
			n++
			t.Run(clause.name, func(t *testing.T) { clause.f(t, s.client(n)) })
		}
	})
}

func TestIsolation(t *testing.T) {
	s := start(t, storetest.SQLite(t), options{})
	alice, bob := s.client(1), s.client(2)
	require.Nil(t, alice.put(nil, one("k", "secret", 0), nil))
	_, r := bob.get("k")
	require.Equal(t, missing(), r)
	page, r := bob.list(nil, nil, nil)
	require.Nil(t, r)
	require.Empty(t, page.GetKeyVersions())
	require.Nil(t, bob.remove("k", -1))
	require.Nil(t, bob.put(nil, one("k", "bob", 0), nil))
	got, r := alice.get("k")
	require.Nil(t, r)
	require.Equal(t, "secret", string(got.GetValue()))
	upper := alice
	upper.auth = strings.ToUpper(alice.auth[:66]) + alice.auth[66:]
	got, r = upper.get("k")
	require.Nil(t, r)
	require.Equal(t, "secret", string(got.GetValue()), "one key is one identity")
}

func TestPlainAnswers(t *testing.T) {
	s := start(t, storetest.SQLite(t), options{maxBody: 1000})
	c := s.client(1)
	for _, path := range []string{"/", "/vss", "/vss/getobject", "/vss/getObject/", "/getObject", "/vss/../vss/none"} {
		status, body := s.post(path, c.auth, nil)
		require.Equal(t, 400, status, path)
		require.Contains(t, string(body), "no such call")
	}
	status, body := s.post("/vss/getObject", c.auth, []byte{0xff, 0xff})
	require.Equal(t, 400, status)
	require.Contains(t, string(body), "protobuf")
	status, _ = s.post("/vss/putObjects", c.auth, make([]byte, 1001))
	require.Equal(t, 413, status)
	status, _ = s.post("/vss/putObjects", "", make([]byte, 1001))
	require.Equal(t, 401, status, "nothing is said of the body to strangers")

	// 1 GiB is refused by its announcement.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/vss/putObjects", endless{})
	require.NoError(t, err)
	req.ContentLength = 1 << 30
	req.Header.Set("Authorization", c.auth)
	req.Header.Set("Expect", "100-continue")
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, 413, resp.StatusCode)
	require.NoError(t, resp.Body.Close())

	// And so is one that does not announce its size.
	req, err = http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/vss/putObjects", io.LimitReader(endless{}, 1<<20))
	require.NoError(t, err)
	req.Header.Set("Authorization", c.auth)
	resp, err = http.DefaultTransport.RoundTrip(req)
	if err == nil { // or the server closed the connection before all was sent
		require.Equal(t, 413, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
	}
	resp, err = http.Get(s.url + "/vss/getObject") //nolint:noctx // a test
	require.NoError(t, err)
	require.Equal(t, 400, resp.StatusCode)
	require.NoError(t, resp.Body.Close())
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
func (endless) Close() error               { return nil }

func TestQuotaAndRate(t *testing.T) {
	s := start(t, storetest.SQLite(t), options{change: func(c *engine.Config) {
		c.Quota.Bytes, c.Quota.ObjectBytes = 10, 10
		c.Rate = auth.Rate{PerSecond: 0.001, Burst: 2}
	}})
	c := s.client(1)
	require.Equal(t, invalid(), c.put(nil, one("k", "12345678901", 0), nil), "no client tries that again")
	require.Nil(t, c.put(nil, one("k", "1234567890", 0), nil))
	_, r := c.get("k")
	require.Equal(t, &refusal{429, vssv1.ErrorCode_ERROR_CODE_INTERNAL}, r, "every client tries that again")
}

func TestSignatures(t *testing.T) {
	s := start(t, storetest.SQLite(t), options{})
	now := clock().Unix()
	good := sign(keyOf(1), strconv.FormatInt(now, 10))
	for name, header := range map[string]string{
		"none":             "",
		"no time":          good[:194],
		"another time":     good[:194] + strconv.FormatInt(now+1, 10),
		"another key":      hex.EncodeToString(keyOf(2).PubKey().SerializeCompressed()) + good[66:],
		"no hex":           "zz" + good[2:],
		"a bit flipped":    good[:100] + flip(good[100]) + good[101:],
		"no point":         strings.Repeat("02ff", 1) + strings.Repeat("ff", 31) + good[66:],
		"zero signature":   good[:66] + strings.Repeat("0", 128) + good[194:],
		"a day and 1 s":    sign(keyOf(1), strconv.FormatInt(now-86_401, 10)),
		"in a day and 1 s": sign(keyOf(1), strconv.FormatInt(now+86_401, 10)),
		"a signed time":    sign(keyOf(1), "+"+strconv.FormatInt(now, 10)),
		"far beyond":       sign(keyOf(1), "9223372036854775807"),
		"bearer of it":     "Bearer " + good,
		"long":             good + strings.Repeat("0", 100),
	} {
		c := client{s: s, auth: header, store: "s"}
		_, r := c.get("k")
		require.Equal(t, noAuth(), r, name)
	}
	for _, at := range []int64{now, now - 86_400, now + 86_400} {
		c := client{s: s, auth: sign(keyOf(1), strconv.FormatInt(at, 10)), store: "s"}
		_, r := c.get("k")
		require.Equal(t, missing(), r, "a clock that is wrong by a day")
	}
	none := client{s: s, auth: "Bearer a.b.c", store: "s"}
	_, r := none.get("k")
	require.Equal(t, noAuth(), r, "tokens are off")
}

func flip(b byte) string {
	if b == '0' {
		return "1"
	}
	return "0"
}

// TestHighS: a signature that was changed into its other form proves nobody.
func TestHighS(t *testing.T) {
	v := vss.Verifier{Signatures: true, Window: time.Hour, Now: clock}
	good := sign(keyOf(1), strconv.FormatInt(clock().Unix(), 10))
	id, err := v.Identify(http.Header{"Authorization": {good}})
	require.NoError(t, err)
	require.Equal(t, vault.Identity("sig:"+good[:66]), id)
	var sc btcec.ModNScalar
	raw, err := hex.DecodeString(good[130:194])
	require.NoError(t, err)
	sc.SetByteSlice(raw)
	high := sc.Negate().Bytes()
	_, err = v.Identify(http.Header{"Authorization": {good[:130] + hex.EncodeToString(high[:]) + good[194:]}})
	require.Error(t, err, "one signature has one form")
	_, err = v.Identify(http.Header{"Authorization": {good, good}})
	require.Error(t, err)
}

func TestStrangersAreLimited(t *testing.T) {
	h, err := vss.New(vss.Config{
		Verifier: vss.Verifier{Signatures: true, Window: time.Hour, Now: clock}, MaxBody: 10, MaxBodies: 10,
		Strangers: auth.Rate{PerSecond: 0.001, Burst: 2}, Tracked: 10, Now: clock, Log: zaptest.NewLogger(t),
	})
	require.NoError(t, err)
	ask := func(address string) int {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/vss/getObject", nil)
		r.RemoteAddr = address
		h.ServeHTTP(w, r)
		return w.Code
	}
	require.Equal(t, []int{401, 401, 429}, []int{ask("192.0.2.1:1"), ask("192.0.2.1:2"), ask("192.0.2.1:3")})
	require.Equal(t, 401, ask("192.0.2.2:1"))
	_, err = vss.New(vss.Config{MaxBody: 10, MaxBodies: 9})
	require.Error(t, err)
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	require.NoError(t, err)
	return key
}
