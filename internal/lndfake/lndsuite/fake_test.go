package lndsuite

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
)

// TestFake runs the suite on the fake with the latencies of real nodes, in virtual time.
func TestFake(t *testing.T) {
	Run(t, func(t *testing.T, name string, f func(*testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
	}, newFake)
}

type fake struct {
	w     *lndfake.World
	conns map[string]*grpc.ClientConn
}

func newFake(t *testing.T, opts Options) Network {
	t.Helper()
	lat := lndfake.Observed()
	if opts.CommitInterval > 0 {
		lat.Commit = opts.CommitInterval
	}
	if opts.PayerDelay > 0 {
		lat.Message = opts.PayerDelay // of every message; no case needs a swift wallet beside it
	}
	f := &fake{w: lndfake.New(lndfake.Config{Seed: 7, Latency: lat}), conns: map[string]*grpc.ClientConn{}}
	t.Cleanup(f.w.Close)
	if testing.Verbose() {
		f.w.SetTrace(func(s string) { t.Log(time.Now().Format("05.000 ") + s) })
	}
	zero := int64(0)
	gw := lndfake.NodeConfig{RequireInterceptor: opts.RequireInterceptor}
	if opts.ZeroFees {
		gw.BaseFeeMsat, gw.FeeRatePPM = &zero, &zero
	}
	if opts.FeeRateSatPerKW > 0 {
		f.w.SetFeeRate(opts.FeeRateSatPerKW)
	}
	for name, cfg := range map[string]lndfake.NodeConfig{Payer: {}, Gateway: gw, Wallet: {}} {
		n, err := f.w.AddNode(name, cfg)
		require.NoError(t, err)
		f.conns[name], err = n.Dial()
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.conns[name].Close() })
	}
	_, err := f.node(Payer).Fund(20_000_000)
	require.NoError(t, err)
	for range 5 {
		_, err := f.node(Gateway).Fund(2_000_000)
		require.NoError(t, err)
	}
	_, err = f.w.OpenChannel(f.node(Payer), f.node(Gateway), 16_000_000, 4_000_000)
	require.NoError(t, err)
	f.w.Connect(f.node(Gateway), f.node(Wallet))
	t.Cleanup(func() { require.NoError(t, f.w.Err()) })
	return f
}

func (f *fake) node(name string) *lndfake.Node { return f.w.Node(name) }

func (f *fake) Conn(_ *testing.T, node string) *grpc.ClientConn { return f.conns[node] }

func (f *fake) Kill(_ *testing.T, node string) { f.node(node).Kill() }

// Stop differs from Kill for lnd's database alone: what is in memory only is lost by both.
func (f *fake) Stop(_ *testing.T, node string) { f.node(node).Kill() }

func (f *fake) Start(t *testing.T, node string) {
	t.Helper()
	require.NoError(t, f.node(node).Start())
	f.conns[node].ResetConnectBackoff()
	time.Sleep(50 * time.Millisecond)
}

func (f *fake) Flap(_ *testing.T, a, b string)       { f.w.Flap(f.node(a), f.node(b)) }
func (f *fake) Disconnect(_ *testing.T, a, b string) { f.w.Disconnect(f.node(a), f.node(b)) }
func (f *fake) Connect(_ *testing.T, a, b string)    { f.w.Connect(f.node(a), f.node(b)) }
func (f *fake) Freeze(_ *testing.T, node string)     { f.node(node).Freeze() }
func (f *fake) Thaw(_ *testing.T, node string)       { f.node(node).Thaw() }
func (f *fake) Mine(_ *testing.T, blocks int)        { f.w.Mine(blocks) }
