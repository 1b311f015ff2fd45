package agent

import (
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
)

// authService is what the login asks rights for.
const authService = "swaps"

// Dial reaches gateways over gRPC with TLS, the certificate's key pinned where there is a
// file, and logs in with the node's key.
func Dial(sign auth.Sign, now func() time.Time) Connect {
	return func(g Gateway, self ln.PubKey) (swapsv1.ChannelSwapsServiceClient, func() error, error) {
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
		return swapsv1.NewChannelSwapsServiceClient(conn), conn.Close, nil
	}
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
