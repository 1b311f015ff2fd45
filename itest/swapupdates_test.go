//go:build itest

package itest

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"testing"
	"time"

	looprpc "github.com/lightninglabs/loop/swapserverrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
)

// updates are what the gateway tells of a swap, as a Loop client of ours hears it beside
// the stock one, which only logs them.
type updates struct {
	t      *testing.T
	states chan looprpc.ServerSwapState
	// ended is closed with the stream; err is why.
	ended chan struct{}
	err   error
	last  time.Time
}

func (n *swapNet) loopServer() looprpc.SwapServerClient {
	n.t.Helper()
	tlsConfig, err := selfcert.ClientTLS(n.s.TLSCert)
	require.NoError(n.t, err)
	conn, err := grpc.NewClient(n.s.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)))
	require.NoError(n.t, err)
	n.t.Cleanup(func() { _ = conn.Close() })
	return looprpc.NewSwapServerClient(conn)
}

// follow subscribes to a swap's updates in its direction.
func (n *swapNet) follow(ctx context.Context, swap devnet.LoopSwap, in bool) *updates {
	n.t.Helper()
	hash, err := hex.DecodeString(swap.ID)
	require.NoError(n.t, err)
	request := &looprpc.SubscribeUpdatesRequest{ProtocolVersion: looprpc.ProtocolVersion_MUSIG2, SwapHash: hash}
	u := &updates{t: n.t, states: make(chan looprpc.ServerSwapState, 100), ended: make(chan struct{})}
	if in {
		stream, err := n.loopServer().SubscribeLoopInUpdates(ctx, request)
		require.NoError(n.t, err)
		go heard(u, stream.Recv)
		return u
	}
	stream, err := n.loopServer().SubscribeLoopOutUpdates(ctx, request)
	require.NoError(n.t, err)
	go heard(u, stream.Recv)
	return u
}

type update interface {
	GetState() looprpc.ServerSwapState
	GetTimestampNs() int64
}

func heard[U update](u *updates, recv func() (U, error)) {
	defer close(u.ended)
	for {
		got, err := recv()
		if err != nil {
			u.err = err
			return
		}
		at := time.Unix(0, got.GetTimestampNs())
		if at.Before(u.last) || time.Since(at) < -time.Minute || time.Since(at) > time.Hour {
			u.err = errors.New("an update's time is not that of its state: " + at.String())
			return
		}
		u.last = at
		u.states <- got.GetState()
	}
}

// tell waits for exactly these states, one after the other, none twice.
func (u *updates) tell(ctx context.Context, want ...looprpc.ServerSwapState) {
	u.t.Helper()
	for _, state := range want {
		require.Equal(u.t, state.String(), u.next(ctx).String())
	}
}

// come waits for the last of these states; the others may be told before it.
func (u *updates) come(ctx context.Context, states ...looprpc.ServerSwapState) {
	u.t.Helper()
	for {
		state := u.next(ctx)
		require.Contains(u.t, states, state)
		if state == states[len(states)-1] {
			return
		}
	}
}

func (u *updates) next(ctx context.Context) looprpc.ServerSwapState {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case state := <-u.states:
		return state
	case <-u.ended:
		select {
		case state := <-u.states:
			return state
		default:
		}
		require.Fail(u.t, "the stream ended", "%v", u.err)
	case <-ctx.Done():
		require.Fail(u.t, "nothing is told")
	}
	return 0
}

// over: the stream ends in good order after the last state, with nothing more told.
func (u *updates) over(ctx context.Context) {
	u.t.Helper()
	select {
	case <-u.ended:
	case <-time.After(time.Minute):
		require.Fail(u.t, "the stream does not end with the swap")
	case <-ctx.Done():
		require.NoError(u.t, ctx.Err())
	}
	require.Empty(u.t, u.states)
	require.ErrorIs(u.t, u.err, io.EOF)
}
