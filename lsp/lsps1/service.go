package lsps1

import (
	"context"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// Service is the business behind the messages.
type Service interface {
	// Options are what orders may ask for.
	Options(ctx context.Context) (Options, error)
	// Create has made the order durable, and its invoice, when it returns.
	Create(ctx context.Context, client ln.PubKey, r CreateOrderRequest) (Order, error)
	// Get is ErrNotFound for another client's order.
	Get(ctx context.Context, client ln.PubKey, id string) (Order, error)
}

// GetInfo serves lsps1.get_info.
func GetInfo(s Service) func(context.Context, ln.PubKey, lsps0.Params) (any, error) {
	return func(ctx context.Context, _ ln.PubKey, params lsps0.Params) (any, error) {
		if refused := params.Only(); refused != nil {
			return nil, refused
		}
		options, err := s.Options(ctx)
		if err != nil {
			return nil, Refusal(err)
		}
		return NewGetInfoResult(options), nil
	}
}

// CreateOrder serves lsps1.create_order.
func CreateOrder(s Service) func(context.Context, ln.PubKey, lsps0.Params) (any, error) {
	return func(ctx context.Context, client ln.PubKey, params lsps0.Params) (any, error) {
		r, refused := ReadCreateOrder(params)
		if refused != nil {
			return nil, refused
		}
		o, err := s.Create(ctx, client, r)
		if err != nil {
			return nil, Refusal(err)
		}
		return o, nil
	}
}

// GetOrder serves lsps1.get_order.
func GetOrder(s Service) func(context.Context, ln.PubKey, lsps0.Params) (any, error) {
	return func(ctx context.Context, client ln.PubKey, params lsps0.Params) (any, error) {
		r, refused := ReadGetOrder(params)
		if refused != nil {
			return nil, refused
		}
		o, err := s.Get(ctx, client, r.OrderID)
		if err != nil {
			return nil, Refusal(err)
		}
		return o, nil
	}
}
