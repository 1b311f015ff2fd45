// Package loopd drives a user's own loopd, the stock client of Loop, over its REST
// interface.
//
// It promises that a swap is never begun with looser limits than the quote that was
// shown, that loopd's certificate is the one in its directory and no other, and that
// its macaroon goes nowhere else.
package loopd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Config says where loopd is.
type Config struct {
	// Address is HOST:PORT of its REST listener.
	Address string
	// Dir has tls.cert and loop.macaroon: a network's directory of loopd's.
	Dir string
}

// ErrNone: there is no loopd's directory.
var ErrNone = errkind.New(errkind.NotFound, "there is no loopd here: start it against your gateway (docs/swaps.md says how), and name its network's directory with --loop-dir")

// Client is a connection to it.
type Client struct {
	base     string
	macaroon string
	http     *http.Client
}

// Open reads its certificate and macaroon.
func Open(cfg Config) (*Client, error) {
	cert, err := os.ReadFile(filepath.Join(cfg.Dir, "tls.cert"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("loopd's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(cert) {
		return nil, errkind.Newf(errkind.Invalid, "%s is no certificate", filepath.Join(cfg.Dir, "tls.cert"))
	}
	macaroon, err := os.ReadFile(filepath.Join(cfg.Dir, "loop.macaroon"))
	if err != nil {
		return nil, fmt.Errorf("loopd's macaroon: %w", err)
	}
	return &Client{
		base: "https://" + cfg.Address, macaroon: hex.EncodeToString(macaroon),
		http: &http.Client{
			Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			// Beginning a swap in takes a probe and a look at the server.
			Timeout: 90 * time.Second,
		},
	}, nil
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 16 << 20

func (c *Client) call(ctx context.Context, method, path string, query url.Values, send, answer any) error {
	var body io.Reader
	if send != nil {
		raw, err := json.Marshal(send)
		if err != nil {
			return fmt.Errorf("ask loopd: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path+"?"+query.Encode(), body)
	if err != nil {
		return fmt.Errorf("ask loopd: %w", err)
	}
	req.Header.Set("Grpc-Metadata-Macaroon", c.macaroon)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return errkind.Wrap(errkind.Unavailable, err, "loopd does not answer: is it running, and is --loopd its REST address (restlisten)?")
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("loopd's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var refusal struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(raw, &refusal) != nil || refusal.Message == "" {
			refusal.Message = resp.Status
		}
		return errkind.Newf(errkind.Unavailable, "loopd: %s", ln.Clip(refusal.Message, 500))
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return fmt.Errorf("loopd's answer: %w", err)
	}
	return nil
}

// sats are amounts as loopd writes them; negative where it cannot tell.
type sats int64

// UnmarshalJSON reads a number in quotes, as 64-bit numbers are written.
func (s *sats) UnmarshalJSON(raw []byte) error {
	n, err := strconv.ParseInt(string(bytes.Trim(raw, `"`)), 10, 64)
	*s = sats(n)
	return err
}

// most turns an amount of loopd's into ours.
func (s sats) amount(what string) (ln.Sat, error) {
	if s < 0 || ln.Sat(s) > ln.MaxMsat.ToSatFloor() {
		return 0, fmt.Errorf("loopd tells of %d sat of %s", s, what)
	}
	return ln.Sat(s), nil
}

// OutQuote is what a swap out costs.
type OutQuote struct {
	AmountSat, FeeSat, PrepaySat, SweepSat ln.Sat
	PublishBy                              time.Time
	ConfTarget                             int32
}

// confTarget is the stock client's, in blocks, of its sweep.
const confTarget = 9

// QuoteOut asks for a price.
func (c *Client) QuoteOut(ctx context.Context, amount ln.Sat, publishBy time.Time) (OutQuote, error) {
	var got struct {
		Fee    sats `json:"swap_fee_sat"`
		Prepay sats `json:"prepay_amt_sat"`
		Sweep  sats `json:"htlc_sweep_fee_sat"`
	}
	q := OutQuote{AmountSat: amount, PublishBy: publishBy, ConfTarget: confTarget}
	err := c.call(ctx, http.MethodGet, fmt.Sprintf("/v1/loop/out/quote/%d", amount), url.Values{
		"conf_target": {strconv.Itoa(confTarget)}, "swap_publication_deadline": {strconv.FormatInt(publishBy.Unix(), 10)},
	}, nil, &got)
	if err != nil {
		return q, err
	}
	for _, p := range []struct {
		what string
		from sats
		to   *ln.Sat
	}{{"swap fee", got.Fee, &q.FeeSat}, {"prepay", got.Prepay, &q.PrepaySat}, {"sweep", got.Sweep, &q.SweepSat}} {
		if *p.to, err = p.from.amount(p.what); err != nil {
			return q, err
		}
	}
	return q, nil
}

// routing is what a payment may cost on its way: the stock client's 10 sat and 2 %.
func routing(amount ln.Sat) ln.Sat { return 10 + (amount+49)/50 }

// minerFactor is how much dearer than estimated the sweep may become until it is
// made: the stock client's. A sweep that waits for fees to fall loses the output.
const minerFactor = 250

// OutLimits are the most that a swap out may cost beside its fee, which never exceeds the
// quote's.
func (q OutQuote) OutLimits() (routingSat, minerSat ln.Sat) {
	return routing(q.AmountSat) + routing(q.PrepaySat), q.SweepSat * minerFactor
}

// Begun is a swap that loopd has begun.
type Begun struct {
	ID      string `json:"id"`
	Address string `json:"htlc_address,omitempty"`
	Message string `json:"server_message,omitempty"`
}

// begun is the answer to both ways of beginning.
type begun struct {
	ID      string `json:"id_bytes"`
	Address string `json:"htlc_address_p2tr"`
	Message string `json:"server_message"`
}

func (b begun) read() (Begun, error) {
	id, err := base64.StdEncoding.DecodeString(b.ID)
	if err != nil || len(id) != len(ln.Hash{}) {
		return Begun{}, errors.New("loopd began a swap and does not name it: see `loop listswaps`")
	}
	return Begun{ID: hex.EncodeToString(id), Address: b.Address, Message: b.Message}, nil
}

// Out begins a swap out within the quote. An empty address is a fresh one of lnd's
// wallet.
func (c *Client) Out(ctx context.Context, q OutQuote, address string, confs int32) (Begun, error) {
	_, miner := q.OutLimits()
	var got begun
	err := c.call(ctx, http.MethodPost, "/v1/loop/out", nil, map[string]any{
		"amt": q.AmountSat, "dest": address, "is_external_addr": address != "", "max_swap_fee": q.FeeSat, "max_prepay_amt": q.PrepaySat, "max_miner_fee": miner,
		"max_swap_routing_fee": routing(q.AmountSat), "max_prepay_routing_fee": routing(q.PrepaySat), "sweep_conf_target": q.ConfTarget,
		"htlc_confirmations": confs, "swap_publication_deadline": q.PublishBy.Unix(), "initiator": "sluice-wallet",
	}, &got)
	if err != nil {
		return Begun{}, err
	}
	return got.read()
}

// InQuote is what a swap in costs. PublishKnown is false where loopd cannot tell what
// the deposit's transaction will: it begins none then.
type InQuote struct {
	AmountSat, FeeSat, PublishSat ln.Sat
	PublishKnown                  bool
	CltvDelta                     int32
}

// QuoteIn asks for a price.
func (c *Client) QuoteIn(ctx context.Context, amount ln.Sat) (InQuote, error) {
	var got struct {
		Fee     sats  `json:"swap_fee_sat"`
		Publish sats  `json:"htlc_publish_fee_sat"`
		Delta   int32 `json:"cltv_delta"`
	}
	q := InQuote{AmountSat: amount}
	if err := c.call(ctx, http.MethodGet, fmt.Sprintf("/v1/loop/in/quote/%d", amount), nil, nil, &got); err != nil {
		return q, err
	}
	var err error
	if q.FeeSat, err = got.Fee.amount("swap fee"); err != nil {
		return q, err
	}
	if q.PublishKnown = got.Publish >= 0; q.PublishKnown {
		q.PublishSat, err = got.Publish.amount("deposit")
	}
	q.CltvDelta = got.Delta
	return q, err
}

// publishFactor is how much dearer than estimated the deposit's transaction may
// become until it is made: the stock client's.
const publishFactor = 3

// In begins a swap in within the quote.
func (c *Client) In(ctx context.Context, q InQuote) (Begun, error) {
	if !q.PublishKnown {
		return Begun{}, errkind.New(errkind.Conflict, "lnd's wallet has too few confirmed coins for this deposit")
	}
	var got begun
	err := c.call(ctx, http.MethodPost, "/v1/loop/in", nil, map[string]any{
		"amt": q.AmountSat, "max_swap_fee": q.FeeSat, "max_miner_fee": q.PublishSat * publishFactor, "initiator": "sluice-wallet",
	}, &got)
	if err != nil {
		return Begun{}, err
	}
	return got.read()
}

// Swap is one of loopd's.
type Swap struct {
	ID            string    `json:"id"`
	Type          string    `json:"type"`
	State         string    `json:"state"`
	FailureReason string    `json:"failure_reason,omitempty"`
	AmountSat     ln.Sat    `json:"amount_sat"`
	ServerSat     int64     `json:"cost_server_sat"`
	OnchainSat    int64     `json:"cost_onchain_sat"`
	OffchainSat   int64     `json:"cost_offchain_sat"`
	Begun         time.Time `json:"begun"`
}

// Over says that nothing more happens.
func (s Swap) Over() bool { return s.State == "SUCCESS" || s.State == "FAILED" }

// Swaps lists them, newest first.
func (c *Client) Swaps(ctx context.Context) ([]Swap, error) {
	var got struct {
		Swaps []struct {
			ID       string `json:"id_bytes"`
			Type     string `json:"type"`
			State    string `json:"state"`
			Reason   string `json:"failure_reason"`
			Amount   sats   `json:"amt"`
			Begun    sats   `json:"initiation_time"`
			Server   sats   `json:"cost_server"`
			Onchain  sats   `json:"cost_onchain"`
			Offchain sats   `json:"cost_offchain"`
		} `json:"swaps"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/loop/swaps", nil, nil, &got); err != nil {
		return nil, err
	}
	out := make([]Swap, 0, len(got.Swaps))
	for _, s := range got.Swaps {
		id, err := base64.StdEncoding.DecodeString(s.ID)
		if err != nil {
			return nil, fmt.Errorf("loopd's answer: %w", err)
		}
		amount, err := s.Amount.amount("a swap")
		if err != nil {
			return nil, err
		}
		swap := Swap{
			ID: hex.EncodeToString(id), Type: s.Type, State: s.State, AmountSat: amount, ServerSat: int64(s.Server), OnchainSat: int64(s.Onchain),
			OffchainSat: int64(s.Offchain), Begun: time.Unix(0, int64(s.Begun)).UTC(),
		}
		if s.Reason != "FAILURE_REASON_NONE" {
			swap.FailureReason = s.Reason
		}
		out = append(out, swap)
	}
	slices.SortFunc(out, func(a, b Swap) int { return b.Begun.Compare(a.Begun) })
	return out, nil
}
