package api

import (
	"context"
	"testing"

	looprpc "github.com/lightninglabs/loop/swapserverrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
	"github.com/sluice-lsp/sluice/swaps/in"
	"github.com/sluice-lsp/sluice/swaps/out"
)

const today = looprpc.ProtocolVersion_MUSIG2

// Each call says what is wrong with it before an engine is asked; without an
// engine it is unavailable; what is not offered says so.
func TestWhatIsAnsweredWithoutAnEngine(t *testing.T) {
	ctx, l := context.Background(), &loopServer{s: New()}
	calls := map[string]func(v looprpc.ProtocolVersion) error{
		"LoopOutTerms": func(v looprpc.ProtocolVersion) error {
			_, err := l.LoopOutTerms(ctx, &looprpc.ServerLoopOutTermsRequest{ProtocolVersion: v})
			return err
		},
		"LoopOutQuote": func(v looprpc.ProtocolVersion) error {
			_, err := l.LoopOutQuote(ctx, &looprpc.ServerLoopOutQuoteRequest{ProtocolVersion: v})
			return err
		},
		"NewLoopOutSwap": func(v looprpc.ProtocolVersion) error {
			_, err := l.NewLoopOutSwap(ctx, &looprpc.ServerLoopOutRequest{ProtocolVersion: v})
			return err
		},
		"LoopOutPushPreimage": func(v looprpc.ProtocolVersion) error {
			_, err := l.LoopOutPushPreimage(ctx, &looprpc.ServerLoopOutPushPreimageRequest{ProtocolVersion: v})
			return err
		},
		"MuSig2SignSweep": func(v looprpc.ProtocolVersion) error {
			_, err := l.MuSig2SignSweep(ctx, &looprpc.MuSig2SignSweepReq{ProtocolVersion: v})
			return err
		},
		"CancelLoopOutSwap": func(v looprpc.ProtocolVersion) error {
			_, err := l.CancelLoopOutSwap(ctx, &looprpc.CancelLoopOutSwapRequest{ProtocolVersion: v})
			return err
		},
		"LoopInTerms": func(v looprpc.ProtocolVersion) error {
			_, err := l.LoopInTerms(ctx, &looprpc.ServerLoopInTermsRequest{ProtocolVersion: v})
			return err
		},
		"LoopInQuote": func(v looprpc.ProtocolVersion) error {
			_, err := l.LoopInQuote(ctx, &looprpc.ServerLoopInQuoteRequest{ProtocolVersion: v})
			return err
		},
		"NewLoopInSwap": func(v looprpc.ProtocolVersion) error {
			_, err := l.NewLoopInSwap(ctx, &looprpc.ServerLoopInRequest{ProtocolVersion: v})
			return err
		},
		"Probe": func(v looprpc.ProtocolVersion) error {
			_, err := l.Probe(ctx, &looprpc.ServerProbeRequest{ProtocolVersion: v})
			return err
		},
		"PushKey": func(v looprpc.ProtocolVersion) error {
			_, err := l.PushKey(ctx, &looprpc.ServerPushKeyReq{ProtocolVersion: v})
			return err
		},
	}
	for name, call := range calls {
		for _, old := range []looprpc.ProtocolVersion{0, 10} {
			err := call(old)
			require.ErrorIs(t, err, errkind.Invalid, name)
			require.Contains(t, errkind.Sentence(err), "upgrade loopd", name)
		}
		require.ErrorIs(t, call(today), errkind.Unavailable, name)
	}
	require.ErrorIs(t, l.SubscribeNotifications(nil, nil), errkind.Unavailable)
	_, err := l.NewLoopOutSwap(ctx, &looprpc.ServerLoopOutRequest{UserAgent: "resume_swap"})
	require.ErrorIs(t, err, errkind.NotFound)
	got, err := l.RecommendRoutingPlugin(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, looprpc.RoutingPlugin_NONE, got.Plugin)
}

// Every method that is registered has an audience.
func TestEveryCallIsAdmittedOnPurpose(t *testing.T) {
	s := New()
	table := s.Permissions()
	want := len(looprpc.SwapServer_ServiceDesc.Methods) + len(looprpc.SwapServer_ServiceDesc.Streams)
	for _, desc := range []grpc.ServiceDesc{swapsv1.SwapsOperatorService_ServiceDesc, swapsv1.ChannelSwapsService_ServiceDesc} {
		for _, m := range desc.Methods {
			require.Contains(t, table, "/"+desc.ServiceName+"/"+m.MethodName)
			want++
		}
	}
	require.Len(t, table, want)
}

// A final state is final on the wire, or clients would wait for ever.
func TestStatesOnTheWire(t *testing.T) {
	progress := map[looprpc.ServerSwapState]bool{
		looprpc.ServerSwapState_SERVER_INITIATED: true, looprpc.ServerSwapState_SERVER_HTLC_PUBLISHED: true,
		looprpc.ServerSwapState_SERVER_HTLC_CONFIRMED: true, looprpc.ServerSwapState_SERVER_TIMEOUT_PUBLISHED: true,
	}
	for _, s := range out.Machine().States {
		_, cancelling := s.(out.Cancelling)
		require.Equal(t, out.Final(s) || cancelling, !progress[wire(s)], s.StateName())
	}
	for _, s := range in.Machine().States {
		require.Equal(t, in.Final(s), !progress[wireIn(s)], s.StateName())
	}
	require.Equal(t, looprpc.ServerSwapState_SERVER_FAILED_INVALID_HTLC_AMOUNT, wireIn(in.Failed{Reason: swaps.Reason{Code: swaps.ReasonAmount}}))
	require.Equal(t, looprpc.ServerSwapState_SERVER_FAILED_SWAP_DEADLINE, wire(out.Cancelled{Reason: swaps.Reason{Code: swaps.ReasonUnpaid}}))
}

func TestWhatClientsCallThemselves(t *testing.T) {
	require.Equal(t, "loopd/v0.34", agent("loopd/\x1bv0.34\n"))
	long := make([]byte, 500)
	for i := range long {
		long[i] = 'a'
	}
	require.Len(t, agent(string(long)), 100)
	require.True(t, deadline(-1).IsZero() && deadline(1<<60).IsZero())
}
