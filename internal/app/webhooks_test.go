package app

import (
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
)

// pushService is a notification delivery service: it checks what the spec has
// it check, and keeps what it was told.
type pushService struct {
	url, caFile string
	told        chan string
}

// startPushService runs outside of any bubble: it lives on the network.
func startPushService(t *testing.T, gateway *ln.PubKey) *pushService {
	t.Helper()
	p := &pushService{told: make(chan string, 100)}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		text := lsps5.SigningText(r.Header.Get(lsps5.HeaderTimestamp), body)
		signer, signErr := auth.RecoverSigner(string(text), r.Header.Get(lsps5.HeaderSignature))
		if err != nil || signErr != nil || signer != *gateway || r.URL.Query().Get("client") != "1" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		p.told <- string(body)
	}))
	t.Cleanup(server.Close)
	p.url = server.URL + "/push?client=1"
	p.caFile = filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	require.NoError(t, os.WriteFile(p.caFile, certificate, 0o600))
	return p
}

func (p *pushService) configure(c *Config) {
	c.LSPS.Webhooks.Networks, c.LSPS.Webhooks.CAFile = []string{"127.0.0.0/8"}, p.caFile
}

// hears polls: a bubble's clock stands still for who waits for a channel from
// outside of it.
func (p *pushService) hears(t *testing.T) string {
	t.Helper()
	for range 300 {
		select {
		case body := <-p.told:
			return body
		default:
			time.Sleep(100 * time.Millisecond)
		}
	}
	t.Fatal("the webhook is not called")
	return ""
}

// TestWebhookWakesAWallet: a wallet whose node is away is told by its webhook
// that a payment waits, comes, and is paid. A process that dies in between tells
// it again when it is back, within the cooldown not at all.
func TestWebhookWakesAWallet(t *testing.T) {
	var gateway ln.PubKey
	push := startPushService(t, &gateway)
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: job{name: "lsps2", lsps2: true, amountSat: 100_000, parts: 1, opens: true}, latency: lndfake.Observed(), configure: push.configure})
		r.openBooks()
		var err error
		gateway, err = ln.ParsePubKey(r.gateway.PubKey())
		require.NoError(t, err)
		_, err = r.lsps.Call(r.ctx, lsps5.MethodSetWebhook, lsps5.SetRequest{AppName: "app", Webhook: push.url})
		refused := &lsps0.RemoteError{}
		require.ErrorAs(t, err, &refused, "it has nothing to do with the gateway")
		require.Equal(t, lsps0.CodeClientRejected, refused.Code)
		a := r.agree()
		raw, err := r.lsps.Call(r.ctx, lsps5.MethodSetWebhook, lsps5.SetRequest{AppName: "app", Webhook: push.url})
		require.NoError(t, err)
		require.JSONEq(t, `{"num_webhooks":1,"max_webhooks":10,"no_change":false}`, string(raw))
		require.Equal(t, string(lsps5.Body(lsps5.WebhookRegistered)), push.hears(t))
		raw, err = r.lsps.Call(r.ctx, lsps5.MethodListWebhooks, nil)
		require.NoError(t, err)
		require.JSONEq(t, `{"app_names":["app"],"max_webhooks":10}`, string(raw))

		r.w.Disconnect(r.gateway, r.wallet)
		r.pause(time.Second)
		paid := r.pay(a.bolt11)
		require.Equal(t, string(lsps5.Body(lsps5.PaymentIncoming)), push.hears(t))
		r.killProcess()
		r.pause(5 * time.Second)
		r.up()
		r.pause(20 * time.Second)
		require.Empty(t, push.told, "it was told a moment ago")
		r.w.Connect(r.gateway, r.wallet)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, r.outcome(paid).Status, r.stories())
		r.settle()
		require.Empty(t, push.told)
		_, err = r.lsps.Call(r.ctx, lsps5.MethodRemoveWebhook, lsps5.RemoveRequest{AppName: "app"})
		require.NoError(t, err)
		_, err = r.lsps.Call(r.ctx, lsps5.MethodRemoveWebhook, lsps5.RemoveRequest{AppName: "app"})
		require.ErrorAs(t, err, &refused)
		require.Equal(t, lsps5.CodeAppNameNotFound, refused.Code)
		require.Empty(t, r.lsps.Odd(), "no lsps5 notification goes over the peer connection")
	})
}
