package agent

import (
	"crypto/tls"
	"fmt"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
)

// authService is what the login asks rights for.
const authService = "lws"

// Dial reaches gateways over gRPC with TLS, the certificate's key pinned where there is a
// file, and logs in with the node's key.
func Dial(sign auth.Sign, now func() time.Time) Connect {
	return func(g Gateway, self ln.PubKey) (lwsv1.HoldsServiceClient, func() error, error) {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if g.Certificate != "" {
			var err error
			if config, err = selfcert.ClientTLS(g.Certificate); err != nil {
				return nil, nil, errkind.Wrap(errkind.Invalid, err, g.Name+": its certificate cannot be used")
			}
		}
		conn, _, err := auth.Dial(g.GRPC, credentials.NewTLS(config), auth.ClientConfig{
			Server: auth.Server{NodeKey: g.NodeKey}, Node: self, Services: []string{authService}, Sign: sign, Now: now,
		})
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", g.Name, err)
		}
		return lwsv1.NewHoldsServiceClient(conn), conn.Close, nil
	}
}
