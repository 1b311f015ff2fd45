package api

import (
	"context"
	"math"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

type wallets struct {
	towerv1.UnimplementedTowerServiceServer
	s *Service
}

func (w *wallets) Register(ctx context.Context, _ *towerv1.RegisterRequest) (*towerv1.RegisterResponse, error) {
	r, node, err := w.s.caller(ctx)
	if err != nil {
		return nil, err
	}
	t, err := r.engine.Register(ctx, node, auth.AddressKey(auth.PeerAddress(ctx)))
	if err != nil {
		return nil, err
	}
	return &towerv1.RegisterResponse{Tower: r.towerToWire(t)}, nil
}

func (w *wallets) GetTower(ctx context.Context, _ *towerv1.GetTowerRequest) (*towerv1.GetTowerResponse, error) {
	r, t, err := w.s.tenant(ctx)
	if err != nil {
		return nil, err
	}
	return &towerv1.GetTowerResponse{Tower: r.towerToWire(t)}, nil
}

func (w *wallets) ListSessions(ctx context.Context, req *towerv1.ListSessionsRequest) (*towerv1.ListSessionsResponse, error) {
	r, t, err := w.s.tenant(ctx)
	if err != nil {
		return nil, err
	}
	list, err := r.engine.Sessions(ctx, t.ID, req.GetAfter(), orDefault(req.GetLimit()))
	if err != nil {
		return nil, err
	}
	return &towerv1.ListSessionsResponse{Sessions: sessionsToWire(list)}, nil
}

func (w *wallets) GetStatement(ctx context.Context, req *towerv1.GetStatementRequest) (*towerv1.GetStatementResponse, error) {
	r, t, err := w.s.tenant(ctx)
	if err != nil {
		return nil, err
	}
	s, err := r.engine.Statement(ctx, t, req.GetNonce())
	if err != nil {
		return nil, err
	}
	return StatementToWire(s), nil
}

func (w *wallets) GetUpdates(ctx context.Context, req *towerv1.GetUpdatesRequest) (*towerv1.GetUpdatesResponse, error) {
	r, t, err := w.s.tenant(ctx)
	if err != nil {
		return nil, err
	}
	var session [33]byte
	if len(req.GetSessionId()) != len(session) || req.GetSeq() > math.MaxUint16 {
		return nil, errkind.New(errkind.Invalid, "A session has a key of 33 bytes, and sequence numbers up to 65,535.")
	}
	copy(session[:], req.GetSessionId())
	held, err := r.engine.Updates(ctx, t.ID, session, uint16(req.GetSeq())) //nolint:gosec // checked
	if err != nil {
		return nil, err
	}
	out := &towerv1.GetUpdatesResponse{}
	for _, h := range held {
		out.Updates = append(out.Updates, &towerv1.HeldUpdate{Hint: h.Hint[:], Blob: h.Blob})
	}
	return out, nil
}

func (w *wallets) ListBreaches(ctx context.Context, req *towerv1.ListBreachesRequest) (*towerv1.ListBreachesResponse, error) {
	r, t, err := w.s.tenant(ctx)
	if err != nil {
		return nil, err
	}
	list, err := r.breaches(ctx, t.ID, req.GetBeforeFoundMs(), req.GetBeforeId(), req.GetLimit())
	return &towerv1.ListBreachesResponse{Breaches: list}, err
}

func (w *wallets) ShowBreach(ctx context.Context, req *towerv1.ShowBreachRequest) (*towerv1.ShowBreachResponse, error) {
	r, t, err := w.s.tenant(ctx)
	if err != nil {
		return nil, err
	}
	b, story, err := r.breach(ctx, t.ID, req.GetId())
	return &towerv1.ShowBreachResponse{Breach: b, Story: story}, err
}

func (w *wallets) BuyCredit(ctx context.Context, req *towerv1.BuyCreditRequest) (*towerv1.BuyCreditResponse, error) {
	r, t, err := w.s.tenant(ctx)
	if err != nil {
		return nil, err
	}
	p, err := r.engine.BuyCredit(ctx, t, req.GetUpdates())
	if err != nil {
		return nil, err
	}
	return &towerv1.BuyCreditResponse{Purchase: purchaseToWire(p)}, nil
}

func (w *wallets) ListPurchases(ctx context.Context, req *towerv1.ListPurchasesRequest) (*towerv1.ListPurchasesResponse, error) {
	r, t, err := w.s.tenant(ctx)
	if err != nil {
		return nil, err
	}
	list, err := r.purchases(ctx, t.ID, req.GetLimit())
	return &towerv1.ListPurchasesResponse{Purchases: list}, err
}
