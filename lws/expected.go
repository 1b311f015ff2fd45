package lws

import (
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Expected is an invoice that shows payers a larger final CLTV delta than the wallet's own
// node keeps for it.
type Expected struct {
	Hash           ln.Hash
	FinalCltvDelta uint32
	// Until is when payers can no longer begin to pay it.
	Until time.Time
}

// maxExpiry is how far ahead an invoice may be announced.
const maxExpiry = 30 * 24 * time.Hour

// CheckExpected says whether the gateway takes it.
func (l Limits) CheckExpected(x Expected, now time.Time) error {
	switch {
	case x.Hash == ln.Hash{}:
		return errkind.New(errkind.Invalid, "the payment hash is missing: it has 32 bytes")
	case x.FinalCltvDelta < l.MinFinal || x.FinalCltvDelta > l.MaxFinal:
		return errkind.New(errkind.Invalid, fmt.Sprintf("the final CLTV delta of invoices is %d to %d blocks", l.MinFinal, l.MaxFinal))
	case !x.Until.After(now) || x.Until.After(now.Add(maxExpiry)):
		return errkind.New(errkind.Invalid, "the invoice must expire within 30 days from now")
	}
	return nil
}
