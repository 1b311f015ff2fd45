// Package vss serves the vault to wallets that speak VSS, the Versioned Storage
// Service: protobuf bodies over HTTP POST.
//
// It promises the answers that VSS clients rely on, clause by clause: versions,
// the global version, pages, limits, error codes. It promises what the protocol
// leaves open as well: nothing is read of a body before its sender is known, no
// body and no sum of bodies exceeds its bound, and prefixes are text, not patterns.
//
// What it cannot repair is the protocol's own: a header that proves a caller by
// signature is good for a day, for any request. It proves an identity of its own
// kind, which opens nothing that a login opens.
package vss

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-lsp/sluice/backupsvc/engine"
	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/backupsvc/vss/vssv1"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Vault is what the protocol needs of the engine. Each call acts for the one
// identity it names.
type Vault interface {
	Get(ctx context.Context, id vault.Identity, storeID, key string) (backups.Object, error)
	Put(ctx context.Context, id vault.Identity, w vault.Write) (vault.Receipt, error)
	List(ctx context.Context, id vault.Identity, storeID, prefix string, before uint64, limit int) (backups.Page, error)
}

// Config is what the handler needs.
type Config struct {
	Vault    Vault
	Verifier Verifier
	// MaxBody bounds one body, MaxBodies all that are in memory at once.
	MaxBody, MaxBodies int64
	// Strangers is the rate of each address for requests that prove nobody.
	Strangers auth.Rate
	Tracked   int
	Now       func() time.Time
	Log       *zap.Logger
}

// perIdentity bounds one identity's requests under way, so that a few slow
// senders cannot hold all the room there is for bodies.
const perIdentity = 8

// Handler implements http.Handler.
type Handler struct {
	cfg       Config
	strangers *auth.Limiters
	bodies    *semaphore.Weighted

	mu    sync.Mutex
	under map[vault.Identity]int
}

// New makes the handler.
func New(cfg Config) (*Handler, error) {
	if cfg.MaxBody < 1 || cfg.MaxBodies < cfg.MaxBody {
		return nil, errors.New("vss: the bounds of bodies must be positive, and that of all no less than that of one")
	}
	return &Handler{
		cfg: cfg, strangers: auth.NewLimiters(cfg.Strangers, cfg.Tracked), bodies: semaphore.NewWeighted(cfg.MaxBodies), under: map[vault.Identity]int{},
	}, nil
}

// call does one kind of request.
type call func(h *Handler, ctx context.Context, id vault.Identity, body []byte) (proto.Message, error)

func route(path string) call {
	switch path {
	case "/vss/getObject":
		return (*Handler).get
	case "/vss/putObjects":
		return (*Handler).put
	case "/vss/deleteObject":
		return (*Handler).remove
	case "/vss/listKeyVersions":
		return (*Handler).list
	}
	return nil
}

// errBody says that a body is no message of its kind. VSS answers it in plain
// text.
var errBody = errors.New("the body is not the message that this path takes")

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	do := route(r.URL.Path)
	address := addressOf(r)
	if do == nil || r.Method != http.MethodPost {
		if !h.strangers.Allow(address, h.cfg.Now()) {
			plain(w, http.StatusTooManyRequests, "Too many requests: wait a few seconds.")
			return
		}
		plain(w, http.StatusBadRequest, "There is no such call: VSS has POST /vss/getObject, putObjects, deleteObject and listKeyVersions.")
		return
	}
	id, err := h.cfg.Verifier.Identify(r.Header)
	if err != nil {
		if !h.strangers.Allow(address, h.cfg.Now()) {
			err = errkind.New(errkind.Exhausted, "Too many requests without a valid Authorization header: wait a few seconds.")
		}
		h.refuse(w, "", r.URL.Path, err)
		return
	}
	leave, err := h.enter(id)
	if err != nil {
		h.refuse(w, id, r.URL.Path, err)
		return
	}
	defer leave()
	size := h.cfg.MaxBody
	if r.ContentLength > size {
		plain(w, http.StatusRequestEntityTooLarge, "The body is too large: "+strconv.FormatInt(size, 10)+" bytes are allowed.")
		return
	}
	if r.ContentLength >= 0 {
		size = r.ContentLength
	}
	// Twice, for the message that is made of it.
	room := min(2*size, h.cfg.MaxBodies)
	if !h.bodies.TryAcquire(room) {
		h.refuse(w, id, r.URL.Path, errkind.New(errkind.Unavailable, "The server is busy: try again in a moment."))
		return
	}
	defer h.bodies.Release(room)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.cfg.MaxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		plain(w, http.StatusRequestEntityTooLarge, "The body is too large: "+strconv.FormatInt(h.cfg.MaxBody, 10)+" bytes are allowed.")
		return
	}
	if err != nil {
		plain(w, http.StatusBadRequest, "The body ended early.")
		return
	}
	answer, err := do(h, engine.From(r.Context(), address), id, body)
	if errors.Is(err, errBody) {
		plain(w, http.StatusBadRequest, "The body is not the protobuf message that this call takes.")
		return
	}
	if err != nil {
		h.refuse(w, id, r.URL.Path, err)
		return
	}
	h.send(w, http.StatusOK, answer)
}

// enter counts an identity's requests under way.
func (h *Handler) enter(id vault.Identity) (leave func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.under[id] >= perIdentity {
		return nil, errkind.Newf(errkind.Exhausted, "There are already %d requests of this identity under way: wait for one.", perIdentity)
	}
	h.under[id]++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.under[id]--; h.under[id] == 0 {
			delete(h.under, id)
		}
	}, nil
}

func addressOf(r *http.Request) string {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return auth.AddressKey(ap.Addr())
}

func decode(body []byte, into proto.Message) error {
	// Fields of later versions are passed over, as protobuf means it.
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, into); err != nil {
		return errBody
	}
	return nil
}

func (h *Handler) get(ctx context.Context, id vault.Identity, body []byte) (proto.Message, error) {
	var req vssv1.GetObjectRequest
	if err := decode(body, &req); err != nil {
		return nil, err
	}
	obj, err := h.cfg.Vault.Get(ctx, id, req.GetStoreId(), req.GetKey())
	if err != nil {
		return nil, err
	}
	return &vssv1.GetObjectResponse{Value: &vssv1.KeyValue{Key: obj.Key, Version: obj.Version, Value: obj.Value}}, nil
}

func (h *Handler) put(ctx context.Context, id vault.Identity, body []byte) (proto.Message, error) {
	var req vssv1.PutObjectRequest
	if err := decode(body, &req); err != nil {
		return nil, err
	}
	// Counted before anything is made of it.
	if len(req.GetTransactionItems())+len(req.GetDeleteItems()) > vault.MaxItems {
		return nil, errkind.Newf(errkind.Invalid, "A write may have %d items.", vault.MaxItems)
	}
	w := vault.Write{Store: req.GetStoreId(), GlobalVersion: req.GlobalVersion}
	for _, kv := range req.GetTransactionItems() {
		w.Puts = append(w.Puts, vault.Item{Key: kv.GetKey(), Version: kv.GetVersion(), Value: kv.GetValue()})
	}
	for _, kv := range req.GetDeleteItems() {
		w.Deletes = append(w.Deletes, vault.Item{Key: kv.GetKey(), Version: kv.GetVersion()})
	}
	if _, err := h.cfg.Vault.Put(ctx, id, w); err != nil {
		return nil, err
	}
	return &vssv1.PutObjectResponse{}, nil
}

func (h *Handler) remove(ctx context.Context, id vault.Identity, body []byte) (proto.Message, error) {
	var req vssv1.DeleteObjectRequest
	if err := decode(body, &req); err != nil {
		return nil, err
	}
	if req.GetKeyValue() == nil {
		return nil, errkind.New(errkind.Invalid, "key_value is missing: it names what to delete.")
	}
	_, err := h.cfg.Vault.Put(ctx, id, vault.Write{
		Store: req.GetStoreId(), Idempotent: true,
		Deletes: []vault.Item{{Key: req.GetKeyValue().GetKey(), Version: req.GetKeyValue().GetVersion()}},
	})
	if err != nil {
		return nil, err
	}
	return &vssv1.DeleteObjectResponse{}, nil
}

func (h *Handler) list(ctx context.Context, id vault.Identity, body []byte) (proto.Message, error) {
	var req vssv1.ListKeyVersionsRequest
	if err := decode(body, &req); err != nil {
		return nil, err
	}
	limit := vault.MaxPage
	if req.PageSize != nil {
		limit = int(req.GetPageSize())
	}
	var before uint64
	if req.PageToken != nil {
		var err error
		before, err = strconv.ParseUint(req.GetPageToken(), 10, 63)
		// The end of a list is an empty token: taken for a beginning, it would
		// make a careless client go round for ever.
		if err != nil || before == 0 {
			return nil, errkind.New(errkind.Invalid, "The page_token is not one that this server gave; leave it out for the first page.")
		}
	}
	page, err := h.cfg.Vault.List(ctx, id, req.GetStoreId(), req.GetKeyPrefix(), before, limit)
	if err != nil {
		return nil, err
	}
	out := &vssv1.ListKeyVersionsResponse{GlobalVersion: page.Global, NextPageToken: proto.String("")}
	for _, k := range page.Keys {
		out.KeyVersions = append(out.KeyVersions, &vssv1.KeyValue{Key: k.Key, Version: k.Version})
	}
	if page.Next != 0 {
		out.NextPageToken = proto.String(strconv.FormatUint(page.Next, 10))
	}
	return out, nil
}

// answerTo maps an error to VSS's codes. Clients try INTERNAL again and give up
// on INVALID_REQUEST: so a rate is the former, a used-up quota the latter.
func answerTo(err error) (status int, code vssv1.ErrorCode) {
	if errors.Is(err, vault.ErrQuota) {
		return http.StatusBadRequest, vssv1.ErrorCode_ERROR_CODE_INVALID_REQUEST
	}
	switch errkind.Of(err) {
	case errkind.Conflict:
		return http.StatusConflict, vssv1.ErrorCode_ERROR_CODE_CONFLICT
	case errkind.Invalid:
		return http.StatusBadRequest, vssv1.ErrorCode_ERROR_CODE_INVALID_REQUEST
	case errkind.NotFound:
		return http.StatusNotFound, vssv1.ErrorCode_ERROR_CODE_NO_SUCH_KEY
	case errkind.Unauthenticated:
		return http.StatusUnauthorized, vssv1.ErrorCode_ERROR_CODE_AUTH
	case errkind.Denied:
		return http.StatusForbidden, vssv1.ErrorCode_ERROR_CODE_INVALID_REQUEST
	case errkind.Exhausted:
		return http.StatusTooManyRequests, vssv1.ErrorCode_ERROR_CODE_INTERNAL
	case errkind.Unavailable:
		return http.StatusServiceUnavailable, vssv1.ErrorCode_ERROR_CODE_INTERNAL
	case errkind.Internal:
	}
	return http.StatusInternalServerError, vssv1.ErrorCode_ERROR_CODE_INTERNAL
}

func (h *Handler) refuse(w http.ResponseWriter, id vault.Identity, path string, err error) {
	status, code := answerTo(err)
	log := h.cfg.Log.With(zap.String("path", path), zap.String("identity", string(id)), zap.Int("status", status), zap.Error(err))
	if status == http.StatusInternalServerError {
		log.Error("a backup request failed")
	} else {
		log.Debug("a backup request was refused")
	}
	text := errkind.Sentence(err)
	if text == "" {
		text = "Something went wrong on the server. Tell its operator when."
	}
	h.send(w, status, &vssv1.ErrorResponse{ErrorCode: code, Message: text})
}

func (h *Handler) send(w http.ResponseWriter, status int, m proto.Message) {
	raw, err := proto.Marshal(m)
	if err != nil {
		h.cfg.Log.Error("an answer could not be written", zap.Error(err))
		plain(w, http.StatusInternalServerError, "Something went wrong on the server.")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(status)
	_, _ = w.Write(raw)
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n")
}
