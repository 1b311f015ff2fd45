//go:build itest

package lndsuite

import (
	"context"
	"testing"
	"time"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
)

// TestReal runs the suite on stock nodes, each case on a network of its own.
func TestReal(t *testing.T) {
	Run(t, func(t *testing.T, name string, f func(*testing.T)) { t.Run(name, f) }, newReal)
}

type real struct {
	s *devnet.Standard
}

const realLimit = 2 * time.Minute

func newReal(t *testing.T, opts Options) Network {
	t.Helper()
	cfg := devnet.StandardConfig{
		NoInterceptor: !opts.RequireInterceptor, GatewayCoins: 5, ChannelSat: 16_000_000, PushSat: 4_000_000,
	}
	if !opts.ZeroFees {
		cfg.Gateway.ExtraArgs = append(cfg.Gateway.ExtraArgs, "--bitcoin.basefee=1000", "--bitcoin.feerate=1")
	}
	if opts.CommitInterval > 0 {
		cfg.Gateway.ExtraArgs = append(cfg.Gateway.ExtraArgs, "--channel-commit-interval="+opts.CommitInterval.String())
	}
	if opts.PayerBatch {
		cfg.Payer.ExtraArgs = append(cfg.Payer.ExtraArgs, "--channel-commit-interval=500ms")
	}
	s := devnet.StartStandard(t, cfg)
	if opts.FeeRateSatPerKW > 0 {
		s.Fees().SetSatPerVByte(uint32(opts.FeeRateSatPerKW / 250))
		time.Sleep(3 * time.Second) // lnd asks every one to two seconds
	}
	return &real{s: s}
}

func (r *real) node(name string) *devnet.Node { return r.s.Node(name) }

func (r *real) link(a, b string) *devnet.Link {
	if a == Payer || b == Payer {
		return r.s.PayerLink
	}
	return r.s.WalletLink
}

func limited(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), realLimit)
	defer cancel()
	require.NoError(t, f(ctx))
}

func (r *real) Conn(_ *testing.T, node string) *grpc.ClientConn { return r.node(node).Conn }

func (r *real) Kill(t *testing.T, node string) {
	t.Helper()
	require.NoError(t, r.node(node).Kill())
}

func (r *real) Stop(t *testing.T, node string) {
	t.Helper()
	limited(t, func(ctx context.Context) error { return r.node(node).Stop(ctx) })
}

func (r *real) Start(t *testing.T, node string) {
	t.Helper()
	limited(t, func(ctx context.Context) error { return r.node(node).Start(ctx) })
}

func (r *real) Flap(t *testing.T, a, b string) {
	t.Helper()
	r.link(a, b).Flap()
	// Until both have noticed, both still list each other; but they may be back before this has looked.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := r.s.WaitDisconnected(ctx, r.node(a), r.node(b)); err != nil {
		t.Logf("the flap was not seen: %v", err)
	}
	limited(t, func(ctx context.Context) error { return r.s.WaitConnected(ctx, r.node(a), r.node(b)) })
}

func (r *real) Disconnect(t *testing.T, a, b string) {
	t.Helper()
	r.link(a, b).Cut()
}

func (r *real) Connect(t *testing.T, a, b string) {
	t.Helper()
	r.link(a, b).Restore()
	limited(t, func(ctx context.Context) error { return r.s.WaitConnected(ctx, r.node(a), r.node(b)) })
}

func (r *real) Freeze(t *testing.T, node string) {
	t.Helper()
	require.NoError(t, r.node(node).Freeze())
}

func (r *real) Thaw(t *testing.T, node string) {
	t.Helper()
	require.NoError(t, r.node(node).Thaw())
}

func (r *real) Mine(t *testing.T, blocks int) {
	t.Helper()
	limited(t, func(ctx context.Context) error { return r.s.Mine(ctx, blocks) })
}
