package swaps

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Moment is when an event happened: the time and the best block height that
// the gateway knew then, so that a machine needs neither clock nor chain.
type Moment struct {
	At     time.Time `json:"at"`
	Height uint32    `json:"height,omitempty"`
}

// EventTime gives the event's time to the engine.
func (m Moment) EventTime() time.Time { return m.At }

// ReasonCode is the stable name of why a swap ended.
type ReasonCode string

// The reasons.
const (
	ReasonClientCancelled ReasonCode = "client_cancelled"
	ReasonInvoicesFailed  ReasonCode = "invoices_not_made"
	ReasonUnpaid          ReasonCode = "payments_not_held_in_time"
	ReasonReleased        ReasonCode = "payment_released_by_node"
	ReasonUnsafeIncoming  ReasonCode = "incoming_channel_not_safe"
	ReasonMargin          ReasonCode = "held_payment_expires_too_early"
	ReasonLate            ReasonCode = "too_late_to_publish"
	ReasonCoins           ReasonCode = "coins_short_or_fees_too_high"
	ReasonPrepayLost      ReasonCode = "prepay_lost"
	ReasonTimeout         ReasonCode = "client_never_revealed_the_preimage"
	ReasonProbe           ReasonCode = "probe_failed"
	ReasonOutputs         ReasonCode = "several_outputs"
	ReasonAmount          ReasonCode = "output_of_another_amount"
	ReasonPayment         ReasonCode = "payment_failed"
	ReasonLost            ReasonCode = "money_lost"
)

// Reason is why something ended, for people and for counting.
type Reason struct {
	Code ReasonCode `json:"code"`
	Text string     `json:"text"`
}

// Because makes a reason.
func Because(code ReasonCode, format string, args ...any) Reason {
	return Reason{Code: code, Text: fmt.Sprintf(format, args...)}
}

// Secret is a preimage inside a stored state. It prints as the prefix of its
// hash; only its JSON form, which goes to the database and nowhere else, holds
// the secret.
type Secret struct{ preimage ln.Preimage }

// NewSecret keeps a preimage for storage.
func NewSecret(p ln.Preimage) Secret { return Secret{preimage: p} }

// Preimage gives the secret back.
func (s Secret) Preimage() ln.Preimage { return s.preimage }

// IsZero reports that no preimage is known.
func (s Secret) IsZero() bool { return s.preimage.IsZero() }

func (s Secret) String() string { return s.preimage.String() }

// GoString keeps %#v from printing the secret.
func (s Secret) GoString() string { return s.preimage.String() }

// MarshalJSON is the stored form.
func (s Secret) MarshalJSON() ([]byte, error) {
	return []byte(`"` + hex.EncodeToString(s.preimage.Bytes()) + `"`), nil
}

// UnmarshalJSON reads the stored form.
func (s *Secret) UnmarshalJSON(b []byte) error {
	if len(b) != 2+2*len(s.preimage) || b[0] != '"' || b[len(b)-1] != '"' {
		return fmt.Errorf("stored preimage has %d bytes of JSON, not %d", len(b), 2+2*len(s.preimage))
	}
	if _, err := hex.Decode(s.preimage[:], b[1:len(b)-1]); err != nil {
		// The error of hex names the offending byte: a part of the secret.
		return errors.New("stored preimage is not hexadecimal")
	}
	return nil
}
