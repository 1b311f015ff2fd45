package lsps5

import (
	"strconv"
	"time"

	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// The methods of notifications. They are for webhooks only and never sent over
// the peer connection.
const (
	WebhookRegistered = "lsps5.webhook_registered"
	PaymentIncoming   = "lsps5.payment_incoming"
	ExpirySoon        = "lsps5.expiry_soon"
	// LiquidityManagementRequest: the gateway is about to take liquidity back that
	// it has in the client's channels.
	LiquidityManagementRequest = "lsps5.liquidity_management_request"
)

// ExpiryBlocks is how near an HTLC's time-out must be for lsps5.expiry_soon.
const ExpiryBlocks = 24

// Body is the exact body of a notification without parameters. Its members are
// in the order, and without the spaces, that validators write which parse it
// and sign what they wrote.
func Body(method string) []byte {
	return []byte(`{"jsonrpc":"2.0","method":"` + method + `","params":{}}`)
}

// ExpiryBody is the body of lsps5.expiry_soon: timeout is the height at which
// the gateway would have to close the channel.
func ExpiryBody(timeout uint32) []byte {
	return []byte(`{"jsonrpc":"2.0","method":"` + ExpirySoon + `","params":{"timeout":` + strconv.FormatUint(uint64(timeout), 10) + `}}`)
}

// Form is how the signed timestamp is written.
type Form string

// The forms. The spec has one. LDK's validator parses the timestamp, writes it
// in its own form and checks the signature over that, so the spec's text never
// passes it: what a webhook takes is learned from its answers.
const (
	FormSpec Form = "spec"
	FormLDK  Form = "ldk"
)

// Other is the form to try when a webhook does not take this one.
func (f Form) Other() Form {
	if f == FormLDK {
		return FormSpec
	}
	return FormLDK
}

// Timestamp writes an instant for the header and for the signature.
func (f Form) Timestamp(t time.Time) string {
	t = t.UTC().Truncate(time.Millisecond)
	if f != FormLDK {
		return lsps0.Datetime(t).String()
	}
	// As chrono does: no fraction when it is zero.
	if t.Nanosecond() == 0 {
		return t.Format("2006-01-02T15:04:05") + "+00:00"
	}
	return t.Format("2006-01-02T15:04:05.000") + "+00:00"
}

// SigningText is what the gateway's node key signs.
func SigningText(timestamp string, body []byte) []byte {
	return []byte("LSPS5: DO NOT SIGN THIS MESSAGE MANUALLY: LSP: At " + timestamp + " I notify " + string(body))
}

// The headers of a notification.
const (
	HeaderTimestamp = "x-lsps5-timestamp"
	HeaderSignature = "x-lsps5-signature"
)
