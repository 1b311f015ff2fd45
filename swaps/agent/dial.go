package agent

import (
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/gateways"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
)

// authService is what the login asks rights for.
const authService = "swaps"

// Dial reaches gateways over gRPC with TLS, the certificate's key pinned where there is a
// file, and logs in with the node's key.
func Dial(sign auth.Sign, now func() time.Time) Connect {
	return gateways.Dial(authService, swapsv1.NewChannelSwapsServiceClient, sign, now)
}

// said gives a gateway's error its kind back, and names the gateway.
func said(g Gateway, err error) error {
	if status.Code(err) == codes.Unimplemented || strings.Contains(err.Error(), "service \"swaps\"") {
		return errkind.Wrap(errkind.Unavailable, err, g.Name+" offers no swaps")
	}
	err = rpcserver.FromStatus(err)
	text := errkind.Sentence(err)
	if text == "" {
		text = err.Error()
	}
	return errkind.Wrap(errkind.Of(err), err, g.Name+": "+text)
}
