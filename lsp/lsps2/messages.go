package lsps2

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// Number is the LSPS that lsps0.list_protocols names.
const Number = 2

// The methods.
const (
	MethodGetInfo = "lsps2.get_info"
	MethodBuy     = "lsps2.buy"
)

// maxToken bounds a token, in bytes.
const maxToken = 1024

// feeParams is opening_fee_params on the wire: these fields and no others, or
// clients must abort.
type feeParams struct {
	MinFeeMsat           lsps0.Msat     `json:"min_fee_msat"`
	Proportional         uint32         `json:"proportional"`
	ValidUntil           lsps0.Datetime `json:"valid_until"`
	MinLifetime          uint32         `json:"min_lifetime"`
	MaxClientToSelfDelay uint32         `json:"max_client_to_self_delay"`
	MinPaymentSizeMsat   lsps0.Msat     `json:"min_payment_size_msat"`
	MaxPaymentSizeMsat   lsps0.Msat     `json:"max_payment_size_msat"`
	Promise              string         `json:"promise"`
}

func toWire(p lsp.OpeningFeeParams) feeParams {
	return feeParams{
		MinFeeMsat: lsps0.Msat(p.MinFeeMsat), Proportional: p.ProportionalPPM, ValidUntil: lsps0.Datetime(p.ValidUntil),
		MinLifetime: p.MinLifetimeBlocks, MaxClientToSelfDelay: p.MaxClientToSelfDelay,
		MinPaymentSizeMsat: lsps0.Msat(p.MinPaymentSizeMsat), MaxPaymentSizeMsat: lsps0.Msat(p.MaxPaymentSizeMsat), Promise: p.Promise,
	}
}

// readFeeParams reads one opening_fee_params; every field is required.
func readFeeParams(o lsps0.Params) (p lsp.OpeningFeeParams, refused *lsps0.Error) {
	if refused = o.Only(
		"min_fee_msat", "proportional", "valid_until", "min_lifetime", "max_client_to_self_delay",
		"min_payment_size_msat", "max_payment_size_msat", "promise",
	); refused != nil {
		return p, refused
	}
	read := func(err *lsps0.Error) {
		if refused == nil {
			refused = err
		}
	}
	var err *lsps0.Error
	p.MinFeeMsat, err = o.Msat("min_fee_msat")
	read(err)
	p.ProportionalPPM, err = o.Uint32("proportional")
	read(err)
	p.ValidUntil, err = o.Datetime("valid_until")
	read(err)
	p.MinLifetimeBlocks, err = o.Uint32("min_lifetime")
	read(err)
	p.MaxClientToSelfDelay, err = o.Uint32("max_client_to_self_delay")
	read(err)
	p.MinPaymentSizeMsat, err = o.Msat("min_payment_size_msat")
	read(err)
	p.MaxPaymentSizeMsat, err = o.Msat("max_payment_size_msat")
	read(err)
	p.Promise, err = o.String("promise", lsp.MaxPromiseLen)
	read(err)
	return p, refused
}

// GetInfoRequest asks for the menu. An empty token is none.
type GetInfoRequest struct {
	Token string `json:"token,omitempty"`
}

// ReadGetInfo reads the parameters of lsps2.get_info.
func ReadGetInfo(p lsps0.Params) (r GetInfoRequest, refused *lsps0.Error) {
	if refused = p.Only("token"); refused != nil {
		return r, refused
	}
	if p.Has("token") {
		r.Token, refused = p.String("token", maxToken)
	}
	return r, refused
}

// GetInfoResult is the menu as it is sent.
type GetInfoResult struct {
	Menu []feeParams `json:"opening_fee_params_menu"`
}

// NewGetInfoResult is the answer to lsps2.get_info; an empty menu says that
// there are no channels at the moment.
func NewGetInfoResult(menu []lsp.OpeningFeeParams) GetInfoResult {
	out := GetInfoResult{Menu: make([]feeParams, 0, len(menu))}
	for _, p := range menu {
		out.Menu = append(out.Menu, toWire(p))
	}
	return out
}

// maxMenu bounds what a client reads.
const maxMenu = 100

// ReadMenu reads the result of lsps2.get_info as the client: an LSP that sends
// what the spec forbids is not dealt with.
func ReadMenu(result json.RawMessage) ([]lsp.OpeningFeeParams, error) {
	items, err := lsps0.ResultList(result, "opening_fee_params_menu", maxMenu)
	if err != nil {
		return nil, err
	}
	menu := make([]lsp.OpeningFeeParams, 0, len(items))
	for i, item := range items {
		p, refused := readFeeParams(item)
		if refused != nil {
			return nil, fmt.Errorf("item %d of the LSP's menu cannot be used: %w (%v)", i+1, refused, refused.Data)
		}
		for _, c := range []byte(p.Promise) {
			if c < ' ' || c > '~' || c == '"' || c == '\\' {
				return nil, fmt.Errorf("item %d of the LSP's menu: its promise is not printable ASCII", i+1)
			}
		}
		menu = append(menu, p)
	}
	checked := slices.Clone(menu)
	for i := range checked {
		// Our operators may not write 0; bLIP-52 lets an LSP.
		checked[i].MinPaymentSizeMsat = max(checked[i].MinPaymentSizeMsat, 1)
	}
	if err := lsp.CheckMenu(checked); err != nil {
		return nil, fmt.Errorf("the LSP's menu breaks bLIP-52: %w", err)
	}
	return menu, nil
}

// BuyRequest asks for a JIT channel. With a size it is MPP+fixed-invoice, else
// no-MPP+var-invoice.
type BuyRequest struct {
	Params   lsp.OpeningFeeParams
	SizeMsat ln.Msat
	HasSize  bool
}

// ReadBuy reads the parameters of lsps2.buy.
func ReadBuy(p lsps0.Params) (r BuyRequest, refused *lsps0.Error) {
	if refused = p.Only("opening_fee_params", "payment_size_msat"); refused != nil {
		return r, refused
	}
	item, refused := p.Object("opening_fee_params")
	if refused != nil {
		return r, refused
	}
	if r.Params, refused = readFeeParams(item); refused != nil {
		return r, refused
	}
	if r.HasSize = p.Has("payment_size_msat"); r.HasSize {
		r.SizeMsat, refused = p.Msat("payment_size_msat")
	}
	return r, refused
}

// MarshalJSON writes the parameters of lsps2.buy as the client.
func (r BuyRequest) MarshalJSON() ([]byte, error) {
	out := struct {
		Params feeParams   `json:"opening_fee_params"`
		Size   *lsps0.Msat `json:"payment_size_msat,omitempty"`
	}{Params: toWire(r.Params)}
	if r.HasSize {
		size := lsps0.Msat(r.SizeMsat)
		out.Size = &size
	}
	return json.Marshal(out)
}

// BuyResult is the answer to lsps2.buy.
type BuyResult struct {
	SCID            ln.SCID `json:"jit_channel_scid"`
	CltvExpiryDelta uint32  `json:"lsp_cltv_expiry_delta"`
	ClientTrustsLSP bool    `json:"client_trusts_lsp"`
}

// ReadBuyResult reads the answer as the client.
func ReadBuyResult(result json.RawMessage) (BuyResult, error) {
	p, refused := lsps0.ParseParams(result)
	if refused != nil {
		return BuyResult{}, refused
	}
	text, refused := p.String("jit_channel_scid", 40)
	if refused != nil {
		return BuyResult{}, refused
	}
	scid, err := ln.ParseSCID(text)
	if err != nil {
		return BuyResult{}, err
	}
	delta, refused := p.Uint16("lsp_cltv_expiry_delta")
	if refused != nil {
		return BuyResult{}, refused
	}
	out := BuyResult{SCID: scid, CltvExpiryDelta: uint32(delta)}
	if p.Has("client_trusts_lsp") {
		if out.ClientTrustsLSP, refused = p.Bool("client_trusts_lsp"); refused != nil {
			return BuyResult{}, refused
		}
	}
	return out, nil
}
