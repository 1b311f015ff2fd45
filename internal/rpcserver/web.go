package rpcserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// WebConfig is for a protocol over HTTP that is not ours to shape, on a port of
// its own: its handler proves callers and bounds bodies by its own rules.
type WebConfig struct {
	// What the protocol is called in errors and logs.
	What    string
	Address string
	TLS     *tls.Config
	Handler http.Handler
	// StopTimeout is how long requests may take to end when stopping.
	StopTimeout time.Duration
	Log         *zap.Logger
}

// Web serves one such protocol.
type Web struct {
	cfg      WebConfig
	listener net.Listener
	http     *http.Server
}

// ListenWeb opens the port. It accepts nothing yet: Run does.
func ListenWeb(ctx context.Context, cfg WebConfig) (*Web, error) {
	if cfg.TLS == nil {
		return nil, fmt.Errorf("%s: TLS is not optional", cfg.What)
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = DefaultStopTimeout
	}
	l, err := listen(ctx, cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.What, err)
	}
	logErrors, err := zap.NewStdLogAt(cfg.Log, zap.DebugLevel)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Web{cfg: cfg, listener: l, http: &http.Server{
		Handler: cfg.Handler, TLSConfig: cfg.TLS.Clone(), MaxHeaderBytes: 16 << 10, ErrorLog: logErrors,
		// A slow sender holds room for its body no longer than this.
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute,
	}}, nil
}

// Addr is the address that it listens on; tests ask for port 0.
func (w *Web) Addr() net.Addr { return w.listener.Addr() }

// Run serves until the context ends; requests under way may end.
func (w *Web) Run(ctx context.Context) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		// The context that ended is what brought us here: this one is for stopping.
		ctx, cancel := context.WithTimeout(context.Background(), w.cfg.StopTimeout)
		defer cancel()
		if err := w.http.Shutdown(ctx); err != nil {
			_ = w.http.Close()
		}
	})
	err := w.http.ServeTLS(w.listener, "", "")
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", w.cfg.What, err)
}
