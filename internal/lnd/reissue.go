package lnd

import (
	"context"
	"fmt"
	"math"

	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnwire"
	"github.com/lightningnetwork/lnd/zpay32"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// ReissueInvoice signs an invoice of lnd's anew with the node's key: the same payment,
// with what the payer is shown of times and hints changed. lnd's database is not changed,
// and is what the node holds a payment against. It needs WalletResigningRights.
func (c *Client) ReissueInvoice(ctx context.Context, network, text string, r ln.Reissue) (string, error) {
	own, err := DecodeBolt11(network, text)
	if err != nil {
		return "", err
	}
	if r.FinalCltvDelta < own.FinalCltvDelta || r.Expiry > own.Expiry || r.Expiry <= 0 {
		return "", fmt.Errorf("an invoice of %d blocks and %s cannot be shown as one of %d blocks and %s: lnd would refuse its payments",
			own.FinalCltvDelta, own.Expiry, r.FinalCltvDelta, r.Expiry)
	}
	params, err := ChainParams(network)
	if err != nil {
		return "", err
	}
	inv, err := zpay32.Decode(text, params)
	if err != nil {
		return "", fmt.Errorf("read the invoice: %w", err)
	}
	zpay32.CLTVExpiry(uint64(r.FinalCltvDelta))(inv)
	zpay32.Expiry(r.Expiry)(inv)
	// As lnd does: the payee is who signed.
	inv.Destination = nil
	hints := inv.RouteHints
	inv.RouteHints = nil
	for _, route := range hints {
		if len(route) == 0 {
			continue
		}
		last := &route[len(route)-1]
		if !r.Via.IsZero() && string(last.NodeID.SerializeCompressed()) != string(r.Via[:]) {
			continue
		}
		if uint64(last.FeeProportionalMillionths)+uint64(r.ExtraPPM) > math.MaxUint32 {
			return "", fmt.Errorf("a fee of %d and %d ppm: %w", last.FeeProportionalMillionths, r.ExtraPPM, ln.ErrOverflow)
		}
		last.FeeProportionalMillionths += r.ExtraPPM
		inv.RouteHints = append(inv.RouteHints, route)
	}
	if inv.Features == nil {
		inv.Features = lnwire.EmptyFeatureVector()
	}
	out, err := inv.Encode(zpay32.MessageSigner{SignCompact: func(msg []byte) ([]byte, error) {
		// Family 6, index 0 is the node's key.
		resp, err := c.signer.SignMessage(ctx, &signrpc.SignMessageReq{
			Msg: msg, KeyLoc: &signrpc.KeyLocator{KeyFamily: 6, KeyIndex: 0}, CompactSig: true,
		})
		if err != nil {
			return nil, mapError("sign an invoice", err)
		}
		return resp.Signature, nil
	}})
	if err != nil {
		return "", err
	}
	made, err := DecodeBolt11(network, out)
	if err != nil {
		return "", fmt.Errorf("read the invoice that was signed anew: %w", err)
	}
	if made.Payee != own.Payee || made.Hash != own.Hash || made.PaymentAddr != own.PaymentAddr || made.AmountMsat != own.AmountMsat {
		return "", fmt.Errorf("the invoice that was signed anew is not the same payment: lnd signed as %s", made.Payee.Short())
	}
	return out, nil
}
