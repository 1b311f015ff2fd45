package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	ordering "github.com/sluice-lsp/sluice/lsp/order"
)

// restClient speaks to sluiced's REST address as a wallet without our programs.
type restClient struct {
	t        *testing.T
	client   *http.Client
	address  string
	macaroon string
}

// serveREST puts the running process's API on the wire, with the doors that
// sluiced has.
func (r *rig) serveREST() *restClient {
	t := r.t
	t.Helper()
	dir := t.TempDir()
	keys, err := auth.NewFileRootKeys(filepath.Join(dir, "keys"))
	require.NoError(t, err)
	bakery, err := auth.NewBakery(r.ctx, keys, rand.Reader, time.Now)
	require.NoError(t, err)
	gateway, err := ln.ParsePubKey(r.gateway.PubKey())
	require.NoError(t, err)
	api := r.service.Load().api
	login, err := auth.NewLogin(auth.LoginConfig{
		Server: auth.Server{NodeKey: gateway, ID: "rest"}, Bakery: bakery, Services: []string{api.Name()}, MacaroonLife: time.Hour, Rand: rand.Reader, Now: time.Now,
	})
	require.NoError(t, err)
	certPath := filepath.Join(dir, "tls.cert")
	cert, err := selfcert.Open(selfcert.Config{CertPath: certPath, KeyPath: filepath.Join(dir, "tls.key"), Now: time.Now})
	require.NoError(t, err)
	server, err := rpcserver.Listen(r.ctx, rpcserver.Config{
		GRPCAddress: "127.0.0.1:0", RESTAddress: "127.0.0.1:0", TLS: cert.TLS(), Verifier: bakery, Limits: auth.DefaultLimits(),
		MaxMessageBytes: 64 << 10, StopTimeout: time.Second, Log: r.log, Now: time.Now, Rand: rand.Reader, Registry: prometheus.NewRegistry(),
	}, login, api)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	cfg, err := selfcert.ClientTLS(certPath)
	require.NoError(t, err)
	c := &restClient{t: t, client: &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}, Timeout: time.Minute}, address: "https://" + server.RESTAddr().String()}
	t.Cleanup(c.client.CloseIdleConnections)
	return c
}

// call fills out and returns the status and the body.
func (c *restClient) call(method, path string, in, out any) (int, []byte) {
	c.t.Helper()
	var body []byte
	if in != nil {
		var err error
		body, err = json.Marshal(in)
		require.NoError(c.t, err)
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.address+path, bytes.NewReader(body))
	require.NoError(c.t, err)
	if c.macaroon != "" {
		r.Header.Set("Authorization", "Bearer "+c.macaroon)
	}
	resp, err := c.client.Do(r)
	require.NoError(c.t, err)
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	if out != nil && resp.StatusCode == http.StatusOK {
		require.NoError(c.t, json.Unmarshal(content, out), string(content))
	}
	return resp.StatusCode, content
}

func (c *restClient) login(r *rig, node lnrpc.LightningClient, key string) {
	c.t.Helper()
	var challenge struct {
		Message string `json:"message"`
		Seal    string `json:"seal"`
	}
	code, body := c.call(http.MethodPost, "/v1/auth/challenge", map[string]string{"node_id": key}, &challenge)
	require.Equal(c.t, http.StatusOK, code, string(body))
	signed, err := node.SignMessage(r.ctx, &lnrpc.SignMessageRequest{Msg: []byte(challenge.Message)})
	require.NoError(c.t, err)
	var got struct {
		Macaroon string `json:"macaroon"`
	}
	code, body = c.call(http.MethodPost, "/v1/auth/login", map[string]string{
		"message": challenge.Message, "seal": challenge.Seal, "signature": signed.Signature,
	}, &got)
	require.Equal(c.t, http.StatusOK, code, string(body))
	c.macaroon = got.Macaroon
}

// An HTTP wallet orders a channel: with the names of bLIP-51, and for the node
// whose key it has proved and nobody else.
func TestLSPS1OverREST(t *testing.T) {
	b := newBuyer(t, 13, nil)
	b.step = 20 * time.Millisecond
	b.up()
	c := b.serveREST()

	var info map[string]any
	code, body := c.call(http.MethodGet, "/api/v1/get_info", nil, &info)
	require.Equal(t, http.StatusOK, code, string(body))
	raw, err := b.lsps.Call(b.ctx, lsps1.MethodGetInfo, nil)
	require.NoError(t, err)
	var overPeer map[string]any
	require.NoError(t, json.Unmarshal(raw, &overPeer))
	for name := range overPeer {
		require.Contains(t, info, name, "bLIP-51's field is missing over HTTP")
	}
	require.Contains(t, info, "uris")

	wish := map[string]any{
		"lsp_balance_sat": "500000", "client_balance_sat": "50000", "required_channel_confirmations": 0, "funding_confirms_within_blocks": 6,
		"channel_expiry_blocks": 144, "token": "", "refund_onchain_address": b.refund, "announce_channel": false,
	}
	code, _ = c.call(http.MethodPost, "/api/v1/create_order", wish, nil)
	require.Equal(t, http.StatusUnauthorized, code, "nobody has proved a key")
	c.login(b.rig, b.ln(b.wallet), b.wallet.PubKey())

	// No field names another node.
	code, body = c.call(http.MethodPost, "/api/v1/create_order", map[string]any{"public_key": b.payer.PubKey(), "lsp_balance_sat": "500000"}, nil)
	require.Equal(t, http.StatusBadRequest, code, string(body))
	code, body = c.call(http.MethodPost, "/api/v1/create_order", map[string]any{"lsp_balance_sat": "1"}, nil)
	require.Equal(t, http.StatusBadRequest, code, string(body))

	code, body = c.call(http.MethodPost, "/api/v1/create_order", wish, nil)
	require.Equal(t, http.StatusOK, code, string(body))
	made, err := lsps1.ReadOrder(body)
	require.NoError(t, err, string(body))
	require.Equal(t, ordering.WireCreated, made.State)
	require.NotEmpty(t, made.Payment.OnChain.RefundPromise.Signature)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, b.outcome(b.pay(made.Payment.Bolt11.Invoice)).Status, b.story(made.OrderID))

	get := "/api/v1/get_order?order_id=" + made.OrderID
	var last []byte
	require.Eventually(t, func() bool {
		code, last = c.call(http.MethodGet, get, nil, nil)
		if code != http.StatusOK {
			return false
		}
		o, err := lsps1.ReadOrder(last)
		require.NoError(t, err, string(last))
		return o.State == ordering.WireCompleted && o.Payment.Bolt11.State == ordering.PaymentPaid
	}, time.Minute, 50*time.Millisecond, "%s", &last)
	// Over the peer connection it is the same order.
	require.Equal(t, ordering.WireCompleted, b.get(made.OrderID).State)

	// Another client's order does not exist.
	c.login(b.rig, b.ln(b.payer), b.payer.PubKey())
	code, body = c.call(http.MethodGet, get, nil, nil)
	require.Equal(t, http.StatusNotFound, code, string(body))
}
