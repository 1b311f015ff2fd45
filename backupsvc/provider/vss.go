package provider

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-lsp/sluice/backupsvc/vss"
	"github.com/sluice-lsp/sluice/backupsvc/vss/vssv1"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Store is the name space in which our objects lie at vaults and VSS servers.
const Store = "sluice-backup/1"

// VSS is somebody's VSS server. It gives no receipts.
type VSS struct {
	base string
	// key proves us by VSS's signature; token, if set, is sent instead.
	key   *btcec.PrivateKey
	token string
	web   *http.Client
	now   func() time.Time
}

// OpenVSS uses the server whose calls lie under base, e.g. https://host/vss.
func OpenVSS(base string, key *btcec.PrivateKey, token string, web *http.Client, now func() time.Time) (*VSS, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return nil, errkind.Newf(errkind.Invalid, "%q is not the address of a VSS server: want https://HOST[:PORT]/vss", base)
	}
	// A header that is seen can be used for a day.
	if u.Scheme != "https" {
		return nil, errkind.Newf(errkind.Invalid, "%q is not https: whoever listens could write and delete in your name", base)
	}
	// What proves us is for this server, and not for where it points.
	own := *web
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &VSS{base: strings.TrimSuffix(base, "/"), key: key, token: strings.TrimSpace(token), web: &own, now: now}, nil
}

// Close implements Place.
func (v *VSS) Close() error { v.web.CloseIdleConnections(); return nil }

// Get implements Place.
func (v *VSS) Get(ctx context.Context, id string) (Object, error) {
	var got vssv1.GetObjectResponse
	if err := v.call(ctx, "getObject", &vssv1.GetObjectRequest{StoreId: Store, Key: id}, &got); err != nil {
		return Object{}, err
	}
	if got.GetValue().GetKey() != id {
		return Object{}, errkind.Newf(errkind.Invalid, "the server answered with another key than %s", id)
	}
	return Object{Value: got.GetValue().GetValue(), Version: strconv.FormatInt(got.GetValue().GetVersion(), 10)}, nil
}

// Put implements Place.
func (v *VSS) Put(ctx context.Context, id, known string, value []byte) (Stored, error) {
	version, err := number(known)
	if err != nil {
		return Stored{}, err
	}
	err = v.call(ctx, "putObjects", &vssv1.PutObjectRequest{
		StoreId: Store, TransactionItems: []*vssv1.KeyValue{{Key: id, Version: version, Value: value}},
	}, &vssv1.PutObjectResponse{})
	return Stored{Version: strconv.FormatInt(version+1, 10)}, err
}

// number is a version of VSS, 0 for none.
func number(known string) (int64, error) {
	if known == Absent {
		return 0, nil
	}
	n, err := strconv.ParseInt(known, 10, 64)
	if err != nil || n < 1 {
		return 0, errkind.Newf(errkind.Invalid, "%q is no version of this provider", known)
	}
	return n, nil
}

func (v *VSS) call(ctx context.Context, path string, req, into proto.Message) error {
	raw, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, v.base+"/"+path, bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	r.Header.Set("Content-Type", "application/octet-stream")
	r.Header.Set("Authorization", v.authorization())
	resp, err := v.web.Do(r)
	if err != nil {
		return errkind.Wrap(errkind.Unavailable, err, "the server did not answer")
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxObject+1))
	if err != nil {
		return errkind.Wrap(errkind.Unavailable, err, "the server's answer broke off")
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp.StatusCode, body)
	}
	if err := proto.Unmarshal(body, into); err != nil || len(body) > maxObject {
		return errkind.New(errkind.Unavailable, "the server's answer is not VSS's")
	}
	return nil
}

func (v *VSS) authorization() string {
	if v.token != "" {
		return "Bearer " + v.token
	}
	clock, public := strconv.FormatInt(v.now().Unix(), 10), v.key.PubKey().SerializeCompressed()
	digest := sha256.Sum256([]byte(vss.SigningSalt + string(public) + clock))
	return hex.EncodeToString(public) + hex.EncodeToString(ecdsa.SignCompact(v.key, digest[:], true)[1:]) + clock
}

// refusal reads an error. Only VSS's own word for it means that nothing is
// there: a proxy's 404 must not look like an empty store.
func refusal(status int, body []byte) error {
	var e vssv1.ErrorResponse
	if len(body) > 4<<10 || proto.Unmarshal(body, &e) != nil {
		e.Reset()
	}
	kind := errkind.Unavailable
	switch {
	case status == http.StatusNotFound && e.GetErrorCode() == vssv1.ErrorCode_ERROR_CODE_NO_SUCH_KEY:
		kind = errkind.NotFound
	case status == http.StatusConflict && e.GetErrorCode() == vssv1.ErrorCode_ERROR_CODE_CONFLICT:
		kind = errkind.Conflict
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		kind = errkind.Denied
	case e.GetErrorCode() == vssv1.ErrorCode_ERROR_CODE_INVALID_REQUEST, status == http.StatusRequestEntityTooLarge:
		kind = errkind.Exhausted
	}
	return errkind.Newf(kind, "the server refused (HTTP %d): %s", status, words(e.GetMessage()))
}

// words bounds and cleans what a provider says.
func words(s string) string {
	if s == "" {
		return "without a word"
	}
	if len(s) > 300 {
		s = s[:300]
	}
	return strings.ToValidUTF8(s, "?")
}
