package peerclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
)

// call asks and reads the result.
func call[T any](ctx context.Context, c *Client, lsp ln.PubKey, method string, params any, read func(json.RawMessage) (T, error)) (T, error) {
	var none T
	raw, err := c.Call(ctx, lsp, method, params)
	if err != nil {
		return none, told(method, err)
	}
	out, err := read(raw)
	if err != nil {
		return none, errkind.Wrap(errkind.Unavailable, err, "the LSP's answer cannot be used: "+err.Error())
	}
	return out, nil
}

// Protocols are the LSPS that an LSP serves.
func (c *Client) Protocols(ctx context.Context, lsp ln.PubKey) ([]int, error) {
	list, err := call(ctx, c, lsp, lsps0.MethodListProtocols, nil, lsps0.ParseListProtocols)
	return list.Protocols, err
}

// OrderOptions are what orders may ask for.
func (c *Client) OrderOptions(ctx context.Context, lsp ln.PubKey) (lsps1.Options, error) {
	info, err := call(ctx, c, lsp, lsps1.MethodGetInfo, nil, lsps1.ReadInfo)
	if err != nil {
		return lsps1.Options{}, err
	}
	options := info.Options()
	if err := options.Validate(); err != nil {
		return options, errkind.Wrap(errkind.Unavailable, err, "the LSP's options for orders contradict each other: "+err.Error())
	}
	return options, nil
}

// CreateOrder orders a channel. After ErrNoAnswer it may exist all the same, unpaid.
func (c *Client) CreateOrder(ctx context.Context, lsp ln.PubKey, r lsps1.CreateOrderRequest) (lsps1.Order, error) {
	return call(ctx, c, lsp, lsps1.MethodCreateOrder, r, lsps1.ReadOrder)
}

// Order is an order as it stands.
func (c *Client) Order(ctx context.Context, lsp ln.PubKey, id string) (lsps1.Order, error) {
	o, err := call(ctx, c, lsp, lsps1.MethodGetOrder, lsps1.GetOrderRequest{OrderID: id}, lsps1.ReadOrder)
	if err == nil && o.OrderID != id {
		err = errkind.New(errkind.Unavailable, "the LSP answered with another order than was asked for")
	}
	return o, err
}

// Menu is what channels on demand cost.
func (c *Client) Menu(ctx context.Context, node ln.PubKey, token string) ([]lsp.OpeningFeeParams, error) {
	return call(ctx, c, node, lsps2.MethodGetInfo, lsps2.GetInfoRequest{Token: token}, lsps2.ReadMenu)
}

// Buy agrees to a channel for one payment. The payment brings less than its onion
// says: only who takes that may buy.
func (c *Client) Buy(ctx context.Context, node ln.PubKey, r lsps2.BuyRequest) (lsps2.BuyResult, error) {
	return call(ctx, c, node, lsps2.MethodBuy, r, lsps2.ReadBuyResult)
}

// SetWebhook registers a webhook, or moves one.
func (c *Client) SetWebhook(ctx context.Context, lsp ln.PubKey, app, url string) (lsps5.SetResult, error) {
	return call(ctx, c, lsp, lsps5.MethodSetWebhook, lsps5.SetRequest{AppName: app, Webhook: url}, lsps5.ReadSetResult)
}

// Webhooks are those that are registered.
func (c *Client) Webhooks(ctx context.Context, lsp ln.PubKey) (lsps5.ListResult, error) {
	return call(ctx, c, lsp, lsps5.MethodListWebhooks, nil, lsps5.ReadListResult)
}

// RemoveWebhook takes one out.
func (c *Client) RemoveWebhook(ctx context.Context, lsp ln.PubKey, app string) error {
	_, err := call(ctx, c, lsp, lsps5.MethodRemoveWebhook, lsps5.RemoveRequest{AppName: app}, func(json.RawMessage) (struct{}, error) { return struct{}{}, nil })
	return err
}

// told gives an LSP's error words of our own, as bLIP-50 wants it, and its kind. What
// the LSP said itself follows, filtered.
func told(method string, err error) error {
	remote, ok := errors.AsType[*lsps0.RemoteError](err)
	if !ok {
		return err
	}
	kind, words := errkind.Unavailable, "the LSP refused "+method
	switch remote.Code {
	case lsps0.CodeMethodNotFound:
		kind, words = errkind.NotFound, "the LSP does not serve "+method
	case lsps0.CodeInvalidParams:
		kind, words = errkind.Invalid, "the LSP does not take the request"
	case lsps0.CodeClientRejected:
		words = "the LSP refuses this wallet, or refuses it for now"
	case lsps1.CodeOptionMismatch:
		kind, words = errkind.Invalid, "the LSP sells no such channel"
	case lsps1.CodeNotFound:
		kind, words = errkind.NotFound, "the LSP knows no such order of this wallet's"
	case lsps1.CodeUnrecognizedToken, lsps2.CodeUnrecognizedToken:
		kind, words = errkind.Invalid, "the LSP does not know the token, or it has lapsed"
	case lsps5.CodeTooLong, lsps5.CodeURLParse, lsps5.CodeUnsupportedProtocol:
		kind, words = errkind.Invalid, "the LSP does not take that webhook"
	case lsps5.CodeTooManyWebhooks:
		kind, words = errkind.Exhausted, "the LSP keeps no more webhooks of this wallet: remove one first"
	case lsps5.CodeAppNameNotFound:
		kind, words = errkind.NotFound, "the LSP has no webhook of that name"
	}
	if said := remoteWords(remote); said != "" {
		words += fmt.Sprintf(" (%s)", said)
	}
	return errkind.Wrap(kind, err, words)
}

// remoteWords is what an error says for people, bounded and printable.
func remoteWords(e *lsps0.RemoteError) string {
	var data struct {
		Property string `json:"property"`
		Message  string `json:"message"`
	}
	_ = json.Unmarshal(e.Data, &data) // whatever is there
	property, message := lsps0.Printable(data.Property), lsps0.Printable(data.Message)
	switch {
	case property != "" && message != "":
		return property + ": " + message
	case property != "":
		return property
	case message != "":
		return message
	}
	return e.Message
}
