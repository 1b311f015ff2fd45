package agent

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
)

// Opener reaches real providers: sign logs in at gateways with the node's key.
func Opener(secret seal.Secret, sign auth.Sign, now func() time.Time) Open {
	return func(p ProviderConfig, self ln.NodeInfo) (provider.Place, error) {
		place, err := open(p, self, secret, sign, now)
		if err != nil {
			return nil, fmt.Errorf("provider %s: %w", p.Name, err)
		}
		return place, nil
	}
}

func open(p ProviderConfig, self ln.NodeInfo, secret seal.Secret, sign auth.Sign, now func() time.Time) (provider.Place, error) {
	folder, err := secret.Place()
	if err != nil {
		return nil, err
	}
	if p.Kind == KindDir {
		return provider.OpenDir(p.Address, folder), nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if p.Certificate != "" {
		if config, err = selfcert.ClientTLS(p.Certificate); err != nil {
			return nil, errkind.Wrap(errkind.Invalid, err, "its certificate cannot be used")
		}
	}
	// Proxies of the environment are honoured: a wallet behind Tor has one.
	web := &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true}
	switch p.Kind {
	case KindGateway:
		return provider.OpenGateway(provider.GatewayConfig{Address: p.Address, Node: p.NodeKey, Self: self.PubKey, TLS: config, Sign: sign, Now: now})
	case KindVSS:
		key, err := secret.AuthKey()
		if err != nil {
			return nil, err
		}
		token, err := credentials(p.Credentials)
		if err != nil {
			return nil, err
		}
		return provider.OpenVSS(p.Address, key, strings.Join(token, ""), &http.Client{Transport: web}, now)
	case KindS3:
		lines, err := credentials(p.Credentials)
		if err != nil {
			return nil, err
		}
		if len(lines) != 2 {
			return nil, errkind.Newf(errkind.Invalid, "%s must have two lines: the access key and the secret", p.Credentials)
		}
		return provider.OpenS3(provider.S3Config{URL: p.Address, Region: p.Region, AccessKey: lines[0], Secret: lines[1], Transport: web}, folder)
	}
	return nil, errkind.Newf(errkind.Invalid, "there is no kind %q", p.Kind)
}

// credentials reads the lines of a file.
func credentials(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, errkind.Wrap(errkind.Invalid, err, "its credentials cannot be read")
	}
	return strings.Fields(string(raw)), nil
}
