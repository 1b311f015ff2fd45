package lsps5

import (
	"context"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// Service is the business behind the messages.
type Service interface {
	// Set has made the webhook durable when it returns.
	Set(ctx context.Context, client ln.PubKey, h Hook) (SetResult, error)
	List(ctx context.Context, client ln.PubKey) (ListResult, error)
	Remove(ctx context.Context, client ln.PubKey, appName string) error
}

// SetWebhook serves lsps5.set_webhook.
func SetWebhook(s Service) func(context.Context, ln.PubKey, lsps0.Params) (any, error) {
	return func(ctx context.Context, client ln.PubKey, params lsps0.Params) (any, error) {
		h, refused := ReadSet(params)
		if refused != nil {
			return nil, refused
		}
		result, err := s.Set(ctx, client, h)
		if err != nil {
			return nil, refusal(err)
		}
		return result, nil
	}
}

// ListWebhooks serves lsps5.list_webhooks.
func ListWebhooks(s Service) func(context.Context, ln.PubKey, lsps0.Params) (any, error) {
	return func(ctx context.Context, client ln.PubKey, params lsps0.Params) (any, error) {
		if refused := ReadList(params); refused != nil {
			return nil, refused
		}
		result, err := s.List(ctx, client)
		if err != nil {
			return nil, refusal(err)
		}
		return result, nil
	}
}

// RemoveWebhook serves lsps5.remove_webhook.
func RemoveWebhook(s Service) func(context.Context, ln.PubKey, lsps0.Params) (any, error) {
	return func(ctx context.Context, client ln.PubKey, params lsps0.Params) (any, error) {
		name, refused := ReadRemove(params)
		if refused != nil {
			return nil, refused
		}
		if err := s.Remove(ctx, client, name); err != nil {
			return nil, refusal(err)
		}
		return RemoveResult{}, nil
	}
}

// refusal tells a client what the spec has no code for and is for it to know;
// anything else stays as it is, for the log.
func refusal(err error) error {
	if sentence := errkind.Sentence(err); sentence != "" {
		return lsps0.ClientRejected(sentence)
	}
	return err
}
