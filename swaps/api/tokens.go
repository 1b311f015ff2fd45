package api

import (
	"context"
	"errors"

	looprpc "github.com/lightninglabs/loop/swapserverrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/swaps/engine"
)

// client is who begins something: its token, if it has one, and what it is capped by.
type client struct{ token, caller string }

// begin is the engine for a client that begins something, within the limits of its
// token; without one only if none is needed. What a swap needs that is under way
// asks for none: money waits there.
func (s *Service) begin(ctx context.Context, v looprpc.ProtocolVersion) (*engine.Engine, client, error) {
	e, err := s.fresh(v)
	if err != nil {
		return nil, client{}, err
	}
	token, err := s.token(ctx, e, false)
	return e, client{token: token, caller: e.Caller(token, auth.AddressKey(auth.PeerAddress(ctx)))}, err
}

// enter is begin for a client of which nothing else is asked.
func (s *Service) enter(ctx context.Context, v looprpc.ProtocolVersion) (*engine.Engine, error) {
	e, _, err := s.begin(ctx, v)
	return e, err
}

// token is the client's, in hexadecimal; empty where it has none and needs none.
// Where it needs one it hears the challenge: what it must pay.
func (s *Service) token(ctx context.Context, e *engine.Engine, needed bool) (string, error) {
	tokens := e.Tokens()
	if tokens == nil {
		return "", nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	switch values := md.Get(auth.MetadataMacaroon); {
	case len(values) > 1:
		return "", errkind.New(errkind.Unauthenticated, "send one token, not several")
	case len(values) == 1:
		id, err := tokens.Admit(values[0])
		return id.String(), err
	case !needed && !tokens.Required():
		return "", nil
	}
	challenge, err := tokens.Sell(ctx)
	if err != nil {
		return "", err
	}
	if err := grpc.SetTrailer(ctx, metadata.Pairs("www-authenticate", challenge)); err != nil {
		return "", errors.Join(err, rpcserver.ErrPaymentRequired)
	}
	return "", rpcserver.ErrPaymentRequired
}

// FetchL402 is how a client without a token comes to one. Where none are sold there
// is none to fetch.
func (l *loopServer) FetchL402(ctx context.Context, _ *looprpc.FetchL402Request) (*looprpc.FetchL402Response, error) {
	e, err := l.s.running()
	if err != nil {
		return nil, err
	}
	if _, err := l.s.token(ctx, e, true); err != nil {
		return nil, err
	}
	return &looprpc.FetchL402Response{}, nil
}

// SubscribeNotifications tells a token's client of its swaps.
func (l *loopServer) SubscribeNotifications(_ *looprpc.SubscribeNotificationsRequest, stream looprpc.SwapServer_SubscribeNotificationsServer) error {
	e, err := l.s.running()
	if err != nil {
		return err
	}
	if e.Tokens() == nil {
		return notOffered("notifications: it sells no tokens (L402)")
	}
	token, err := l.s.token(stream.Context(), e, true)
	if err != nil {
		return err
	}
	return e.Notices(stream.Context(), token, func(n engine.Notice) error { return stream.Send(noticeOf(n)) })
}

func noticeOf(n engine.Notice) *looprpc.SubscribeNotificationsResponse {
	if n.Stuck == nil {
		return &looprpc.SubscribeNotificationsResponse{Notification: &looprpc.SubscribeNotificationsResponse_UnfinishedSwap{
			UnfinishedSwap: &looprpc.ServerUnfinishedSwapNotification{SwapHash: n.Hash[:]},
		}}
	}
	const perKW = 250 // sat/kw in a sat/vbyte
	return &looprpc.SubscribeNotificationsResponse{Notification: &looprpc.SubscribeNotificationsResponse_HtlcConfirmed{
		HtlcConfirmed: &looprpc.ServerHtlcConfirmedNotification{
			SwapHash: n.Hash[:], HtlcOutpoint: n.Stuck.Outpoint.String(), HtlcAddress: n.Stuck.Address,
			SatPerVbyte: uint32(min((n.Stuck.Rate+perKW-1)/perKW, 1_000)), //nolint:gosec // bounded just here
		},
	}}
}
