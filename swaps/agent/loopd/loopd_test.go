package loopd

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// loopdOf answers as loopd v0.34.0-beta does, and remembers what it was asked.
func loopdOf(t *testing.T, answers map[string]string) (*Client, *[]string) {
	t.Helper()
	var asked []string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Grpc-Metadata-Macaroon") != hex.EncodeToString([]byte("secret")) {
			http.Error(w, `{"code":2,"message":"cannot determine data format of binary-encoded macaroon","details":[]}`, http.StatusInternalServerError)
			return
		}
		body := map[string]any{}
		_ = json.NewDecoder(r.Body).Decode(&body)
		line := r.Method + " " + r.URL.String()
		if len(body) > 0 {
			raw, _ := json.Marshal(body)
			line += " " + string(raw)
		}
		asked = append(asked, line)
		answer, ok := answers[r.Method+" "+r.URL.Path]
		if !ok {
			http.Error(w, `{"code":2,"message":"no room","details":[]}`, http.StatusInternalServerError)
			return
		}
		_, _ = w.Write([]byte(answer))
	}))
	t.Cleanup(s.Close)
	dir := t.TempDir()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.cert"), cert, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "loop.macaroon"), []byte("secret"), 0o600))
	c, err := Open(Config{Address: strings.TrimPrefix(s.URL, "https://"), Dir: dir})
	require.NoError(t, err)
	return c, &asked
}

const id = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

func TestSwapOut(t *testing.T) {
	ctx := context.Background()
	c, asked := loopdOf(t, map[string]string{
		"GET /v1/loop/out/quote/500000": `{"swap_fee_sat":"1500","prepay_amt_sat":"1000","htlc_sweep_fee_sat":"300","cltv_delta":100,"conf_target":9}`,
		"POST /v1/loop/out":             `{"id":"00","id_bytes":"` + id + `","htlc_address_p2tr":"bcrt1p","server_message":"hello"}`,
	})
	q, err := c.QuoteOut(ctx, 500_000, time.Unix(1_700_000_000, 0))
	require.NoError(t, err)
	require.EqualValues(t, 1_500, q.FeeSat)
	b, err := c.Out(ctx, q, "bcrt1q", 2)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(b.ID, "000102030405"))
	require.Equal(t, "hello", b.Message)
	require.Equal(t, "GET /v1/loop/out/quote/500000?conf_target=9&swap_publication_deadline=1700000000", (*asked)[0])
	// Exactly the quote, and the stock client's room for what nobody can promise.
	require.Equal(t, `POST /v1/loop/out? {"amt":500000,"dest":"bcrt1q","htlc_confirmations":2,"initiator":"sluice-wallet","is_external_addr":true,"max_miner_fee":75000,"max_prepay_amt":1000,"max_prepay_routing_fee":30,"max_swap_fee":1500,"max_swap_routing_fee":10010,"swap_publication_deadline":1700000000,"sweep_conf_target":9}`, (*asked)[1])
}

func TestSwapIn(t *testing.T) {
	ctx := context.Background()
	answers := map[string]string{
		"GET /v1/loop/in/quote/500000": `{"swap_fee_sat":"1500","htlc_publish_fee_sat":"400","cltv_delta":1000}`,
		"POST /v1/loop/in":             `{"id_bytes":"` + id + `","htlc_address_p2tr":"bcrt1p"}`,
	}
	c, asked := loopdOf(t, answers)
	q, err := c.QuoteIn(ctx, 500_000)
	require.NoError(t, err)
	require.EqualValues(t, 1_000, q.CltvDelta)
	_, err = c.In(ctx, q)
	require.NoError(t, err)
	require.Equal(t, `POST /v1/loop/in? {"amt":500000,"initiator":"sluice-wallet","max_miner_fee":1200,"max_swap_fee":1500}`, (*asked)[1])
	// lnd cannot pay the deposit.
	answers["GET /v1/loop/in/quote/500000"] = `{"swap_fee_sat":"1500","htlc_publish_fee_sat":"-1","cltv_delta":1000}`
	q, err = c.QuoteIn(ctx, 500_000)
	require.NoError(t, err)
	_, err = c.In(ctx, q)
	require.ErrorIs(t, err, errkind.Conflict)
	require.Len(t, *asked, 3)
}

func TestList(t *testing.T) {
	c, _ := loopdOf(t, map[string]string{"GET /v1/loop/swaps": `{"swaps":[
		{"amt":"250000","id_bytes":"` + id + `","type":"LOOP_OUT","state":"SUCCESS","failure_reason":"FAILURE_REASON_NONE","initiation_time":"1700000000000000000","cost_server":"900","cost_onchain":"200","cost_offchain":"0"},
		{"amt":"300000","id_bytes":"` + id + `","type":"LOOP_IN","state":"INITIATED","failure_reason":"FAILURE_REASON_NONE","initiation_time":"1700000001000000000","cost_server":"-5","cost_onchain":"0","cost_offchain":"0"}]}`})
	list, err := c.Swaps(context.Background())
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, "LOOP_IN", list[0].Type, "the newest first")
	require.EqualValues(t, -5, list[0].ServerSat)
	require.False(t, list[0].Over())
	require.True(t, list[1].Over())
	require.Empty(t, list[1].FailureReason)
}

func TestWhatGoesWrong(t *testing.T) {
	ctx := context.Background()
	c, _ := loopdOf(t, map[string]string{"GET /v1/loop/out/quote/1": `{"swap_fee_sat":"-1"}`, "POST /v1/loop/in": `{"id_bytes":"AA=="}`})
	_, err := c.QuoteOut(ctx, 2, time.Now())
	require.ErrorContains(t, err, "no room")
	_, err = c.QuoteOut(ctx, 1, time.Now())
	require.ErrorContains(t, err, "-1 sat of swap fee")
	_, err = c.In(ctx, InQuote{PublishKnown: true})
	require.ErrorContains(t, err, "does not name it")
	_, err = Open(Config{Dir: t.TempDir()})
	require.ErrorIs(t, err, ErrNone)
	c.base = "https://127.0.0.1:1"
	_, err = c.Swaps(ctx)
	require.ErrorIs(t, err, errkind.Unavailable)
	require.Contains(t, errkind.Sentence(err), "restlisten")
}
