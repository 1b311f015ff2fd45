package lsps5

import (
	"encoding/json"
	"fmt"

	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// Number is the LSPS that lsps0.list_protocols names.
const Number = 5

// The methods.
const (
	MethodSetWebhook    = "lsps5.set_webhook"
	MethodListWebhooks  = "lsps5.list_webhooks"
	MethodRemoveWebhook = "lsps5.remove_webhook"
)

// The longest name and URL, in bytes.
const (
	MaxAppName = 64
	MaxURL     = 1024
)

// Hook is a webhook as its client names it.
type Hook struct {
	// AppName is any text, control characters included: it is stored as bytes
	// and never shown as it is.
	AppName string
	Target  Target
}

// ReadSet reads the parameters of lsps5.set_webhook.
func ReadSet(p lsps0.Params) (h Hook, refused *lsps0.Error) {
	if refused = p.Only("app_name", "webhook"); refused != nil {
		return h, refused
	}
	name, refused := p.String("app_name", lsps0.MaxPayload)
	if refused != nil {
		return h, refused
	}
	text, refused := p.String("webhook", lsps0.MaxPayload)
	if refused != nil {
		return h, refused
	}
	// The spec counts escapes in a name as they are written, and a URL's
	// characters.
	if p.Written("app_name") > MaxAppName || len(text) > MaxURL {
		return h, TooLong()
	}
	target, refused := ParseTarget(text)
	return Hook{AppName: name, Target: target}, refused
}

// ReadList reads the parameters of lsps5.list_webhooks: there are none.
func ReadList(p lsps0.Params) *lsps0.Error { return p.Only() }

// ReadRemove reads the parameters of lsps5.remove_webhook. A name too long to
// have been set is not found.
func ReadRemove(p lsps0.Params) (appName string, refused *lsps0.Error) {
	if refused = p.Only("app_name"); refused != nil {
		return "", refused
	}
	return p.String("app_name", lsps0.MaxPayload)
}

// SetRequest is what a client sends to set a webhook.
type SetRequest struct {
	AppName string `json:"app_name"`
	Webhook string `json:"webhook"`
}

// RemoveRequest is what a client sends to remove one.
type RemoveRequest struct {
	AppName string `json:"app_name"`
}

// SetResult is the answer to lsps5.set_webhook.
type SetResult struct {
	NumWebhooks int  `json:"num_webhooks"`
	MaxWebhooks int  `json:"max_webhooks"`
	NoChange    bool `json:"no_change"`
}

// ListResult is the answer to lsps5.list_webhooks.
type ListResult struct {
	AppNames    []string `json:"app_names"`
	MaxWebhooks int      `json:"max_webhooks"`
}

// RemoveResult is the answer to lsps5.remove_webhook: an empty object.
type RemoveResult struct{}

// MarshalJSON never writes null for no names.
func (r ListResult) MarshalJSON() ([]byte, error) {
	type plain ListResult
	if r.AppNames == nil {
		r.AppNames = []string{}
	}
	return json.Marshal(plain(r))
}

// maxListed bounds what a client reads.
const maxListed = 1_000

// ReadSetResult reads the answer to lsps5.set_webhook as the client.
func ReadSetResult(result json.RawMessage) (SetResult, error) {
	p, refused := lsps0.ParseParams(result)
	if refused != nil {
		return SetResult{}, refused
	}
	var r SetResult
	have, refused := p.Uint32("num_webhooks")
	if refused != nil {
		return r, refused
	}
	most, refused := p.Uint32("max_webhooks")
	if refused != nil {
		return r, refused
	}
	r.NumWebhooks, r.MaxWebhooks = int(have), int(most)
	if r.NoChange, refused = p.Bool("no_change"); refused != nil {
		return r, refused
	}
	return r, nil
}

// ReadListResult reads the answer to lsps5.list_webhooks as the client.
func ReadListResult(result json.RawMessage) (ListResult, error) {
	p, refused := lsps0.ParseParams(result)
	if refused != nil {
		return ListResult{}, refused
	}
	most, refused := p.Uint32("max_webhooks")
	if refused != nil {
		return ListResult{}, refused
	}
	var list struct {
		AppNames []string `json:"app_names"`
	}
	if err := json.Unmarshal(result, &list); err != nil || list.AppNames == nil || len(list.AppNames) > maxListed {
		return ListResult{}, fmt.Errorf("the LSP's list of webhooks cannot be read")
	}
	return ListResult{AppNames: list.AppNames, MaxWebhooks: int(most)}, nil
}
