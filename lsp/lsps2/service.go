package lsps2

import (
	"context"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// Service is the business behind the messages.
type Service interface {
	// Menu is promised to this client; ErrToken when the token is not empty and
	// means nothing. An empty menu is no error.
	Menu(ctx context.Context, client ln.PubKey, token string) ([]lsp.OpeningFeeParams, error)
	// Buy has made the agreement durable when it returns.
	Buy(ctx context.Context, client ln.PubKey, r BuyRequest) (BuyResult, error)
}

// GetInfo serves lsps2.get_info.
func GetInfo(s Service) func(context.Context, ln.PubKey, lsps0.Params) (any, error) {
	return func(ctx context.Context, client ln.PubKey, params lsps0.Params) (any, error) {
		r, refused := ReadGetInfo(params)
		if refused != nil {
			return nil, refused
		}
		menu, err := s.Menu(ctx, client, r.Token)
		if err != nil {
			return nil, Refusal(err)
		}
		return NewGetInfoResult(menu), nil
	}
}

// Buy serves lsps2.buy.
func Buy(s Service) func(context.Context, ln.PubKey, lsps0.Params) (any, error) {
	return func(ctx context.Context, client ln.PubKey, params lsps0.Params) (any, error) {
		r, refused := ReadBuy(params)
		if refused != nil {
			return nil, refused
		}
		result, err := s.Buy(ctx, client, r)
		if err != nil {
			return nil, Refusal(err)
		}
		return result, nil
	}
}
