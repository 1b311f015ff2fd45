package lnd

import (
	"fmt"

	"github.com/btcsuite/btcd/chaincfg"
	"github.com/lightningnetwork/lnd/zpay32"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// maxBolt11Bytes bounds an invoice before it is parsed; the longest that lnd
// makes, with twenty hints, stays well below.
const maxBolt11Bytes = 7089

// ChainParams are btcd's parameters of a network by its name here.
func ChainParams(network string) (*chaincfg.Params, error) {
	switch network {
	case "mainnet":
		return &chaincfg.MainNetParams, nil
	case "testnet":
		return &chaincfg.TestNet3Params, nil
	case "signet":
		return &chaincfg.SigNetParams, nil
	case "regtest":
		return &chaincfg.RegressionNetParams, nil
	default:
		return nil, fmt.Errorf("network %q: want mainnet, testnet, signet or regtest", network)
	}
}

// DecodeBolt11 reads an invoice (BOLT 11) of the given network, verifying its
// signature and that it has what services need. It makes no call.
func DecodeBolt11(network, text string) (ln.Bolt11, error) {
	if len(text) > maxBolt11Bytes {
		return ln.Bolt11{}, fmt.Errorf("the invoice has %d characters, more than %d", len(text), maxBolt11Bytes)
	}
	params, err := ChainParams(network)
	if err != nil {
		return ln.Bolt11{}, err
	}
	inv, err := zpay32.Decode(text, params)
	if err != nil {
		return ln.Bolt11{}, fmt.Errorf("the text is no %s invoice: %w", network, err)
	}
	if inv.PaymentHash == nil || inv.Destination == nil {
		return ln.Bolt11{}, fmt.Errorf("the invoice names no payment hash or payee")
	}
	out := ln.Bolt11{
		Text: text, Network: network, Hash: *inv.PaymentHash, CreatedAt: inv.Timestamp, Expiry: inv.Expiry(),
		FinalCltvDelta: uint32(inv.MinFinalCLTVExpiry()),
	}
	copy(out.Payee[:], inv.Destination.SerializeCompressed())
	inv.PaymentAddr.WhenSome(func(addr [32]byte) { out.PaymentAddr, out.HasPaymentAddr = addr, true })
	if inv.MilliSat != nil {
		out.AmountMsat = ln.Msat(*inv.MilliSat)
		if out.AmountMsat > ln.MaxMsat {
			return ln.Bolt11{}, fmt.Errorf("the invoice's amount: %w", ln.ErrOverflow)
		}
	}
	if inv.Description != nil {
		out.Description = *inv.Description
	}
	if inv.DescriptionHash != nil {
		out.DescriptionHash = append([]byte(nil), inv.DescriptionHash[:]...)
	}
	for _, route := range inv.RouteHints {
		hops := make([]ln.RouteHint, 0, len(route))
		for _, h := range route {
			hop := ln.RouteHint{
				SCID: ln.SCID(h.ChannelID), BaseFeeMsat: h.FeeBaseMSat,
				FeePPM: h.FeeProportionalMillionths, CltvDelta: h.CLTVExpiryDelta,
			}
			copy(hop.Node[:], h.NodeID.SerializeCompressed())
			hops = append(hops, hop)
		}
		out.RouteHints = append(out.RouteHints, hops)
	}
	return out, nil
}
