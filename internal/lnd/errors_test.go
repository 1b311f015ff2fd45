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
