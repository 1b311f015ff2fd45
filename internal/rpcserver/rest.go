package rpcserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// metadataRemote carries a REST caller's address over the in-memory
// connection. It is believed on in-memory connections only, and REST callers
// cannot set it: no HTTP header maps to it.
const metadataRemote = "sluice-remote-address"

type restServer struct {
	listener net.Listener
	inner    *memoryListener
	conn     *grpc.ClientConn
	http     *http.Server
}

func newREST(ctx context.Context, cfg Config, services []Service) (*restServer, error) {
	r := &restServer{inner: newMemoryListener()}
	var err error
	r.conn, err = grpc.NewClient("passthrough:///rest",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return r.inner.dial(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(cfg.MaxMessageBytes), grpc.MaxCallSendMsgSize(cfg.MaxMessageBytes)),
		grpc.WithUnaryInterceptor(checkedUnary), grpc.WithStreamInterceptor(checkedStream),
	)
	if err != nil {
		return nil, err
	}
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, jsonBody{&runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
		}}),
		runtime.WithIncomingHeaderMatcher(incomingHeader),
		runtime.WithOutgoingHeaderMatcher(outgoingHeader),
		runtime.WithMetadata(func(_ context.Context, req *http.Request) metadata.MD {
			return metadata.Pairs(metadataRemote, req.RemoteAddr)
		}),
		runtime.WithErrorHandler(writeError),
		runtime.WithStreamErrorHandler(func(_ context.Context, err error) *status.Status { return status.Convert(err) }),
		runtime.WithRoutingErrorHandler(writeRoutingError),
	)
	for _, s := range services {
		if err := s.RegisterREST(ctx, mux, r.conn); err != nil {
			return nil, fmt.Errorf("routes of %s: %w", s.Name(), err)
		}
	}
	if r.listener, err = listen(ctx, cfg.RESTAddress); err != nil {
		return nil, err
	}
	logErrors, err := zap.NewStdLogAt(cfg.Log, zap.DebugLevel)
	if err != nil {
		return nil, err
	}
	r.http = &http.Server{
		Handler:           limitBody(mux, int64(cfg.MaxMessageBytes)),
		TLSConfig:         cfg.TLS.Clone(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          logErrors,
	}
	return r, nil
}

func (r *restServer) close(ctx context.Context) {
	if err := r.http.Shutdown(ctx); err != nil {
		_ = r.http.Close()
	}
	_ = r.conn.Close()
}

func limitBody(next http.Handler, limit int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &limitedBody{ReadCloser: http.MaxBytesReader(w, r.Body, limit)}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), queryKey{}, r.URL.RawQuery)))
	})
}

// incomingHeader lets through the macaroon and nothing else. Authorization
// needs no entry: the gateway always passes it on.
func incomingHeader(name string) (string, bool) {
	switch strings.ToLower(name) {
	case auth.MetadataMacaroon, "grpc-metadata-macaroon":
		return auth.MetadataMacaroon, true
	}
	return "", false
}

func outgoingHeader(name string) (string, bool) {
	if name == MetadataRequestID {
		return "Sluice-Request-Id", true
	}
	return "", false
}

// restError is the body of every REST error.
type restError struct {
	Kind      string `json:"kind,omitempty"`
	Message   string `json:"message"`
	RequestID string `json:"request_id,omitempty"`
}

func writeError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	if body, ok := r.Body.(*limitedBody); ok && body.over > 0 {
		writeJSON(w, http.StatusRequestEntityTooLarge, restError{
			Kind: string(errkind.Invalid), Message: fmt.Sprintf("The body is larger than this server takes, which is %d bytes: send less in one call.", body.over),
		})
		return
	}
	s := status.Convert(err)
	body := restError{Message: s.Message()}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			body.Kind = d.GetReason()
		case *errdetails.RequestInfo:
			body.RequestID = d.GetRequestId()
		}
	}
	if body.Kind == "" {
		body = gatewaysOwn(s)
	}
	code := HTTPStatus(s.Code())
	if code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	writeJSON(w, code, body)
}

func writeRoutingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, code int) {
	writeJSON(w, code, restError{Message: "No such route or method: see the OpenAPI documents in docs/openapi."})
}

func writeJSON(w http.ResponseWriter, code int, body restError) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) //nolint:errchkjson // the caller hung up: there is nobody to tell
}

// callerAddress is the caller's address for limits: the peer's, or for REST
// the one that its handler noted.
func callerAddress(ctx context.Context) netip.Addr {
	if !inMemory(ctx) {
		return auth.PeerAddress(ctx)
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if values := md.Get(metadataRemote); len(values) == 1 {
		if ap, err := netip.ParseAddrPort(values[0]); err == nil {
			return ap.Addr()
		}
	}
	return netip.Addr{}
}
