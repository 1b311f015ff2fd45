package lsps2_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
)

func client() ln.PubKey { return ln.PubKey{2, 7} }

func keys(t require.TestingT) *lsp.Promiser {
	p, err := lsp.NewPromiser(lsp.PromiseKey{Version: 1, Secret: [32]byte{9}})
	require.NoError(t, err)
	return p
}

func item() lsp.OpeningFeeParams {
	return lsp.OpeningFeeParams{
		MinFeeMsat: 546_000, ProportionalPPM: 1200, ValidUntil: time.Date(2023, 2, 23, 8, 47, 30, 511_000_000, time.UTC),
		MinLifetimeBlocks: 1008, MaxClientToSelfDelay: 2016, MinPaymentSizeMsat: 1000, MaxPaymentSizeMsat: 1_000_000_000,
	}
}

// service promises one item and sells it.
type service struct {
	keys *lsp.Promiser
	err  error
	got  lsps2.BuyRequest
}

func (s *service) Menu(_ context.Context, client ln.PubKey, token string) ([]lsp.OpeningFeeParams, error) {
	switch {
	case s.err != nil:
		return nil, s.err
	case token != "":
		return nil, lsps2.ErrToken
	}
	return []lsp.OpeningFeeParams{s.keys.Promise(client, item())}, nil
}

func (s *service) Buy(_ context.Context, client ln.PubKey, r lsps2.BuyRequest) (lsps2.BuyResult, error) {
	s.got = r
	if s.err != nil {
		return lsps2.BuyResult{}, s.err
	}
	if err := s.keys.Verify(client, r.Params); err != nil {
		return lsps2.BuyResult{}, err
	}
	return lsps2.BuyResult{SCID: ln.NewSCID(29451, 4815, 1), CltvExpiryDelta: 144}, nil
}

func params(t require.TestingT, object string) lsps0.Params {
	p, refused := lsps0.ParseParams([]byte(object))
	require.Nil(t, refused)
	return p
}

func call(t *testing.T, method func(context.Context, ln.PubKey, lsps0.Params) (any, error), object string) (string, *lsps0.Error) {
	t.Helper()
	result, err := method(t.Context(), client(), params(t, object))
	if err != nil {
		refused := &lsps0.Error{}
		require.ErrorAs(t, err, &refused)
		return "", refused
	}
	b, err := json.Marshal(result)
	require.NoError(t, err)
	return string(b), nil
}

// The menu has exactly the spec's fields, in its types.
func TestMenu(t *testing.T) {
	s := &service{keys: keys(t)}
	got, refused := call(t, lsps2.GetInfo(s), `{}`)
	require.Nil(t, refused)
	promise := s.keys.Promise(client(), item()).Promise
	require.Equal(t, `{"opening_fee_params_menu":[{"min_fee_msat":"546000","proportional":1200,"valid_until":"2023-02-23T08:47:30.000Z",`+
		`"min_lifetime":1008,"max_client_to_self_delay":2016,"min_payment_size_msat":"1000","max_payment_size_msat":"1000000000","promise":"`+promise+`"}]}`, got)
	again, refused := call(t, lsps2.GetInfo(s), `{"token":null}`)
	require.Nil(t, refused, "LDK sends null for no token")
	require.Equal(t, got, again)
	menu, err := lsps2.ReadMenu(json.RawMessage(got))
	require.NoError(t, err)
	require.NoError(t, s.keys.Verify(client(), menu[0]))

	_, refused = call(t, lsps2.GetInfo(s), `{"token":"SECRETDISCOUNTCOUPON100"}`)
	require.Equal(t, lsps2.CodeUnrecognizedToken, refused.Code)
	_, refused = call(t, lsps2.GetInfo(s), `{"token":1}`)
	require.Equal(t, lsps0.CodeInvalidParams, refused.Code)
	_, refused = call(t, lsps2.GetInfo(s), `{"version":1}`)
	require.Equal(t, []string{"version"}, refused.Data["unrecognized"])

	b, err := json.Marshal(lsps2.NewGetInfoResult(nil))
	require.NoError(t, err)
	require.Equal(t, `{"opening_fee_params_menu":[]}`, string(b))
	menu, err = lsps2.ReadMenu(b)
	require.NoError(t, err)
	require.Empty(t, menu)
}

func buy(t require.TestingT, r lsps2.BuyRequest) string {
	b, err := json.Marshal(r)
	require.NoError(t, err)
	return string(b)
}

func TestBuy(t *testing.T) {
	s := &service{keys: keys(t)}
	good := buy(t, lsps2.BuyRequest{Params: s.keys.Promise(client(), item()), SizeMsat: 42_000, HasSize: true})
	got, refused := call(t, lsps2.Buy(s), good)
	require.Nil(t, refused)
	require.Equal(t, `{"jit_channel_scid":"29451x4815x1","lsp_cltv_expiry_delta":144,"client_trusts_lsp":false}`, got)
	require.Equal(t, ln.Msat(42_000), s.got.SizeMsat)
	result, err := lsps2.ReadBuyResult(json.RawMessage(got))
	require.NoError(t, err)
	require.Equal(t, ln.NewSCID(29451, 4815, 1), result.SCID)

	// Clients write the instant as they like.
	for _, until := range []string{"2023-02-23T08:47:30Z", "2023-02-23T08:47:30+00:00", "2023-02-23T08:47:30.000000Z"} {
		_, refused := call(t, lsps2.Buy(s), strings.Replace(good, "2023-02-23T08:47:30.000Z", until, 1))
		require.Nil(t, refused, until)
	}
	for _, without := range []string{
		buy(t, lsps2.BuyRequest{Params: s.keys.Promise(client(), item())}),
		strings.Replace(good, `"42000"`, `null`, 1),
	} {
		_, refused = call(t, lsps2.Buy(s), without)
		require.Nil(t, refused)
		require.False(t, s.got.HasSize)
	}
	// Any field changed by one, another client's promise, a replayed one of another key.
	for name, altered := range map[string]string{
		"min_fee_msat":             strings.Replace(good, `"546000"`, `"545999"`, 1),
		"proportional":             strings.Replace(good, `1200`, `1199`, 1),
		"valid_until":              strings.Replace(good, `30.000Z`, `31.000Z`, 1),
		"valid_until's fraction":   strings.Replace(good, `30.000Z`, `30.001Z`, 1),
		"min_lifetime":             strings.Replace(good, `1008`, `1009`, 1),
		"max_client_to_self_delay": strings.Replace(good, `2016`, `2017`, 1),
		"min_payment_size_msat":    strings.Replace(good, `"1000"`, `"999"`, 1),
		"max_payment_size_msat":    strings.Replace(good, `"1000000000"`, `"1000000001"`, 1),
		"promise":                  strings.Replace(good, `"v1.`, `"v2.`, 1),
		"another client's":         buy(t, lsps2.BuyRequest{Params: s.keys.Promise(ln.PubKey{3, 7}, item())}),
	} {
		require.NotEqual(t, good, altered, name)
		_, refused := call(t, lsps2.Buy(s), altered)
		require.NotNil(t, refused, name)
		require.Equal(t, lsps2.CodeInvalidParams, refused.Code, name)
	}
	for property, bad := range map[string]string{
		"opening_fee_params":                       `{"payment_size_msat":"1"}`,
		"payment_size_msat":                        strings.Replace(good, `"42000"`, `42000`, 1),
		"opening_fee_params.min_fee_msat":          strings.Replace(good, `"546000"`, `546000`, 1),
		"opening_fee_params.proportional":          strings.Replace(good, `1200`, `"1200"`, 1),
		"opening_fee_params.valid_until":           strings.Replace(good, `2023-02-23T08:47:30.000Z`, `yesterday`, 1),
		"opening_fee_params.min_lifetime":          strings.Replace(good, `1008`, `4294967296`, 1),
		"opening_fee_params.promise":               strings.Replace(good, `"v1.`, `"`+strings.Repeat("a", 512), 1),
		"opening_fee_params.max_payment_size_msat": strings.Replace(good, `"1000000000"`, `"18446744073709551616"`, 1),
	} {
		_, refused := call(t, lsps2.Buy(s), bad)
		require.NotNil(t, refused, property)
		require.Equal(t, lsps0.CodeInvalidParams, refused.Code)
		require.Equal(t, property, refused.Data["property"])
	}
	_, refused = call(t, lsps2.Buy(s), strings.Replace(good, `"promise"`, `"x":1,"promise"`, 1))
	require.Equal(t, []string{"opening_fee_params.x"}, refused.Data["unrecognized"])
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{lsp.ErrOfferExpired, 201},
		{lsp.ErrPromiseBad, 201},
		{lsp.ErrPromiseOldKey, 201},
		{fmt.Errorf("%w (more)", lsp.ErrFeeTooLarge), 202},
		{lsp.ErrTooSmall, 202},
		{lsp.ErrTooLarge, 203},
		{lsp.ErrFeeOverflow, 203},
		{lsps2.ErrToken, 200},
		{errkind.New(errkind.Exhausted, "later"), 1},
	} {
		refused := &lsps0.Error{}
		require.ErrorAs(t, lsps2.Refusal(c.err), &refused)
		require.Equal(t, c.code, refused.Code, c.err)
		if c.code == 1 {
			require.Equal(t, map[string]any{"message": "later"}, refused.Data)
		} else {
			require.Nil(t, refused.Data, "LDK cannot read data")
		}
	}
	ours := errors.New("a secret of ours")
	require.Equal(t, ours, lsps2.Refusal(ours))
}

// What the spec has clients refuse of a menu.
func TestClientRefusesMenus(t *testing.T) {
	one := `{"min_fee_msat":"546000","proportional":1200,"valid_until":"2023-02-23T08:47:30.511Z","min_lifetime":1008,` +
		`"max_client_to_self_delay":2016,"min_payment_size_msat":"0","max_payment_size_msat":"1000000","promise":"abc"}`
	dearer := strings.Replace(one, "546000", "1092000", 1)
	list := func(items ...string) json.RawMessage {
		return json.RawMessage(`{"opening_fee_params_menu":[` + strings.Join(items, ",") + `],"further":1}`)
	}
	menu, err := lsps2.ReadMenu(list(one, dearer))
	require.NoError(t, err)
	require.Len(t, menu, 2)
	require.Equal(t, ln.Msat(0), menu[0].MinPaymentSizeMsat)
	for name, bad := range map[string]json.RawMessage{
		"a further field":  list(strings.Replace(one, `"promise"`, `"ongoing_proportional":1,"promise"`, 1)),
		"a missing field":  list(strings.Replace(one, `"min_lifetime":1008,`, ``, 1)),
		"a long promise":   list(strings.Replace(one, `abc`, strings.Repeat("a", 513), 1)),
		"a binary promise": list(strings.Replace(one, `abc`, `a\u0007`, 1)),
		"out of order":     list(dearer, one),
		"twice the same":   list(one, one),
		"bounds reversed":  list(strings.Replace(one, `"0"`, `"1000001"`, 1)),
		"no list":          json.RawMessage(`{}`),
		"null":             json.RawMessage(`{"opening_fee_params_menu":null}`),
		"not objects":      list(`1`),
		"too many":         list(strings.Split(strings.Repeat(one+"\n", 101), "\n")[:101]...),
	} {
		_, err := lsps2.ReadMenu(bad)
		require.Error(t, err, name)
	}
	for _, bad := range []string{
		`{}`, `{"jit_channel_scid":"1x2","lsp_cltv_expiry_delta":1}`, `{"jit_channel_scid":"1x2x3"}`,
		`{"jit_channel_scid":"1x2x3","lsp_cltv_expiry_delta":65536}`, `{"jit_channel_scid":"1x2x3","lsp_cltv_expiry_delta":1,"client_trusts_lsp":"true"}`,
	} {
		_, err := lsps2.ReadBuyResult(json.RawMessage(bad))
		require.Error(t, err, bad)
	}
	r, err := lsps2.ReadBuyResult(json.RawMessage(`{"jit_channel_scid":"1x2x3","lsp_cltv_expiry_delta":1,"client_trusts_lsp":true,"x":1}`))
	require.NoError(t, err)
	require.True(t, r.ClientTrustsLSP)
}

func TestCheckSize(t *testing.T) {
	p := item()
	for size, want := range map[ln.Msat]error{
		999: lsp.ErrTooSmall, 1000: lsp.ErrFeeTooLarge, 546_000: lsp.ErrFeeTooLarge, 546_999: lsp.ErrFeeTooLarge, 547_000: nil,
		1_000_000_000: nil, 1_000_000_001: lsp.ErrTooLarge, 1<<64 - 1: lsp.ErrTooLarge,
	} {
		_, err := lsps2.CheckSize(p, size, 1000)
		require.ErrorIs(t, err, want, size)
	}
	p.MaxPaymentSizeMsat = 1<<64 - 1
	_, err := lsps2.CheckSize(p, 1<<64-1, 1000)
	require.ErrorIs(t, err, lsp.ErrFeeOverflow)
}

// FuzzBuy: whatever a client sends is refused or read without loss, and only
// what was promised passes the promise.
func FuzzBuy(f *testing.F) {
	k := keys(f)
	promised := k.Promise(client(), item())
	good := buy(f, lsps2.BuyRequest{Params: promised, SizeMsat: 42_000, HasSize: true})
	f.Add([]byte(good))
	f.Add([]byte(strings.Replace(good, ".000Z", "+00:00", 1)))
	f.Add([]byte(buy(f, lsps2.BuyRequest{Params: promised})))
	f.Fuzz(func(t *testing.T, object []byte) {
		p, refused := lsps0.ParseParams(object)
		if refused != nil {
			return
		}
		r, refused := lsps2.ReadBuy(p)
		if refused != nil {
			require.Equal(t, lsps0.CodeInvalidParams, refused.Code)
			return
		}
		again, refused := lsps2.ReadBuy(params(t, buy(t, r)))
		require.Nil(t, refused)
		// Only milliseconds are written.
		r.Params.ValidUntil = r.Params.ValidUntil.Truncate(time.Millisecond)
		require.Equal(t, r, again)
		if k.Verify(client(), r.Params) == nil {
			require.Equal(t, promised, r.Params)
		}
	})
}

// FuzzReadMenu: a menu that a client takes keeps the spec's order.
func FuzzReadMenu(f *testing.F) {
	b, err := json.Marshal(lsps2.NewGetInfoResult([]lsp.OpeningFeeParams{keys(f).Promise(client(), item())}))
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte(`{"opening_fee_params_menu":[]}`))
	f.Fuzz(func(t *testing.T, result []byte) {
		menu, err := lsps2.ReadMenu(result)
		if err != nil {
			return
		}
		for i, p := range menu {
			require.LessOrEqual(t, len(p.Promise), lsp.MaxPromiseLen)
			require.LessOrEqual(t, p.MinPaymentSizeMsat, p.MaxPaymentSizeMsat)
			if i > 0 {
				require.True(t, p.MinFeeMsat > menu[i-1].MinFeeMsat || p.ProportionalPPM > menu[i-1].ProportionalPPM)
			}
		}
	})
}
