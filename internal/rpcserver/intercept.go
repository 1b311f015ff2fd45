package rpcserver

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// MetadataRequestID is the response metadata that names a call in our log.
const MetadataRequestID = "sluice-request-id"

type requestIDKey struct{}

// RequestID names the present call in the log; empty outside of one.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// observer is the outermost interceptor: it names the call, times it, turns
// panics and errors into what the caller may see, and logs the rest.
type observer struct {
	log     *zap.Logger
	now     func() time.Time
	newID   func() string
	handled *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newObserver(log *zap.Logger, now func() time.Time, random io.Reader, reg prometheus.Registerer) (*observer, error) {
	o := &observer{
		log: log, now: now,
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "sluice", Subsystem: "rpc", Name: "handled_total", Help: "Calls by method and gRPC code.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "sluice", Subsystem: "rpc", Name: "seconds", Help: "Time from a unary call's arrival to its answer.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30},
		}, []string{"method"}),
	}
	var mu sync.Mutex
	o.newID = func() string {
		id := make([]byte, 8)
		mu.Lock()
		defer mu.Unlock()
		if _, err := io.ReadFull(random, id); err != nil {
			return "unnamed"
		}
		return hex.EncodeToString(id)
	}
	for _, c := range []prometheus.Collector{o.handled, o.seconds} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return o, nil
}

func (o *observer) finish(ctx context.Context, method string, started time.Time, err error) error {
	requestID := RequestID(ctx)
	code := codes.OK
	var shown error
	if err != nil {
		s := toStatus(ctx, method, err, requestID)
		code, shown = s.Code(), s.Err()
	}
	o.handled.WithLabelValues(method, code.String()).Inc()
	fields := []zap.Field{
		zap.String("request", requestID), zap.String("method", method),
		zap.Stringer("code", code), zap.Duration("took", o.now().Sub(started)), zap.Error(err),
	}
	switch {
	case err == nil, code == codes.Canceled:
		o.log.Debug("call", fields...)
	case code == codes.Internal, code == codes.Unavailable:
		o.log.Error("call failed", fields...)
	default:
		o.log.Info("call refused", fields...)
	}
	return shown
}

// guardPanic turns a panic in a handler into an internal error with its stack
// in the log: one bad call must not end the process that holds HTLCs.
func guardPanic(call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errkind.Wrap(errkind.Internal, fmt.Errorf("panic: %v\n%s", r, debug.Stack()), "")
		}
	}()
	return call()
}

func (o *observer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	started := o.now()
	ctx = context.WithValue(ctx, requestIDKey{}, o.newID())
	_ = grpc.SetHeader(ctx, metadata.Pairs(MetadataRequestID, RequestID(ctx)))
	var resp any
	err := guardPanic(func() (err error) {
		resp, err = handler(ctx, req)
		return err
	})
	o.seconds.WithLabelValues(info.FullMethod).Observe(o.now().Sub(started).Seconds())
	if err = o.finish(ctx, info.FullMethod, started, err); err != nil {
		return nil, err
	}
	return resp, nil
}

func (o *observer) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	started := o.now()
	ctx := context.WithValue(ss.Context(), requestIDKey{}, o.newID())
	_ = ss.SetHeader(metadata.Pairs(MetadataRequestID, RequestID(ctx)))
	err := guardPanic(func() error { return handler(srv, &namedStream{ServerStream: ss, ctx: ctx}) })
	return o.finish(ctx, info.FullMethod, started, err)
}

type namedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *namedStream) Context() context.Context { return s.ctx }
