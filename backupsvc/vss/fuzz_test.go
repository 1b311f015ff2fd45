package vss_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/backupsvc/vss"
	"github.com/sluice-lsp/sluice/backupsvc/vss/vssv1"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// strict is a vault that is empty and refuses what is invalid.
type strict struct{ f *testing.T }

func (s strict) Get(_ context.Context, _ vault.Identity, storeID, key string) (backups.Object, error) {
	if err := vault.CheckStore(storeID); err != nil {
		return backups.Object{}, err
	}
	if err := vault.CheckKey(key); err != nil {
		return backups.Object{}, err
	}
	return backups.Object{}, errkind.New(errkind.NotFound, "nothing here")
}

func (s strict) Put(_ context.Context, id vault.Identity, w vault.Write) (vault.Receipt, error) {
	quota := vault.Quota{Bytes: 1 << 30, Objects: 1 << 20, ObjectBytes: 1 << 30, DayWrites: 1 << 20, DayBytes: 1 << 30, HistoryBytes: 1}
	_, err := vault.Decide(vault.NewAccount(vault.ServerKey{}, id), nil, w, quota, clock())
	return vault.Receipt{}, err
}

func (s strict) List(_ context.Context, _ vault.Identity, _, prefix string, before uint64, limit int) (backups.Page, error) {
	if limit < 0 {
		return backups.Page{}, errkind.New(errkind.Invalid, "negative")
	}
	if before > 1<<63-1 {
		s.f.Errorf("token %d", before)
	}
	return backups.Page{}, vault.CheckPrefix(prefix)
}

// FuzzBodies: whatever a body holds, the answer is one that the protocol has.
func FuzzBodies(f *testing.F) {
	for i, m := range []proto.Message{
		&vssv1.GetObjectRequest{StoreId: "s", Key: "k"},
		&vssv1.PutObjectRequest{StoreId: "s", GlobalVersion: proto.Int64(3), TransactionItems: one("k", "v", 0), DeleteItems: one("d", "", -1)},
		&vssv1.DeleteObjectRequest{StoreId: "s", KeyValue: kv("k", "", 1)},
		&vssv1.ListKeyVersionsRequest{StoreId: "s", KeyPrefix: proto.String("%"), PageSize: proto.Int32(7), PageToken: proto.String("12")},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), raw)
	}
	header := sign(keyOf(1), strconv.FormatInt(clock().Unix(), 10))
	paths := []string{"getObject", "putObjects", "deleteObject", "listKeyVersions"}
	f.Fuzz(func(t *testing.T, path uint8, body []byte) {
		h, err := vss.New(vss.Config{
			Vault: strict{t}, Verifier: vss.Verifier{Signatures: true, Window: time.Hour, Now: clock}, MaxBody: 1 << 16, MaxBodies: 1 << 20,
			Strangers: auth.Rate{PerSecond: 1, Burst: 1}, Tracked: 1, Now: clock, Log: zap.NewNop(),
		})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/vss/"+paths[int(path)%len(paths)], bytes.NewReader(body))
		r.Header.Set("Authorization", header)
		h.ServeHTTP(w, r)
		if !slices.Contains([]int{200, 400, 404, 409, 413}, w.Code) {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
		if w.Code != 200 && w.Header().Get("Content-Type") == "application/octet-stream" {
			var e vssv1.ErrorResponse
			if err := proto.Unmarshal(w.Body.Bytes(), &e); err != nil || e.GetErrorCode() == 0 {
				t.Fatalf("%v: %v", err, &e)
			}
		}
	})
}

// FuzzAuthorization: nothing but a signature of the key in the header itself
// proves that key.
func FuzzAuthorization(f *testing.F) {
	good := sign(keyOf(1), strconv.FormatInt(clock().Unix(), 10))
	for _, seed := range []string{good, good[:194], "Bearer a.b.c", "Bearer eyJhbGciOiJSUzI1NiJ9.e30.AA", strings.ToUpper(good), ""} {
		f.Add(seed)
	}
	key := rsaKey(f, 2048)
	v := vss.Verifier{Signatures: true, Window: time.Hour, TokenKey: &key.PublicKey, Now: clock}
	f.Fuzz(func(t *testing.T, header string) {
		id, err := v.Identify(http.Header{"Authorization": {header}})
		if err != nil {
			if id != "" || errkind.Of(err) != errkind.Unauthenticated {
				t.Fatalf("%q, %v", id, err)
			}
			return
		}
		// The fuzzer has no key: it can only write what it was given otherwise.
		if !strings.EqualFold(header, good) || id != vault.Identity("sig:"+good[:66]) {
			t.Fatalf("%q proves %s", header, id)
		}
	})
}
