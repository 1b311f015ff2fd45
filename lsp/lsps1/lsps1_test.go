package lsps1_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/order"
)

func options() lsps1.Options {
	return lsps1.Options{
		MinRequiredConfs: 0, MinConfirmWithin: 6, MaxExpiryBlocks: 20_160, MinClientSat: 20_000, MaxClientSat: 100_000_000,
		MinLspSat: 10_000, MaxLspSat: 100_000_000, MinChannelSat: 50_000, MaxChannelSat: 100_000_000,
	}
}

func params(t require.TestingT, object string) lsps0.Params {
	p, refused := lsps0.ParseParams([]byte(object))
	require.Nil(t, refused)
	return p
}

// bLIP-51's own example.
const example = `{"lsp_balance_sat":"5000000","client_balance_sat":"2000000","required_channel_confirmations":0,"funding_confirms_within_blocks":6,` +
	`"channel_expiry_blocks":144,"token":"","refund_onchain_address":"bc1qvmsy0f3yyes6z9jvddk8xqwznndmdwapvrc0xrmhd3vqj5rhdrrq6hz49h","announce_channel":true}`

// The spec's fields in its types, and nothing else; what clients in the field add
// or leave out is understood.
func TestCreateOrder(t *testing.T) {
	r, refused := lsps1.ReadCreateOrder(params(t, example))
	require.Nil(t, refused)
	require.Equal(t, order.Wish{LspBalanceSat: 5_000_000, ClientBalanceSat: 2_000_000, ConfirmWithin: 6, ExpiryBlocks: 144, Announce: true}, r.Wish)
	for name, object := range map[string]string{
		"LDK sends null for no token": strings.Replace(example, `"token":""`, `"token":null`, 1),
		"Zeus says what it is":        strings.Replace(example, `"token":""`, `"client_info":{"wallet":"zeus"}`, 1),
		"no address, so not on chain": strings.Replace(example, `"refund_onchain_address":"bc1qvmsy0f3yyes6z9jvddk8xqwznndmdwapvrc0xrmhd3vqj5rhdrrq6hz49h",`, ``, 1),
		"the request as we write it":  string(must(json.Marshal(r))),
	} {
		_, refused := lsps1.ReadCreateOrder(params(t, object))
		require.Nil(t, refused, name)
	}
	for property, bad := range map[string]string{
		"lsp_balance_sat":                strings.Replace(example, `"5000000"`, `5000000`, 1),
		"client_balance_sat":             strings.Replace(example, `"2000000"`, `"-1"`, 1),
		"required_channel_confirmations": strings.Replace(example, `confirmations":0`, `confirmations":65536`, 1),
		"funding_confirms_within_blocks": strings.Replace(example, `blocks":6`, `blocks":"6"`, 1),
		"channel_expiry_blocks":          strings.Replace(example, `144`, `4294967296`, 1),
		"announce_channel":               strings.Replace(example, `true`, `"true"`, 1),
		"token":                          strings.Replace(example, `"token":""`, `"token":"`+strings.Repeat("a", 1025)+`"`, 1),
		"refund_onchain_address":         strings.Replace(example, `bc1qvmsy0f3yyes6z9jvddk8xqwznndmdwapvrc0xrmhd3vqj5rhdrrq6hz49h`, ``, 1),
	} {
		_, refused := lsps1.ReadCreateOrder(params(t, bad))
		require.NotNil(t, refused, property)
		require.Equal(t, lsps0.CodeInvalidParams, refused.Code)
		require.Equal(t, property, refused.Data["property"])
	}
	_, refused = lsps1.ReadCreateOrder(params(t, strings.Replace(example, `"token"`, `"tokens"`, 1)))
	require.Equal(t, []string{"tokens"}, refused.Data["unrecognized"])
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// An order is at, just inside and just outside every option.
func TestOptions(t *testing.T) {
	o := options()
	require.NoError(t, o.Validate())
	good := order.Wish{LspBalanceSat: 5_000_000, ClientBalanceSat: 2_000_000, ConfirmWithin: 6, ExpiryBlocks: 144}
	require.NoError(t, o.Check(good))
	for property, pair := range map[string]struct{ inside, outside func(*order.Wish) }{
		"min_initial_lsp_balance_sat":        {func(w *order.Wish) { w.LspBalanceSat, w.ClientBalanceSat = 10_000, 40_000 }, func(w *order.Wish) { w.LspBalanceSat = 9_999 }},
		"max_initial_lsp_balance_sat":        {func(w *order.Wish) { w.LspBalanceSat = 98_000_000 }, func(w *order.Wish) { w.LspBalanceSat = 100_000_001 }},
		"min_initial_client_balance_sat":     {func(w *order.Wish) { w.ClientBalanceSat = 20_000 }, func(w *order.Wish) { w.ClientBalanceSat = 19_999 }},
		"max_initial_client_balance_sat":     {func(w *order.Wish) { w.ClientBalanceSat = 95_000_000 }, func(w *order.Wish) { w.ClientBalanceSat = 100_000_001 }},
		"min_funding_confirms_within_blocks": {func(w *order.Wish) { w.ConfirmWithin = 65_535 }, func(w *order.Wish) { w.ConfirmWithin = 5 }},
		"max_channel_expiry_blocks":          {func(w *order.Wish) { w.ExpiryBlocks = 20_160 }, func(w *order.Wish) { w.ExpiryBlocks = 20_161 }},
		"min_channel_balance_sat":            {func(w *order.Wish) { w.LspBalanceSat, w.ClientBalanceSat = 30_000, 20_000 }, func(w *order.Wish) { w.LspBalanceSat, w.ClientBalanceSat = 29_999, 20_000 }},
		"max_channel_balance_sat":            {func(w *order.Wish) { w.LspBalanceSat = 98_000_000 }, func(w *order.Wish) { w.LspBalanceSat = 98_000_001 }},
	} {
		w := good
		pair.inside(&w)
		require.NoError(t, o.Check(w), property)
		w = good
		pair.outside(&w)
		refused := &lsps0.Error{}
		require.ErrorAs(t, lsps1.Refusal(o.Check(w)), &refused, property)
		require.Equal(t, lsps1.CodeOptionMismatch, refused.Code)
		require.Equal(t, property, refused.Data["property"])
	}
	o.MinRequiredConfs = 2
	refused := &lsps0.Error{}
	require.ErrorAs(t, lsps1.Refusal(o.Check(good)), &refused)
	require.Equal(t, "min_required_channel_confirmations", refused.Data["property"])
	w := good
	w.LspBalanceSat, w.ClientBalanceSat = 1<<64-1, 1<<64-1
	require.Error(t, o.Check(w))
	for name, change := range map[string]func(*lsps1.Options){
		"min above max":         func(o *lsps1.Options) { o.MinLspSat = o.MaxLspSat + 1 },
		"clients' min":          func(o *lsps1.Options) { o.MinClientSat = o.MaxClientSat + 1 },
		"channels' min":         func(o *lsps1.Options) { o.MinChannelSat = o.MaxChannelSat + 1 },
		"no blocks":             func(o *lsps1.Options) { o.MinConfirmWithin = 0 },
		"no lease":              func(o *lsps1.Options) { o.MaxExpiryBlocks = 0 },
		"nothing fits":          func(o *lsps1.Options) { o.MaxLspSat, o.MaxClientSat, o.MinChannelSat = 20_000, 20_000, 50_000 },
		"the least is too much": func(o *lsps1.Options) { o.MinChannelSat, o.MaxChannelSat = 0, 25_000 },
	} {
		o := options()
		change(&o)
		require.Error(t, o.Validate(), name)
	}
	b, err := json.Marshal(lsps1.NewGetInfoResult(options()))
	require.NoError(t, err)
	require.Equal(t, `{"min_required_channel_confirmations":0,"min_funding_confirms_within_blocks":6,"supports_zero_channel_reserve":false,`+
		`"max_channel_expiry_blocks":20160,"min_initial_client_balance_sat":"20000","max_initial_client_balance_sat":"100000000",`+
		`"min_initial_lsp_balance_sat":"10000","max_initial_lsp_balance_sat":"100000000","min_channel_balance_sat":"50000","max_channel_balance_sat":"100000000"}`, string(b))
}

func made(onChain bool) order.State {
	at := time.Date(2012, 4, 23, 18, 25, 43, 511_000_000, time.UTC)
	t := order.Terms{
		ID: "bb4b5d0a-8334-49d8-9463-90a6d413af7c", CreatedAt: at,
		Wish: order.Wish{LspBalanceSat: 5_000_000, ClientBalanceSat: 2_000_000, ConfirmWithin: 1, ExpiryBlocks: 12, Announce: true},
		Lightning: &order.Lightning{
			Price: order.Price{FeeSat: 8888, TotalSat: 2_008_888}, Preimage: lsp.NewSecret(ln.Preimage{1}), ExpiresAt: at.Add(time.Hour),
		},
	}
	if onChain {
		t.OnChain = &order.OnChain{
			Price: order.Price{FeeSat: 9999, TotalSat: 2_009_999}, Address: "bc1p", ExpiresAt: at.Add(time.Hour), MinConfs: 3, MinFeeFor0Conf: 253,
			RefundAddress: "bc1q", Promise: "I promise", Signature: "d9tib",
		}
	}
	return order.Awaiting{Order: order.Order{Terms: t, Progress: order.Progress{Bolt11: "lnbc1"}}}
}

// An order is written as the spec has it.
func TestShow(t *testing.T) {
	b, err := json.Marshal(lsps1.Show(made(false)))
	require.NoError(t, err)
	require.Equal(t, `{"order_id":"bb4b5d0a-8334-49d8-9463-90a6d413af7c","lsp_balance_sat":"5000000","client_balance_sat":"2000000",`+
		`"required_channel_confirmations":0,"funding_confirms_within_blocks":1,"channel_expiry_blocks":12,"token":"",`+
		`"created_at":"2012-04-23T18:25:43.511Z","announce_channel":true,"order_state":"CREATED","payment":{"bolt11":{"state":"EXPECT_PAYMENT",`+
		`"expires_at":"2012-04-23T19:25:43.511Z","fee_total_sat":"8888","order_total_sat":"2008888","invoice":"lnbc1"}},"channel":null}`, string(b))
	b, err = json.Marshal(lsps1.Show(made(true)))
	require.NoError(t, err)
	require.Contains(t, string(b), `"onchain":{"state":"EXPECT_PAYMENT","expires_at":"2012-04-23T19:25:43.511Z","fee_total_sat":"9999","order_total_sat":"2009999",`+
		`"address":"bc1p","min_onchain_payment_confirmations":3,"min_fee_for_0conf":253,"refund_onchain_address":"bc1q",`+
		`"refund_promise":{"message":"I promise","signature":"d9tib"}}`)
	require.NotContains(t, string(b), "010000", "the preimage is nobody's")
	o, err := lsps1.ReadOrder(b)
	require.NoError(t, err)
	require.Equal(t, lsps1.Show(made(true)), o)
	_, err = lsps1.ReadOrder([]byte(strings.Replace(string(b), `"2009999"`, `"2010000"`, 1)))
	require.Error(t, err, "a total that is not fee and balance")
}

// LDK's client compares the order with its request and knows three states of a
// payment: an order that it made is written so that it can read it.
func TestShowToLDK(t *testing.T) {
	r, refused := lsps1.ReadCreateOrder(params(t, strings.Replace(example, `"token":""`, `"token":null`, 1)))
	require.Nil(t, refused)
	require.True(t, r.NullToken)
	s := made(true).(order.Awaiting)
	s.NullToken = r.NullToken
	s.PaidBy = order.PaidByLightning
	b, err := json.Marshal(lsps1.Show(s))
	require.NoError(t, err)
	require.Contains(t, string(b), `"token":null`)
	require.Contains(t, string(b), `"bolt11":{"state":"PAID"`)
	s.NullToken = false
	b, err = json.Marshal(lsps1.Show(s))
	require.NoError(t, err)
	require.Contains(t, string(b), `"token":""`)
	require.Contains(t, string(b), `"bolt11":{"state":"HOLD"`)
	for _, token := range []string{`"token":"",`, ``} {
		r, refused = lsps1.ReadCreateOrder(params(t, strings.Replace(example, `"token":"",`, token, 1)))
		require.Nil(t, refused)
		require.False(t, r.NullToken)
	}
}

type service struct{ err error }

func (s service) Options(context.Context) (lsps1.Options, error) { return options(), s.err }

func (s service) Create(context.Context, ln.PubKey, lsps1.CreateOrderRequest) (lsps1.Order, error) {
	return lsps1.Show(made(true)), s.err
}

func (s service) Get(context.Context, ln.PubKey, string) (lsps1.Order, error) {
	return lsps1.Show(made(true)), s.err
}

func TestRefusals(t *testing.T) {
	ours := errors.New("a secret of ours")
	require.Equal(t, ours, lsps1.Refusal(ours))
	for _, c := range []struct {
		err  error
		code int
	}{
		{lsps1.ErrNotFound, 101},
		{lsps1.ErrToken, 102},
		{lsps1.Bad("lsp_balance_sat", "no"), -32602},
		{lsps1.TooLittle(7), 100},
		{errkind.New(errkind.Exhausted, "later"), 1},
	} {
		for _, method := range []func(context.Context, ln.PubKey, lsps0.Params) (any, error){
			lsps1.CreateOrder(service{c.err}), lsps1.GetOrder(service{c.err}), lsps1.GetInfo(service{c.err}),
		} {
			object := example
			_, err := method(t.Context(), ln.PubKey{2}, params(t, object))
			refused := &lsps0.Error{}
			require.ErrorAs(t, err, &refused)
			if refused.Code == lsps0.CodeInvalidParams && c.code != lsps0.CodeInvalidParams {
				continue // not this method's parameters
			}
			require.Equal(t, c.code, refused.Code)
		}
	}
	got, err := lsps1.GetOrder(service{})(t.Context(), ln.PubKey{2}, params(t, `{"order_id":"x"}`))
	require.NoError(t, err)
	require.Equal(t, lsps1.Show(made(true)), got)
	_, err = lsps1.GetOrder(service{})(t.Context(), ln.PubKey{2}, params(t, `{"order_id":"`+strings.Repeat("x", 65)+`"}`))
	require.Error(t, err)
}

// FuzzCreateOrder: whatever a client sends is refused or read without loss.
func FuzzCreateOrder(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte(strings.Replace(example, `"token":""`, `"token":null`, 1)))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, object []byte) {
		p, refused := lsps0.ParseParams(object)
		if refused != nil {
			return
		}
		r, refused := lsps1.ReadCreateOrder(p)
		if refused != nil {
			require.Equal(t, lsps0.CodeInvalidParams, refused.Code)
			return
		}
		raw, err := json.Marshal(r)
		require.NoError(t, err)
		again, refused := lsps1.ReadCreateOrder(params(t, string(raw)))
		require.Nil(t, refused)
		require.Equal(t, r, again)
	})
}

// FuzzReadOrder: whatever an LSP answers is refused, or an order that the client can
// show and hold against what it asked for: ids that are bounded, and ways to pay whose
// fee and balance make their total.
func FuzzReadOrder(f *testing.F) {
	for _, paid := range []bool{false, true} {
		raw, err := json.Marshal(lsps1.Show(made(paid)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"order_id":"x","client_balance_sat":"18446744073709551615","payment":{"bolt11":{"fee_total_sat":"1","order_total_sat":"0"}}}`))
	f.Add([]byte(`{"order_id":"x","payment":{"onchain":null,"bolt11":null},"channel":null,"token":null,"unknown":{}}`))
	f.Fuzz(func(t *testing.T, object []byte) {
		o, err := lsps1.ReadOrder(object)
		if err != nil {
			return
		}
		require.NotEmpty(t, o.OrderID)
		require.LessOrEqual(t, len(o.OrderID), lsps1.MaxOrderID)
		check := func(fee, total lsps0.Sat) {
			if total == 0 {
				return
			}
			sum := new(big.Int).SetUint64(uint64(fee))
			sum.Add(sum, new(big.Int).SetUint64(uint64(o.ClientBalanceSat)))
			require.Equal(t, sum.String(), fmt.Sprint(uint64(total)))
		}
		if b := o.Payment.Bolt11; b != nil {
			check(b.FeeSat, b.TotalSat)
		}
		if c := o.Payment.OnChain; c != nil {
			check(c.FeeSat, c.TotalSat)
		}
		raw, err := json.Marshal(o)
		require.NoError(t, err)
		again, err := lsps1.ReadOrder(raw)
		require.NoError(t, err, "%s", raw)
		require.Equal(t, o, again)
	})
}

// FuzzReadInfo: the same of the options, which come back as they were read; whatever
// they say, an order can be held against them.
func FuzzReadInfo(f *testing.F) {
	f.Add([]byte(`{"min_required_channel_confirmations":0,"min_funding_confirms_within_blocks":6,"supports_zero_channel_reserve":true,"max_channel_expiry_blocks":20160,` +
		`"min_initial_client_balance_sat":"20000","max_initial_client_balance_sat":"100000000","min_initial_lsp_balance_sat":"0","max_initial_lsp_balance_sat":"100000000",` +
		`"min_channel_balance_sat":"50000","max_channel_balance_sat":"100000000"}`))
	f.Add([]byte(`{"max_channel_expiry_blocks":4294967296}`))
	f.Add([]byte(`{"min_channel_balance_sat":"-1"}`))
	f.Fuzz(func(t *testing.T, object []byte) {
		info, err := lsps1.ReadInfo(object)
		if err != nil {
			return
		}
		raw, err := json.Marshal(info)
		require.NoError(t, err)
		again, err := lsps1.ReadInfo(raw)
		require.NoError(t, err, "%s", raw)
		require.Equal(t, info, again)
	})
}
