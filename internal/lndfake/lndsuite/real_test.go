//go:build itest

package lndsuite

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// TestReal runs the suite on stock nodes. To start a network costs more than most cases, so those with the same options
// share one, each with a wallet of its own; see pool. Cases wait more than they compute, so two run beside each other.
func TestReal(t *testing.T) {
	p := &pool{t: t}
	t.Cleanup(p.close)
	Run(t, func(t *testing.T, name string, f func(*testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t)
		})
	}, p.take)
}

// real is a network while a case has it.
type real struct {
	*shared
	wallet     *devnet.Node
	walletLink *devnet.Link
}

const realLimit = 2 * time.Minute

func (r *real) node(name string) *devnet.Node {
	switch name {
	case Payer:
		return r.s.Payer
	case Gateway:
		return r.s.Gateway
	default:
		return r.wallet
	}
}

func (r *real) link(a, b string) *devnet.Link {
	if a == Payer || b == Payer {
		return r.s.PayerLink
	}
	return r.walletLink
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
