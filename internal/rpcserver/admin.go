package rpcserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// AdminConfig is for the endpoint that operators' tools read on this machine.
type AdminConfig struct {
	// Address must be a loopback one: nothing here asks who is calling.
	Address string
	Metrics prometheus.Gatherer
	// Ready says nil when the daemon can do its work, or what is missing.
	Ready func(context.Context) error
	// Profiling adds /debug/pprof.
	Profiling bool
}

// Admin serves /metrics, /live and /ready.
type Admin struct {
	listener net.Listener
	http     *http.Server
}

// ListenAdmin opens the admin port. It has a mux of its own, never the
// process-wide one, on which any imported package may have put handlers.
func ListenAdmin(ctx context.Context, cfg AdminConfig) (*Admin, error) {
	host, _, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("admin address: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("admin address %s: use a loopback address (127.0.0.1); to read metrics from elsewhere, put a proxy that asks who is calling before it", cfg.Address)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "live") })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		if err := cfg.Ready(r.Context()); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ready")
	})
	if cfg.Profiling {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	l, err := listen(ctx, cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	return &Admin{listener: l, http: &http.Server{
		Handler: rejectForeignHosts(mux), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
	}}, nil
}

// rejectForeignHosts keeps a web page that an operator visits from reading the
// endpoint through a name that it makes resolve to this machine.
func rejectForeignHosts(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "call this endpoint by its loopback address", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Addr is the address that the endpoint listens on.
func (a *Admin) Addr() net.Addr { return a.listener.Addr() }

// Run serves until the context ends.
func (a *Admin) Run(ctx context.Context) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = a.http.Close()
	})
	err := a.http.Serve(a.listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("admin: %w", err)
}
