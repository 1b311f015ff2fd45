package lsps1

import (
	"encoding/json"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/order"
)

// Number is the LSPS that lsps0.list_protocols names.
const Number = 1

// The methods.
const (
	MethodGetInfo     = "lsps1.get_info"
	MethodCreateOrder = "lsps1.create_order"
	MethodGetOrder    = "lsps1.get_order"
)

const (
	// MaxToken bounds a token, MaxAddress an address, in bytes.
	MaxToken   = 1024
	MaxAddress = 128
	// MaxOrderID is the spec's bound of an order's id.
	MaxOrderID = 64
)

// CreateOrderRequest is what a client orders.
type CreateOrderRequest struct {
	order.Wish
	// RefundAddress is empty when the client gave none: then it cannot pay on
	// chain.
	RefundAddress string
	// NullToken: the client wrote null for no token, as LDK's does (order.Terms).
	NullToken bool
}

// ReadCreateOrder reads the parameters of lsps1.create_order. Zeus adds
// client_info, which says what the wallet is; it is not looked at.
func ReadCreateOrder(p lsps0.Params) (r CreateOrderRequest, refused *lsps0.Error) {
	if refused = p.Only(
		"lsp_balance_sat", "client_balance_sat", "required_channel_confirmations", "funding_confirms_within_blocks",
		"channel_expiry_blocks", "token", "refund_onchain_address", "announce_channel", "client_info",
	); refused != nil {
		return r, refused
	}
	read := func(err *lsps0.Error) {
		if refused == nil {
			refused = err
		}
	}
	var err *lsps0.Error
	r.LspBalanceSat, err = p.Sat("lsp_balance_sat")
	read(err)
	r.ClientBalanceSat, err = p.Sat("client_balance_sat")
	read(err)
	r.RequiredConfs, err = p.Uint16("required_channel_confirmations")
	read(err)
	r.ConfirmWithin, err = p.Uint16("funding_confirms_within_blocks")
	read(err)
	r.ExpiryBlocks, err = p.Uint32("channel_expiry_blocks")
	read(err)
	r.NullToken = p.IsNull("token")
	if p.Has("token") {
		r.Token, err = p.String("token", MaxToken)
		read(err)
	}
	if p.Has("refund_onchain_address") {
		r.RefundAddress, err = p.String("refund_onchain_address", MaxAddress)
		read(err)
		if err == nil && r.RefundAddress == "" {
			read(lsps0.InvalidParam("refund_onchain_address", "it is empty: leave it out to pay over Lightning only"))
		}
	}
	r.Announce, err = p.Bool("announce_channel")
	read(err)
	return r, refused
}

// MarshalJSON writes the request as a client.
func (r CreateOrderRequest) MarshalJSON() ([]byte, error) {
	var token any
	switch {
	case r.Token != "":
		token = r.Token
	case r.NullToken:
		token = json.RawMessage("null")
	}
	return json.Marshal(struct {
		LspBalanceSat    lsps0.Sat `json:"lsp_balance_sat"`
		ClientBalanceSat lsps0.Sat `json:"client_balance_sat"`
		RequiredConfs    uint16    `json:"required_channel_confirmations"`
		ConfirmWithin    uint16    `json:"funding_confirms_within_blocks"`
		ExpiryBlocks     uint32    `json:"channel_expiry_blocks"`
		Token            any       `json:"token,omitempty"`
		RefundAddress    string    `json:"refund_onchain_address,omitempty"`
		Announce         bool      `json:"announce_channel"`
	}{
		lsps0.Sat(r.LspBalanceSat), lsps0.Sat(r.ClientBalanceSat), r.RequiredConfs, r.ConfirmWithin, r.ExpiryBlocks, token, r.RefundAddress, r.Announce,
	})
}

// GetOrderRequest names an order.
type GetOrderRequest struct {
	OrderID string `json:"order_id"`
}

// ReadGetOrder reads the parameters of lsps1.get_order.
func ReadGetOrder(p lsps0.Params) (r GetOrderRequest, refused *lsps0.Error) {
	if refused = p.Only("order_id"); refused != nil {
		return r, refused
	}
	r.OrderID, refused = p.String("order_id", MaxOrderID)
	return r, refused
}

// Order is an order as a client is shown it.
type Order struct {
	OrderID          string           `json:"order_id"`
	LspBalanceSat    lsps0.Sat        `json:"lsp_balance_sat"`
	ClientBalanceSat lsps0.Sat        `json:"client_balance_sat"`
	RequiredConfs    uint16           `json:"required_channel_confirmations"`
	ConfirmWithin    uint16           `json:"funding_confirms_within_blocks"`
	ExpiryBlocks     uint32           `json:"channel_expiry_blocks"`
	Token            *string          `json:"token"`
	CreatedAt        lsps0.Datetime   `json:"created_at"`
	Announce         bool             `json:"announce_channel"`
	State            order.OrderState `json:"order_state"`
	Payment          Payment          `json:"payment"`
	Channel          *Channel         `json:"channel"`
}

// Payment are the ways to pay.
type Payment struct {
	Bolt11  *Bolt11  `json:"bolt11,omitempty"`
	OnChain *OnChain `json:"onchain,omitempty"`
}

// Bolt11 is payment over Lightning.
type Bolt11 struct {
	State     order.PaymentState `json:"state"`
	ExpiresAt lsps0.Datetime     `json:"expires_at"`
	FeeSat    lsps0.Sat          `json:"fee_total_sat"`
	TotalSat  lsps0.Sat          `json:"order_total_sat"`
	Invoice   string             `json:"invoice"`
}

// OnChain is payment on the chain. min_fee_for_0conf goes with every order,
// although bLIP-51 wants it absent where unconfirmed payments do not count:
// LDK's client reads no answer without it. RefundPromise is ours: what the
// gateway signed before the address was told.
type OnChain struct {
	State         order.PaymentState `json:"state"`
	ExpiresAt     lsps0.Datetime     `json:"expires_at"`
	FeeSat        lsps0.Sat          `json:"fee_total_sat"`
	TotalSat      lsps0.Sat          `json:"order_total_sat"`
	Address       string             `json:"address"`
	MinConfs      uint16             `json:"min_onchain_payment_confirmations"`
	MinFee        uint32             `json:"min_fee_for_0conf"`
	RefundAddress string             `json:"refund_onchain_address"`
	RefundPromise RefundPromise      `json:"refund_promise"`
}

// RefundPromise is a text and the gateway's signature over it, as lnd's
// signmessage makes it.
type RefundPromise struct {
	Message   string `json:"message"`
	Signature string `json:"signature"`
}

// Channel is what was opened.
type Channel struct {
	FundedAt  lsps0.Datetime `json:"funded_at"`
	Outpoint  string         `json:"funding_outpoint"`
	ExpiresAt lsps0.Datetime `json:"expires_at"`
}

// Show is an order as its client is shown it.
func Show(s order.State) Order {
	o, v := order.Of(s), order.Show(s)
	out := Order{
		OrderID: o.ID, LspBalanceSat: lsps0.Sat(o.LspBalanceSat), ClientBalanceSat: lsps0.Sat(o.ClientBalanceSat),
		RequiredConfs: o.RequiredConfs, ConfirmWithin: o.ConfirmWithin, ExpiryBlocks: o.ExpiryBlocks, Token: &o.Token,
		CreatedAt: lsps0.Datetime(o.CreatedAt), Announce: o.Announce, State: v.State,
	}
	if o.NullToken {
		// LDK's client holds an order against what it asked for, and takes "" for
		// something else than null. It knows no HOLD, and reads nothing more of an LSP
		// that says it: to it PAID is a payment that was received.
		out.Token = nil
		if v.Lightning == order.Hold {
			v.Lightning = order.PaymentPaid
		}
	}
	if l := o.Lightning; l != nil {
		out.Payment.Bolt11 = &Bolt11{
			State: v.Lightning, ExpiresAt: lsps0.Datetime(l.ExpiresAt), FeeSat: lsps0.Sat(l.FeeSat), TotalSat: lsps0.Sat(l.TotalSat), Invoice: o.Bolt11,
		}
	}
	if c := o.OnChain; c != nil {
		out.Payment.OnChain = &OnChain{
			State: v.OnChain, ExpiresAt: lsps0.Datetime(c.ExpiresAt), FeeSat: lsps0.Sat(c.FeeSat), TotalSat: lsps0.Sat(c.TotalSat),
			Address: c.Address, MinConfs: c.MinConfs, MinFee: uint32(min(c.MinFeeFor0Conf, 1<<32-1)), //nolint:gosec // bounded just here
			RefundAddress: c.RefundAddress, RefundPromise: RefundPromise{Message: c.Promise, Signature: c.Signature},
		}
	}
	if ch := v.Channel; ch != nil {
		out.Channel = &Channel{FundedAt: lsps0.Datetime(ch.FundedAt), Outpoint: ch.Outpoint.String(), ExpiresAt: lsps0.Datetime(ch.ExpiresAt)}
	}
	return out
}

// ReadOrder reads an order as the client; unknown names are ignored.
func ReadOrder(result json.RawMessage) (Order, error) {
	var o Order
	if err := json.Unmarshal(result, &o); err != nil {
		return o, fmt.Errorf("the LSP's order cannot be read: %w", err)
	}
	if len(o.OrderID) == 0 || len(o.OrderID) > MaxOrderID {
		return o, fmt.Errorf("the LSP's order has an id of %d bytes", len(o.OrderID))
	}
	for _, p := range []struct{ fee, total lsps0.Sat }{
		{orZero(o.Payment.Bolt11).FeeSat, orZero(o.Payment.Bolt11).TotalSat},
		{orZero(o.Payment.OnChain).FeeSat, orZero(o.Payment.OnChain).TotalSat},
	} {
		sum, err := ln.Sat(p.fee).Add(ln.Sat(o.ClientBalanceSat))
		if p.total != 0 && (err != nil || sum != ln.Sat(p.total)) {
			return o, fmt.Errorf("the LSP's order asks for %d sat, which is not its fee and the client's balance", p.total)
		}
	}
	return o, nil
}

func orZero[T any](p *T) (zero T) {
	if p == nil {
		return zero
	}
	return *p
}

// ReadInfo reads the options as the client.
func ReadInfo(result json.RawMessage) (GetInfoResult, error) {
	var r GetInfoResult
	if err := json.Unmarshal(result, &r); err != nil {
		return r, fmt.Errorf("the LSP's options cannot be read: %w", err)
	}
	return r, nil
}
