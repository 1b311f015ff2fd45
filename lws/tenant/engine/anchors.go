package engine

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant"
)

// anchors are the ends of the log that this process has seen, in a file beside the
// database: one line each, a number and a hash. Lines are only ever added.
type anchors struct {
	path string
	mu   sync.Mutex
	last tenant.Head
}

func (a *anchors) read() ([]tenant.Head, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, err := os.Open(a.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("noted ends of the log: %w", err)
	}
	defer func() { _ = f.Close() }()
	var out []tenant.Head
	for lines := bufio.NewScanner(f); ; {
		if !lines.Scan() {
			return out, lines.Err()
		}
		number, hash, _ := strings.Cut(lines.Text(), " ")
		seq, err := strconv.ParseInt(number, 10, 64)
		raw, hexErr := hex.DecodeString(hash)
		if err != nil || hexErr != nil || len(raw) != 32 {
			// The last line is cut short when the machine stops while it is written: it
			// proves nothing, and hides nothing that another line tells.
			continue
		}
		out = append(out, tenant.Head{Seq: seq, Hash: [32]byte(raw)})
	}
}

// add notes an end, unless it was the last to be noted.
func (a *anchors) add(h tenant.Head) (err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if h == a.last || h.Seq == 0 {
		return nil
	}
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// The line break comes first: it ends a line that was cut short.
	if _, err := fmt.Fprintf(f, "\n%d %x", h.Seq, h.Hash); err != nil {
		return err
	}
	a.last = h
	return f.Sync()
}

func (e *Engine) note(h tenant.Head) error { return e.anchors.add(h) }

// Check is what a check of the log found.
type Check struct {
	Head     tenant.Head
	Anchors  int
	Problems []string
}

// Verify checks the log from its first entry, against all that was noted.
func (e *Engine) Verify(ctx context.Context) (Check, error) {
	noted, err := e.anchors.read()
	if err != nil {
		return Check{}, err
	}
	chain, err := e.store.Verify(ctx, noted)
	if err != nil {
		return Check{}, err
	}
	c := Check{Head: chain.Head(), Anchors: len(noted), Problems: chain.Problems()}
	e.broken.Store(int64(len(c.Problems)))
	return c, nil
}

// Audit is a page of the log, newest first; id is empty for everybody's.
func (e *Engine) Audit(ctx context.Context, id string, before int64, limit int32) ([]tenant.Entry, error) {
	return e.store.Audit(ctx, id, before, limit)
}

// Tenant gives one tenant and its plan.
func (e *Engine) Tenant(ctx context.Context, id string) (tenant.Tenant, tenant.Plan, error) {
	return e.store.Tenant(ctx, id)
}

// PutReport keeps what the supervisor of a hosted node says, and gives the tenant with
// its wish. It is no change of the registry, and is not in its log.
func (e *Engine) PutReport(ctx context.Context, id, report string) (tenant.Tenant, error) {
	return e.store.PutReport(ctx, id, report, e.now())
}

// Report is what was said last, and when; empty if nothing was.
func (e *Engine) Report(ctx context.Context, id string) (string, time.Time, error) {
	return e.store.Report(ctx, id)
}

// Gateway is the gateway's node.
func (e *Engine) Gateway() ln.PubKey { return e.o.Gateway }

// All gives the registry as it is.
func (e *Engine) All(ctx context.Context) (map[string]tenant.Tenant, map[string]tenant.Plan, error) {
	d, err := e.fresh(ctx)
	if err != nil {
		return nil, nil, err
	}
	return d.Tenants, d.Plans, nil
}

// SetPlan makes a plan, or changes it for all that are under it.
func (e *Engine) SetPlan(ctx context.Context, actor string, p tenant.Plan) error {
	if err := tenant.CheckPlan(p, e.o.Services); err != nil {
		return err
	}
	return e.setPlan(ctx, actor, p)
}

// Collectors are the registry's metrics.
func (e *Engine) Collectors() []prometheus.Collector {
	count := func(status tenant.Status) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "sluice", Subsystem: "tenant", Name: "registered", Help: "Tenants by standing.", ConstLabels: prometheus.Labels{"status": string(status)},
		}, func() float64 {
			n := 0
			for _, t := range e.current.Load().Tenants {
				if t.Status == status {
					n++
				}
			}
			return float64(n)
		})
	}
	out := []prometheus.Collector{prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "sluice", Subsystem: "tenant", Name: "audit_problems", Help: "What the last check of the log of tenants found wrong.",
	}, func() float64 { return float64(e.broken.Load()) })}
	for _, s := range tenant.Statuses() {
		out = append(out, count(s))
	}
	return out
}

// Actor names who acts, for the log.
func Actor(tenantID, user string) string {
	if tenantID == "" {
		return "operator"
	}
	return "tenant/" + tenantID + "/" + user
}

// NotAdmin refuses a change to a user that may not make it.
func NotAdmin() error {
	return errkind.New(errkind.Denied, "Only an admin of the tenant may do this: ask one.")
}
