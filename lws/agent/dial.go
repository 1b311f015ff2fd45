package agent

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/gateways"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

// authService is what the login asks rights for.
const authService = "lws"

// Dial reaches gateways over gRPC with TLS, the certificate's key pinned where there is a
// file, and logs in with the node's key.
func Dial(sign auth.Sign, now func() time.Time) Connect {
	return gateways.Dial(authService, lwsv1.NewHoldsServiceClient, sign, now)
}
