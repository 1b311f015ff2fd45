package lnd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// textMeanings maps what lnd writes to what it means. lnd gives most errors as
// code Unknown and a text; this table is the only place that reads the texts.
// Order matters: the first match wins.
func textMeanings() []struct {
	contains string
	is       error
} {
	return []struct {
		contains string
		is       error
	}{
		{"interceptor already exists", ln.ErrStreamTaken},
		{"permission denied", ln.ErrPermission},
		{"cannot get macaroon", ln.ErrPermission},
		{"verification failed", ln.ErrPermission},
		{"is not online", ln.ErrPeerOffline},
		{"peer disconnected", ln.ErrPeerOffline},
		{"peer is offline", ln.ErrPeerOffline},
		{"unable to locate peer", ln.ErrPeerOffline},
		{"not connected to peer", ln.ErrPeerOffline},
		{"peer not connected", ln.ErrPeerOffline},
		{"peer is not connected", ln.ErrPeerOffline},
		{"received funding error", ln.ErrPeerRejected},
		{"channel rejected", ln.ErrPeerRejected},
		{"remote canceled funding", ln.ErrPeerRejected},
		{"already known", ln.ErrKnownTx},
		{"already in mempool", ln.ErrKnownTx},
		{"already have transaction", ln.ErrKnownTx},
		{"txn-already", ln.ErrKnownTx},
		{"transaction already exists", ln.ErrKnownTx},
		{"double spend", ln.ErrDoubleSpend},
		{"already spent", ln.ErrDoubleSpend},
		{"orphan transaction", ln.ErrDoubleSpend},
		{"missing-inputs", ln.ErrDoubleSpend},
		{"missingorspent", ln.ErrDoubleSpend},
		{"missing inputs", ln.ErrDoubleSpend},
		{"output already locked", ln.ErrLeased},
		{"unknown output", ln.ErrSpent},
		{"invoice already settled", ln.ErrInvoiceClosed},
		{"invoice already canceled", ln.ErrInvoiceClosed},
		{"invoice is already settled", ln.ErrInvoiceClosed},
		{"invoice with payment hash already exists", ln.ErrExists},
		{"payment hash already exists", ln.ErrExists},
		{"already exists", ln.ErrExists},
		{"already paid", ln.ErrExists},
		{"payment is in transition", ln.ErrExists},
		{"payment isn't initiated", ln.ErrNotFound},
		{"unable to locate invoice", ln.ErrNotFound},
		{"there are no existing invoices", ln.ErrNotFound},
		{"not found", ln.ErrNotFound},
		{"unknown channel", ln.ErrNotFound},
		{"unable to find closed channel summary", ln.ErrNotFound},
		{"waiting to start", ln.ErrUnavailable},
		{"in the process of starting up", ln.ErrUnavailable},
		{"server is shutting down", ln.ErrUnavailable},
		{"shutting down", ln.ErrUnavailable},
		{"wallet locked", ln.ErrUnavailable},
		{"still in the process of starting", ln.ErrUnavailable},
	}
}

// refusedForNow says that a peer's words for refusing a channel are none of its own
// decision, exactly: whoever runs the peer may write anything else that contains them.
func refusedForNow(words string) bool {
	switch strings.ToLower(strings.TrimSpace(words)) {
	case
		// lnd's for all but a few of its reasons: that it is behind with its chain, for
		// which a new block suffices, and that its acceptor did not grant zero-conf.
		"funding failed due to internal error",
		// The first of these, as older versions say it.
		"synchronizing blockchain",
		// One at a time by default: the next may come once that is in a block.
		"number of pending channels exceed maximum":
		return true
	}
	return false
}

// mapError gives err one meaning and says what was being done. It keeps lnd's
// own words for the log and for the operator; they hold no secret of ours.
func mapError(doing string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w: %w", doing, ln.ErrUnavailable, err)
	}
	st, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("%s: %w: %w", doing, ln.ErrUnavailable, err)
	}
	// These codes are the connection's word or that of a proxy, not lnd's about
	// what was asked: a text in them ("404 (Not Found)") must not be read as one.
	switch st.Code() {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.Unimplemented, codes.ResourceExhausted:
		return fmt.Errorf("%s: %w (lnd: %s)", doing, ln.ErrUnavailable, st.Message())
	default:
	}
	text := strings.ToLower(st.Message())
	for _, m := range textMeanings() {
		if strings.Contains(text, m.contains) {
			return fmt.Errorf("%s: %w (lnd: %s)", doing, m.is, st.Message())
		}
	}
	switch st.Code() {
	case codes.NotFound:
		return fmt.Errorf("%s: %w (lnd: %s)", doing, ln.ErrNotFound, st.Message())
	case codes.AlreadyExists:
		return fmt.Errorf("%s: %w (lnd: %s)", doing, ln.ErrExists, st.Message())
	case codes.PermissionDenied, codes.Unauthenticated:
		return fmt.Errorf("%s: %w (lnd: %s)", doing, ln.ErrPermission, st.Message())
	default:
		return fmt.Errorf("%s: lnd: %s", doing, st.Message())
	}
}
