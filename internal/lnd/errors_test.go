package lnd

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// A payment that lnd "does not know" is taken as never sent, and an invoice
// that is "not found" as cancelled: nothing but lnd's own word may say so.
func TestOnlyLndSaysNotFound(t *testing.T) {
	proxy := "unexpected HTTP status code received from server: 404 (Not Found); transport: received unexpected content-type"
	for _, code := range []codes.Code{codes.Unimplemented, codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted} {
		err := mapError("track payment", status.Error(code, proxy))
		require.ErrorIs(t, err, ln.ErrUnavailable, code.String())
		require.NotErrorIs(t, err, ln.ErrNotFound, code.String())
	}
	require.ErrorIs(t, mapError("track payment", status.Error(codes.NotFound, "payment isn't initiated")), ln.ErrNotFound)
	require.ErrorIs(t, mapError("cancel invoice", status.Error(codes.Unknown, "unable to locate invoice")), ln.ErrNotFound)
}

// A peer's refusal is taken for one that may pass only if it is exactly what its node says
// of itself: everything else is its own word.
func TestRefusedForNow(t *testing.T) {
	open := func(words string) error {
		return openError(status.Error(codes.Unknown, "remote canceled funding, possibly timed out: received funding error from 034bc5: chan_id=1ff025, err="+words))
	}
	for _, words := range []string{"funding failed due to internal error", "Synchronizing blockchain", "Number of pending channels exceed maximum"} {
		err := open(words)
		require.ErrorIs(t, err, ln.ErrPeerNotNow, words)
		require.ErrorIs(t, err, ln.ErrPeerRejected, words)
		require.ErrorContains(t, err, words)
	}
	for _, words := range []string{"not today", "channel too large", "no: funding failed due to internal error", "channel rejected", ""} {
		err := open(words)
		require.ErrorIs(t, err, ln.ErrPeerRejected, words)
		require.NotErrorIs(t, err, ln.ErrPeerNotNow, words)
	}
	for _, text := range []string{"channel rejected", "funding failed due to internal error"} {
		require.NotErrorIs(t, openError(status.Error(codes.Unknown, text)), ln.ErrPeerNotNow, "not the peer's")
	}
}
