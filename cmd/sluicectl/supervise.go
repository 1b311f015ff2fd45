package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd/remotesigner"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
	"github.com/sluice-lsp/sluice/lws/tenant/hosting"
	"github.com/sluice-lsp/sluice/lws/tenant/hosting/supervisor"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// hostedDir is where tenant add notes the nodes of this machine, below the data directory.
const hostedDir = "hosted"

// TenantSuperviseCmd keeps hosted nodes running.
type TenantSuperviseCmd struct {
	Every   time.Duration `default:"2s" help:"How often each node is looked at (${default})."`
	Probe   time.Duration `default:"30s" help:"How often each signer is (${default})."`
	Metrics string        `placeholder:"HOST:PORT" help:"Serve metrics here; choose loopback."`
}

// rescan is how soon a node that was added is supervised.
const rescan = 5 * time.Second

// signerTimeout is what the configuration of a hosted node gives its signer.
const signerTimeout = 5 * time.Second

// Run implements the command.
func (c TenantSuperviseCmd) Run(w *world, g *Globals) error {
	s, err := g.connect()
	if err != nil {
		return err
	}
	defer s.close()
	all := &supervised{cmd: c, client: tenantsOf(s), now: w.now, log: logTo(w.stderr), dir: filepath.Join(g.DataDir, hostedDir), running: map[string]*watched{}}
	ctx, cancel := context.WithCancel(w.ctx)
	defer all.tasks.Wait()
	defer cancel()
	if c.Metrics != "" {
		if err := all.serveMetrics(ctx, c.Metrics); err != nil {
			return err
		}
	}
	pace.Every(ctx, rescan, all.scan)
	return nil
}

func logTo(w io.Writer) *zap.Logger {
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.ISO8601TimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(cfg), zapcore.Lock(zapcore.AddSync(w)), zap.InfoLevel))
}

// supervised are the nodes of this machine.
type supervised struct {
	cmd    TenantSuperviseCmd
	client tenantv1.TenantOperatorServiceClient
	now    func() time.Time
	log    *zap.Logger
	dir    string
	tasks  sync.WaitGroup

	mu      sync.Mutex
	running map[string]*watched
}

// watched is a node that is looked after, as its note was then.
type watched struct {
	note  []byte
	watch *supervisor.Watch
	// end ends the watch, and returns when it has ended. The node stays.
	end func()
}

// scan takes up the nodes that are not watched yet.
func (s *supervised) scan(ctx context.Context) {
	files, err := filepath.Glob(filepath.Join(s.dir, "*.json"))
	if err != nil {
		s.log.Error("the list of hosted nodes cannot be read", zap.Error(err))
		return
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err == nil && !s.changed(file, raw) {
			continue
		}
		var n hostedNode
		if err == nil {
			n, err = parseHosted(raw)
		}
		if err == nil {
			err = s.take(ctx, file, raw, n)
		}
		if err != nil {
			s.log.Error("a hosted node cannot be supervised yet", zap.String("file", file), zap.Error(err))
		}
	}
}

// changed says whether a note has to be taken up. One that was written anew, as when its
// node was moved, has its watch ended: what it knows is of before.
func (s *supervised) changed(file string, raw []byte) bool {
	s.mu.Lock()
	old := s.running[file]
	s.mu.Unlock()
	if old == nil {
		return true
	}
	if bytes.Equal(old.note, raw) {
		return false
	}
	old.end()
	s.mu.Lock()
	delete(s.running, file)
	s.mu.Unlock()
	return true
}

func (s *supervised) take(ctx context.Context, file string, raw []byte, n hostedNode) error {
	probe := signerProbe{tenant: n.Tenant, spend: n.Probe}
	if n.Node != "" {
		key, err := ln.ParsePubKey(n.Node)
		if err != nil {
			return err
		}
		probe.node = key
	}
	signer, err := n.dialSigner()
	if err != nil {
		return err
	}
	probe.client = signer
	watch := supervisor.New(supervisor.Options{
		Tenant: n.Tenant, Node: &nodeProcess{n: n}, Signer: probe, Desk: desk{client: s.client, node: probe.node, place: tenant.Place{ID: n.PlaceID, Words: n.Place}, file: file, log: s.log}, Wish: supervisor.Wish{Elsewhere: n.MovedTo},
		Backoff: hosting.Backoff{First: 2 * time.Second, Most: 2 * time.Minute, Healthy: 5 * time.Minute},
		Every:   s.cmd.Every, Probe: s.cmd.Probe, Timeout: signerTimeout, Now: s.now, Log: s.log,
	})
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	s.mu.Lock()
	s.running[file] = &watched{note: raw, watch: watch, end: func() { cancel(); <-done }}
	s.mu.Unlock()
	s.log.Info("supervising", zap.String("tenant", n.Tenant), zap.String("node", n.RPC))
	s.tasks.Go(func() {
		defer close(done)
		defer cancel()
		watch.Run(ctx)
		_ = signer.Close()
	})
	return nil
}

func (s *supervised) watches() []*supervisor.Watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*supervisor.Watch
	for _, w := range s.running {
		out = append(out, w.watch)
	}
	return out
}

func (s *supervised) serveMetrics(ctx context.Context, address string) error {
	reg := prometheus.NewRegistry()
	if err := reg.Register(supervisor.NewMetrics(s.watches)); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	server := &http.Server{Handler: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}), ReadHeaderTimeout: 5 * time.Second}
	s.tasks.Go(func() {
		<-ctx.Done()
		_ = server.Close()
	})
	s.tasks.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("metrics are served no more", zap.Error(err))
		}
	})
	return nil
}

// desk is the registry, for one node at its place.
type desk struct {
	client tenantv1.TenantOperatorServiceClient
	// node is zero, and place empty, for a node that was noted before they were.
	node  ln.PubKey
	place tenant.Place
	// file is the node's note.
	file string
	log  *zap.Logger
}

// deskTimeout keeps a registry that hangs from holding a node up.
const deskTimeout = 5 * time.Second

// Report implements supervisor.Desk.
func (d desk) Report(ctx context.Context, r supervisor.Report) (supervisor.Wish, error) {
	ctx, cancel := context.WithTimeout(ctx, deskTimeout)
	defer cancel()
	h := &tenantv1.Hosting{
		State: tenantv1.HostingState(tenantv1.HostingState_value["HOSTING_STATE_"+strings.ToUpper(string(r.State))]), Said: r.Said,
		Restarts: uint32(r.Restarts), Htlcs: uint32(max(0, r.HTLCs)), SignerUp: r.Signer.Up, AvailabilityPermille: uint32(r.Signer.Permille), TimeoutMs: r.Timeout.Milliseconds(), //nolint:gosec // small counts
	}
	if !r.CertificateEnds.IsZero() {
		h.CertificateEndsMs = r.CertificateEnds.UnixMilli()
	}
	for _, l := range r.Signer.Latencies {
		h.Latencies = append(h.Latencies, &tenantv1.SigningLatency{Call: l.Call, P50Us: l.P50.Microseconds(), P99Us: l.P99.Microseconds(), Samples: uint32(l.Samples)}) //nolint:gosec // as above
	}
	req := &tenantv1.ReportHostingRequest{Tenant: r.Tenant, Hosting: h, PlaceId: d.place.ID, Place: d.place.Words}
	if !d.node.IsZero() {
		req.NodeKey = d.node[:]
	}
	got, err := d.client.ReportHosting(ctx, req)
	if err != nil {
		return supervisor.Wish{}, err
	}
	if err := d.keep(got.GetElsewhere()); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.log.Error("where a hosted node belongs could not be noted: a supervisor that begins while sluiced is away does not know it", zap.String("file", d.file), zap.Error(err))
	}
	return supervisor.Wish{Drain: got.GetDrain(), Elsewhere: got.GetElsewhere()}, nil
}

func (n hostedNode) dialSigner() (*remotesigner.Client, error) {
	cfg := remotesigner.Config{Address: n.Signer, Timeout: signerTimeout}
	for name, to := range map[string]*[]byte{onboard.FileCert: &cfg.Certificate, onboard.FileMacaroon: &cfg.Macaroon} {
		raw, err := os.ReadFile(filepath.Join(n.Dir, name))
		if err != nil {
			return nil, err
		}
		*to = raw
	}
	return remotesigner.Dial(cfg)
}

// signerProbe makes calls at a signer that do nothing, of the kinds that each payment
// needs: a shared key with a stranger's key, the onboarding's message, a spend of nothing.
type signerProbe struct {
	tenant string
	// node is the key that the signer must have; zero for a node that was noted before
	// this was asked.
	node ln.PubKey
	// spend is signed as well, unless it is empty: that is what channels and coins need.
	spend  []byte
	client prober
}

// prober is a signer that is probed.
type prober interface {
	SharedKey(ctx context.Context, key ln.KeyLocator, with ln.PubKey) error
	SignMessage(ctx context.Context, key ln.KeyLocator, msg []byte) ([]byte, error)
	SignPsbt(ctx context.Context, packet []byte) ([]byte, error)
	Certificate(ctx context.Context) (*x509.Certificate, error)
}

// errOtherSeed: the node would not notice. Its signatures are worth nothing from then on,
// and a peer closes its channels over them.
var errOtherSeed = errors.New("the signer signs with ANOTHER SEED than the node's: open the right wallet there")

// Probe implements supervisor.Signer.
func (p signerProbe) Probe(ctx context.Context) (map[string]time.Duration, error) {
	secret, err := btcec.NewPrivateKey()
	if err != nil {
		return nil, err
	}
	stranger, err := ln.PubKeyFromBytes(secret.PubKey().SerializeCompressed())
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	node := ln.KeyLocator{Family: 6}
	took := map[string]time.Duration{}
	began := time.Now()
	if err := p.client.SharedKey(ctx, node, stranger); err != nil {
		return nil, err
	}
	took["DeriveSharedKey"], began = time.Since(began), time.Now()
	msg := onboard.ProofMessage(p.tenant, nonce)
	sig, err := p.client.SignMessage(ctx, node, msg)
	if err != nil {
		return nil, err
	}
	took["SignMessage"] = time.Since(began)
	if !p.node.IsZero() && !onboard.SignedBy(p.node, msg, sig) {
		return nil, errOtherSeed
	}
	if len(p.spend) > 0 {
		began = time.Now()
		if _, err := p.client.SignPsbt(ctx, p.spend); err != nil {
			return nil, err
		}
		took["SignPsbt"] = time.Since(began)
	}
	return took, nil
}

// CertificateEnds implements supervisor.Signer.
func (p signerProbe) CertificateEnds(ctx context.Context) (time.Time, error) {
	cert, err := p.client.Certificate(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return cert.NotAfter, nil
}

// nodeProcess is a hosted node, of systemd's or of the supervisor's own. The latter is a
// session of its own, so that it outlives the supervisor.
type nodeProcess struct {
	n hostedNode

	mu    sync.Mutex
	child chan struct{}
}

const (
	lookTimeout   = 3 * time.Second
	handleTimeout = 90 * time.Second
)

// dial connects to the node anew: a node that was made again has other files.
func (p *nodeProcess) dial(timeout time.Duration) (*remotesigner.Client, error) {
	cfg := remotesigner.Config{Address: p.n.RPC, Timeout: timeout}
	var err error
	if cfg.Certificate, err = os.ReadFile(filepath.Join(p.n.Dir, "tls.cert")); err != nil {
		return nil, err
	}
	if cfg.Macaroon, err = os.ReadFile(filepath.Join(p.n.Dir, "data", "chain", "bitcoin", p.n.Network, "admin.macaroon")); err != nil {
		return nil, err
	}
	return remotesigner.Dial(cfg)
}

func with[T any](p *nodeProcess, timeout time.Duration, f func(*remotesigner.Client) (T, error)) (T, error) {
	client, err := p.dial(timeout)
	if err != nil {
		var none T
		return none, err
	}
	defer func() { _ = client.Close() }()
	return f(client)
}

// Look implements supervisor.Node. A program that was started is up, also while it does
// not answer yet.
func (p *nodeProcess) Look(ctx context.Context) (up, serving bool) {
	state, err := with(p, lookTimeout, func(c *remotesigner.Client) (string, error) { return c.State(ctx) })
	return err == nil || p.runs() || listens(ctx, p.n.RPC), err == nil && state == remotesigner.Active
}

// listens says whether anybody has the node's port: a second lnd is never started beside
// one that does not answer.
func listens(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	return err == nil && conn.Close() == nil
}

func (p *nodeProcess) runs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil {
		return false
	}
	select {
	case <-p.child:
		return false
	default:
		return true
	}
}

// HTLCs implements supervisor.Node.
func (p *nodeProcess) HTLCs(ctx context.Context) (int, error) {
	return with(p, lookTimeout, func(c *remotesigner.Client) (int, error) { return c.HTLCs(ctx) })
}

// SetDisabled implements supervisor.Node.
func (p *nodeProcess) SetDisabled(ctx context.Context, disabled bool) error {
	_, err := with(p, handleTimeout, func(c *remotesigner.Client) (struct{}, error) { return struct{}{}, c.SetDisabled(ctx, disabled) })
	return err
}

// Start implements supervisor.Node.
func (p *nodeProcess) Start(ctx context.Context) error {
	if p.n.Set != "" {
		return nil
	}
	if p.n.Unit != "" {
		return systemctl(ctx, "start", p.n.Unit)
	}
	if p.runs() {
		return nil
	}
	// lnd keeps a log of its own; what it says besides is nobody's.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.n.Lnd, "--lnddir="+p.n.Dir) //nolint:gosec // the operator's own lnd
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.child = ended
	return nil
}

// Stop implements supervisor.Node.
func (p *nodeProcess) Stop(ctx context.Context) error {
	if p.n.Set != "" {
		return fmt.Errorf("it is to be down now: kubectl scale statefulset/%s --replicas=0", p.n.Set)
	}
	if p.n.Unit != "" {
		return systemctl(ctx, "stop", p.n.Unit)
	}
	_, err := with(p, handleTimeout, func(c *remotesigner.Client) (struct{}, error) { return struct{}{}, c.StopNode(ctx) })
	return err
}

func systemctl(ctx context.Context, verb, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*handleTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", verb, unit).CombinedOutput() //nolint:gosec // names of our own
	if err != nil {
		return fmt.Errorf("systemctl %s %s: %w: %s", verb, unit, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// undrain is shared by the commands that drain.
type undrain struct {
	Undo   bool   `help:"Run again."`
	Reason string `placeholder:"TEXT" help:"Why, for the log of changes."`
}

// TenantDrainCmd drains a hosted node.
type TenantDrainCmd struct {
	Tenant string `arg:"" help:"Whose node."`
	undrain
}

// Run implements the command.
func (c TenantDrainCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, tenantsOf(s).DrainTenantNode, &tenantv1.DrainTenantNodeRequest{Tenant: c.Tenant, Drain: !c.Undo, Reason: c.Reason})
		return showAnswer(w, g, got, err)
	})
}

// MyDrainCmd drains the caller's own.
type MyDrainCmd struct{ undrain }

// Run implements the command.
func (c MyDrainCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, mineOf(s).DrainOwnNode, &tenantv1.DrainOwnNodeRequest{Drain: !c.Undo, Reason: c.Reason})
		return showAnswer(w, g, got, err)
	})
}

// hostingRows tell how a hosted node and its signer do.
func hostingRows(r *tenantv1.Tenant, now time.Time) (rows [][]string) {
	if r.GetDrain() {
		rows = append(rows, []string{"Wish", "drained: no new HTLCs, then down"})
	}
	h := r.GetHosting()
	if h == nil {
		if r.GetKind() == tenantv1.TenantKind_TENANT_KIND_HOSTED {
			rows = append(rows, []string{"Node", "not supervised: sluicectl tenant supervise, on its machine"})
		}
		return rows
	}
	state := word(h.GetState(), "HOSTING_STATE_")
	if h.GetState() == tenantv1.HostingState_HOSTING_STATE_DRAINING {
		state += fmt.Sprintf(", %d HTLC(s) left", h.GetHtlcs())
	}
	if age := now.Sub(time.UnixMilli(h.GetAtMs())); age > time.Minute {
		state = strings.ToUpper("not heard of") + fmt.Sprintf(" for %s; was %s", age.Round(time.Second), state)
	}
	rows = append(rows, []string{"Node", state}, []string{"Started again", fmt.Sprintf("%d time(s) in 24 hours", h.GetRestarts())})
	if h.GetSaid() != "" {
		rows = append(rows, []string{"Said", h.GetSaid()})
	}
	up := "answers"
	if !h.GetSignerUp() {
		up = "AWAY"
	}
	rows = append(rows, []string{"Signer", fmt.Sprintf("%s; %d.%d %% of 24 hours", up, h.GetAvailabilityPermille()/10, h.GetAvailabilityPermille()%10)})
	for _, l := range h.GetLatencies() {
		p99 := time.Duration(l.GetP99Us()) * time.Microsecond
		text := fmt.Sprintf("p50 %s, p99 %s of %s", time.Duration(l.GetP50Us())*time.Microsecond, p99, time.Duration(h.GetTimeoutMs())*time.Millisecond)
		if p99 > time.Duration(h.GetTimeoutMs())*time.Millisecond/5 {
			text += ": TOO SLOW, the node ends at the timeout"
		}
		rows = append(rows, []string{"  " + l.GetCall(), text})
	}
	if ends := h.GetCertificateEndsMs(); ends != 0 {
		text := time.UnixMilli(ends).UTC().Format(time.DateOnly)
		if time.UnixMilli(ends).Before(now.AddDate(0, 0, 30)) {
			text += ": SOON; a new bundle is needed"
		}
		rows = append(rows, []string{"  certificate", "until " + text})
	}
	return slices.Clip(rows)
}
