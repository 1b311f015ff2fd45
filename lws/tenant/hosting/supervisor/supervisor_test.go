package supervisor_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/lws/tenant/hosting"
	"github.com/sluice-lsp/sluice/lws/tenant/hosting/supervisor"
)

// world is a node with its signer and a registry: as on stock lnd the node ends when its
// signer does.
type world struct {
	mu         sync.Mutex
	up         bool
	signer     bool
	htlcs      int
	disabled   bool
	drain      bool
	elsewhere  string
	deskAway   bool
	refuse     error
	starts     int
	stops      int
	reports    []supervisor.Report
	certEnds   time.Time
	startsFail int
}

func (w *world) set(f func(*world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

func (w *world) Look(context.Context) (bool, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.signer {
		w.up = false
	}
	return w.up, w.up
}

func (w *world) HTLCs(context.Context) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.htlcs, w.refuse
}

func (w *world) SetDisabled(_ context.Context, disabled bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse == nil {
		w.disabled = disabled
	}
	return w.refuse
}

func (w *world) Start(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.startsFail > 0 {
		w.startsFail--
		return errors.New("no such program")
	}
	w.starts++
	w.up = w.signer
	return nil
}

func (w *world) Stop(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stops++
	w.up = false
	return nil
}

func (w *world) Probe(context.Context) (map[string]time.Duration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.signer {
		return nil, errors.New("connection refused")
	}
	return map[string]time.Duration{"SignMessage": 50 * time.Millisecond}, nil
}

func (w *world) CertificateEnds(context.Context) (time.Time, error) { return w.certEnds, nil }

func (w *world) Report(_ context.Context, r supervisor.Report) (supervisor.Wish, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deskAway {
		return supervisor.Wish{}, errors.New("away")
	}
	w.reports = append(w.reports, r)
	return supervisor.Wish{Drain: w.drain, Elsewhere: w.elsewhere}, nil
}

func watch(t *testing.T, w *world) *supervisor.Watch {
	t.Helper()
	return watchAs(t, w, supervisor.Wish{})
}

func watchAs(t *testing.T, w *world, heard supervisor.Wish) *supervisor.Watch {
	t.Helper()
	s := supervisor.New(supervisor.Options{
		Tenant: "acme", Wish: heard, Node: w, Signer: w, Desk: w, Every: time.Second, Probe: 30 * time.Second, Timeout: 5 * time.Second,
		Backoff: hosting.Backoff{First: 2 * time.Second, Most: time.Minute, Healthy: 5 * time.Minute}, Now: time.Now, Log: zap.NewNop(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestSupervisor: a signer that goes for an hour and comes back, a program that is not
// there at first, a registry that is away, a drain.
func TestSupervisor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{up: true, signer: true, certEnds: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
		s := watch(t, w)
		pass(95 * time.Second)
		require.Equal(t, hosting.Running, s.Last().State)
		require.Equal(t, 4, s.Last().Signer.Latencies[0].Samples, "looked at each half minute")
		require.Equal(t, w.certEnds, s.Last().CertificateEnds)

		w.set(func(w *world) { w.signer, w.startsFail = false, 1 })
		pass(time.Hour)
		require.Equal(t, hosting.Waiting, s.Last().State)
		require.Contains(t, s.Last().Said, "signer does not answer")
		require.False(t, s.Last().Signer.Up)
		require.Less(t, s.Last().Signer.Permille, 10)
		w.set(func(w *world) { require.Zero(t, w.starts); w.signer = true })
		pass(10 * time.Second)
		require.Equal(t, hosting.Running, s.Last().State)
		require.Equal(t, 2, s.Last().Restarts, "the first one failed")
		w.set(func(w *world) { require.Equal(t, 1, w.starts) })

		w.set(func(w *world) { w.drain, w.htlcs, w.refuse = true, 1, errors.New("busy") })
		pass(10 * time.Second)
		w.set(func(w *world) { require.False(t, w.disabled); w.refuse = nil })
		pass(10 * time.Second)
		w.set(func(w *world) { require.True(t, w.disabled, "tried again"); require.Zero(t, w.stops) })
		require.Equal(t, 1, s.Last().HTLCs)
		w.set(func(w *world) { w.deskAway, w.htlcs = true, 0 })
		pass(10 * time.Second)
		require.Equal(t, hosting.Drained, s.Last().State, "the wish counts that was heard last")
		w.set(func(w *world) { w.deskAway, w.drain = false, false })
		pass(10 * time.Second)
		require.Equal(t, hosting.Running, s.Last().State)
		w.set(func(w *world) { require.False(t, w.disabled); require.Equal(t, 1, w.stops) })

		reg := prometheus.NewPedanticRegistry()
		require.NoError(t, reg.Register(supervisor.NewMetrics(func() []*supervisor.Watch { return []*supervisor.Watch{s} })))
		families, err := reg.Gather()
		require.NoError(t, err)
		values := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				values[name] = m.GetGauge().GetValue()
			}
		}
		require.InDelta(t, 1.0, values["sluice_hosting_signer_up acme"], 0)
		require.InDelta(t, 0.01, values["sluice_hosting_signer_latency_share SignMessage 0.99 acme"], 1e-9)
		require.InDelta(t, 1.0, values["sluice_hosting_node_state running acme"], 0)
		require.InDelta(t, 0.0, values["sluice_hosting_node_state waiting acme"], 0)
		require.InDelta(t, float64(w.certEnds.Unix()), values["sluice_hosting_signer_certificate_end_seconds acme"], 0)
	})
}

// TestSupervisorOfAMovedNode ends it, says where it is now, and keeps to it while the
// registry is away.
func TestSupervisorOfAMovedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{up: true, signer: true, htlcs: 1}
		s := watch(t, w)
		pass(5 * time.Second)
		require.Equal(t, hosting.Running, s.Last().State)
		w.set(func(w *world) { w.elsewhere = "beta:/lnd" })
		pass(5 * time.Second)
		require.Equal(t, hosting.Drained, s.Last().State)
		require.Contains(t, s.Last().Said, "beta:/lnd")
		w.set(func(w *world) { w.deskAway = true })
		pass(time.Hour)
		w.set(func(w *world) { require.Zero(t, w.starts); require.Equal(t, 1, w.stops) })
		w.set(func(w *world) { w.deskAway, w.elsewhere = false, "" })
		pass(10 * time.Second)
		require.Equal(t, hosting.Running, s.Last().State, "it was moved back")
	})
}

// TestSupervisorBeginsWithAMovedNode while the registry is away: what was heard before
// counts.
func TestSupervisorBeginsWithAMovedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{signer: true, deskAway: true}
		watchAs(t, w, supervisor.Wish{Elsewhere: "beta:/lnd"})
		pass(time.Hour)
		w.set(func(w *world) { require.Zero(t, w.starts) })
	})
}
