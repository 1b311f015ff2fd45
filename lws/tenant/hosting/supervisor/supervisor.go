package supervisor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lws/tenant/hosting"
)

// Node is a hosted node as it is looked at and handled.
type Node interface {
	// Look says whether lnd answers, and whether it serves every call.
	Look(ctx context.Context) (up, serving bool)
	// HTLCs counts those in its channels.
	HTLCs(ctx context.Context) (int, error)
	SetDisabled(ctx context.Context, disabled bool) error
	// Start returns once it was started, and starts it once only.
	Start(ctx context.Context) error
	// Stop ends it in order.
	Stop(ctx context.Context) error
}

// Signer is the other end of the node.
type Signer interface {
	// Probe makes calls that do nothing and tells what each took.
	Probe(ctx context.Context) (map[string]time.Duration, error)
	// CertificateEnds is when the certificate that it shows ends.
	CertificateEnds(ctx context.Context) (time.Time, error)
}

// Desk is the registry.
type Desk interface {
	// Report tells it what was seen, and hears what the node shall do.
	Report(ctx context.Context, r Report) (Wish, error)
}

// Wish is what the registry says of a node.
type Wish struct {
	// Drain: it shall stop, without HTLCs.
	Drain bool
	// Elsewhere is the place that the node was moved to; empty if it belongs here.
	Elsewhere string
}

// Report is what is known of a node.
type Report struct {
	Tenant          string
	State           hosting.State
	Said            string
	Restarts        int
	HTLCs           int
	Signer          hosting.Summary
	Timeout         time.Duration
	CertificateEnds time.Time
}

// Options are what a watch needs.
type Options struct {
	Tenant string
	Node   Node
	Signer Signer
	Desk   Desk
	// Wish is the last one that an earlier supervisor heard.
	Wish    Wish
	Backoff hosting.Backoff
	// Every is how often the node is looked at, Probe how often its signer, while all is
	// well: of a node that is down the signer is asked each time.
	Every, Probe time.Duration
	// Timeout is the node's for a call to its signer.
	Timeout time.Duration
	Now     func() time.Time
	Log     *zap.Logger
}

// Watch is one node's.
type Watch struct {
	o      Options
	node   hosting.Node
	signer hosting.Signer
	// wish is the last one that was heard.
	wish   Wish
	probed time.Time
	said   string
	// why the signer's last probe failed.
	why string

	mu   sync.Mutex
	last Report
}

// New prepares a watch.
func New(o Options) *Watch {
	return &Watch{o: o, wish: o.Wish, last: Report{Tenant: o.Tenant, State: hosting.Waiting, Timeout: o.Timeout}}
}

// Last is what was seen last.
func (w *Watch) Last() Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// Run looks until ctx ends.
func (w *Watch) Run(ctx context.Context) { pace.Every(ctx, w.o.Every, w.look) }

// look is one round. No step of it keeps the next from being made.
func (w *Watch) look(ctx context.Context) {
	r := Report{Tenant: w.o.Tenant, Timeout: w.o.Timeout, HTLCs: -1, CertificateEnds: w.last.CertificateEnds}
	f := hosting.Facts{Now: w.o.Now(), Drain: w.wish.Drain, Elsewhere: w.wish.Elsewhere != "", HTLCs: -1}
	f.Up, f.Serving = w.o.Node.Look(ctx)
	if !f.Up || f.Now.Sub(w.probed) >= w.o.Probe {
		w.probe(ctx, f.Now, &r)
	}
	r.Signer = w.signer.Summary()
	f.SignerUp = r.Signer.Up
	if f.Serving && f.Drain && !f.Elsewhere {
		n, err := w.o.Node.HTLCs(ctx)
		if err == nil {
			f.HTLCs = n
		} else {
			w.said = err.Error()
		}
	}
	before := w.node.State
	next, actions := w.node.Next(f, w.o.Backoff)
	for _, a := range actions {
		if err := w.act(ctx, a); err != nil {
			w.said = fmt.Sprintf("%s: %v", a, err)
			w.o.Log.Warn("a hosted node could not be handled", zap.String("tenant", w.o.Tenant), zap.String("action", string(a)), zap.Error(err))
			if a == hosting.Disable || a == hosting.Enable {
				// Told is what was done: it is tried again.
				next.Told = !next.Told
			}
		}
	}
	w.node = next
	if w.node.State != before {
		w.o.Log.Info("a hosted node stands otherwise", zap.String("tenant", w.o.Tenant), zap.String("from", string(before)), zap.String("to", string(w.node.State)))
	}
	switch {
	case f.Elsewhere:
		w.said = "its key is claimed for another place, where it was moved to: " + w.wish.Elsewhere + ". It must not run here"
	case w.node.State == hosting.Running && f.SignerUp:
		w.said = ""
	case w.node.State == hosting.Waiting && !f.SignerUp:
		w.said = "it is down, and its signer does not answer as it should: it is started once that does: " + w.why
	}
	r.State, r.Said, r.Restarts, r.HTLCs = w.node.State, w.said, len(w.node.Starts), f.HTLCs
	w.tell(ctx, r)
}

func (w *Watch) probe(ctx context.Context, now time.Time, r *Report) {
	w.probed = now
	took, err := w.o.Signer.Probe(ctx)
	if ctx.Err() != nil {
		return // an interruption says nothing about the signer
	}
	w.signer.Add(hosting.Sample{At: now, Up: err == nil, Took: took})
	if err != nil {
		w.said, w.why = err.Error(), err.Error()
		return
	}
	if ends, err := w.o.Signer.CertificateEnds(ctx); err == nil {
		r.CertificateEnds = ends
	}
}

func (w *Watch) act(ctx context.Context, a hosting.Action) error {
	w.o.Log.Info("handling a hosted node", zap.String("tenant", w.o.Tenant), zap.String("action", string(a)))
	switch a {
	case hosting.Start:
		return w.o.Node.Start(ctx)
	case hosting.Stop:
		return w.o.Node.Stop(ctx)
	case hosting.Disable, hosting.Enable:
		return w.o.Node.SetDisabled(ctx, a == hosting.Disable)
	}
	return nil
}

func (w *Watch) tell(ctx context.Context, r Report) {
	w.mu.Lock()
	w.last = r
	w.mu.Unlock()
	wish, err := w.o.Desk.Report(ctx, r)
	if err != nil {
		if ctx.Err() == nil {
			w.o.Log.Warn("the registry did not hear of a hosted node: its last wish counts", zap.String("tenant", w.o.Tenant), zap.Error(err))
		}
		return
	}
	if wish.Elsewhere != "" && wish.Elsewhere != w.wish.Elsewhere {
		w.o.Log.Error("a hosted node's key is claimed for another place: it is stopped here and not started again", zap.String("tenant", w.o.Tenant), zap.String("elsewhere", wish.Elsewhere))
	}
	w.wish = wish
}
