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

// Where the operator allows it an HTTP wallet of any make buys as it does elsewhere:
// it names its node, which is connected, and asks for the order by its id. What it
// may have open is bounded, by node and by address, and takes nothing of what the node
// itself may have.
func TestLSPS1OverHTTPWithoutALogin(t *testing.T) {
	b := newBuyer(t, 15, func(c *Config) {
		c.LSP.Orders.Open, c.LSP.Orders.OpenPerNode, c.LSP.Orders.OpenPerAddress = true, 2, 5
	})
	b.step = 20 * time.Millisecond
	b.up()
	c := b.serveREST()
	stock := func(key string) map[string]any {
		return map[string]any{
			"public_key": key, "lsp_balance_sat": "500000", "client_balance_sat": "50000", "required_channel_confirmations": "0",
			"funding_confirms_within_blocks": "6", "channel_expiry_blocks": "144", "token": "", "refund_onchain_address": b.refund, "announce_channel": false,
			"client_info": map[string]any{"wallet": "zeus"},
		}
	}
	order := func(key string) (int, []byte) {
		return c.call(http.MethodPost, "/api/v1/create_order", stock(key), nil)
	}
	for name, key := range map[string]string{"no node": "", "no key": "02aa"} {
		code, body := order(key)
		require.Contains(t, []int{http.StatusUnauthorized, http.StatusBadRequest}, code, "%s: %s", name, body)
	}
	// The first of the five of this address: a node that is not there gets no order.
	code, body := order("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
	require.Equal(t, http.StatusConflict, code, string(body))
	require.Contains(t, string(body), "not connected")

	code, body = order(b.wallet.PubKey())
	require.Equal(t, http.StatusOK, code, string(body))
	made, err := lsps1.ReadOrder(body)
	require.NoError(t, err, string(body))
	require.Contains(t, made.Payment.OnChain.RefundPromise.Message, b.wallet.PubKey())
	require.Equal(t, lnrpc.Payment_SUCCEEDED, b.outcome(b.pay(made.Payment.Bolt11.Invoice)).Status, b.story(made.OrderID))
	get := "/api/v1/get_order?order_id=" + made.OrderID
	require.Eventually(t, func() bool {
		// Its address may call five times a second.
		if code, body = c.call(http.MethodGet, get, nil, nil); code != http.StatusOK {
			return false
		}
		o, err := lsps1.ReadOrder(body)
		require.NoError(t, err, string(body))
		return o.State == ordering.WireCompleted
	}, 2*time.Minute, 300*time.Millisecond, "%s", &body)
	require.Equal(t, 1, b.channels(), "to the node that was named")

	// The node's own orders are its own, whoever has their id; and it may log in.
	own := b.order()
	code, body = c.call(http.MethodGet, "/api/v1/get_order?order_id="+own.OrderID, nil, nil)
	require.Equal(t, http.StatusNotFound, code, string(body))
	c.login(b.rig, b.ln(b.wallet), b.wallet.PubKey())
	code, body = c.call(http.MethodGet, get, nil, nil)
	require.Equal(t, http.StatusOK, code, string(body))
	code, body = c.call(http.MethodPost, "/api/v1/create_order", stock(b.payer.PubKey()), nil)
	require.Equal(t, http.StatusBadRequest, code, string(body))
	code, body = c.call(http.MethodPost, "/api/v1/create_order", stock(b.wallet.PubKey()), nil)
	require.Equal(t, http.StatusOK, code, string(body))
	c.macaroon = "00"
	code, body = order(b.wallet.PubKey())
	require.Equal(t, http.StatusUnauthorized, code, "what is shown for a macaroon is verified: %s", body)
	c.macaroon = ""

	// Bounds: two of the node wait for payment, and the address has used up its five.
	// The node itself goes on.
	for _, want := range []string{"", "", "open for this node already", "from this address", "from this address"} {
		code, body = order(b.wallet.PubKey())
		if want == "" {
			require.Equal(t, http.StatusOK, code, string(body))
			continue
		}
		require.Equal(t, http.StatusTooManyRequests, code, string(body))
		require.Contains(t, string(body), want)
	}
	require.Equal(t, ordering.WireCreated, b.order().State)
}
