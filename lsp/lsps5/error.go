package lsps5

import "github.com/sluice-lsp/sluice/lsp/lsps0"

// The codes of LSPS5. That of an unknown app_name lies outside of LSPS5's range
// in the spec itself.
const (
	CodeTooLong             = 500
	CodeURLParse            = 501
	CodeUnsupportedProtocol = 502
	CodeTooManyWebhooks     = 503
	CodeAppNameNotFound     = 1010
)

// TooLong refuses a name or a URL for its length.
func TooLong() *lsps0.Error { return &lsps0.Error{Code: CodeTooLong, Message: "Too long"} }

// URLParse refuses what is no URL.
func URLParse() *lsps0.Error { return &lsps0.Error{Code: CodeURLParse, Message: "URL parse error"} }

// UnsupportedProtocol refuses a URL that is not HTTPS.
func UnsupportedProtocol() *lsps0.Error {
	return &lsps0.Error{Code: CodeUnsupportedProtocol, Message: "Unsupported protocol"}
}

// TooManyWebhooks refuses one more.
func TooManyWebhooks(most int) *lsps0.Error {
	return &lsps0.Error{Code: CodeTooManyWebhooks, Message: "Too many webhooks", Data: map[string]any{"max_webhooks": most}}
}

// AppNameNotFound refuses to remove what is not there.
func AppNameNotFound() *lsps0.Error {
	return &lsps0.Error{Code: CodeAppNameNotFound, Message: "App name not found"}
}
