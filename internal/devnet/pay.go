package devnet

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
)

// PubKeyBytes is the identity as 33 bytes.
func (n *Node) PubKeyBytes() ([]byte, error) { return hex.DecodeString(n.PubKey) }

// Invoice makes an ordinary invoice.
func (n *Node) Invoice(ctx context.Context, amountMsat int64) (*lnrpc.AddInvoiceResponse, error) {
	invoice, err := n.LN.AddInvoice(ctx, &lnrpc.Invoice{ValueMsat: amountMsat, Memo: "devnet"})
	if err != nil {
		return nil, fmt.Errorf("invoice of %s: %w", n.Name, err)
	}
	return invoice, nil
}

// Pay pays an invoice with up to 16 parts and a fee of at most 5 %, and returns
// the payment in its final state, failed or not. An error means that the
// outcome is not known.
func (n *Node) Pay(ctx context.Context, bolt11 string) (*lnrpc.Payment, error) {
	decoded, err := n.LN.DecodePayReq(ctx, &lnrpc.PayReqString{PayReq: bolt11})
	if err != nil {
		return nil, fmt.Errorf("pay from %s: %w", n.Name, err)
	}
	return n.Send(ctx, &routerrpc.SendPaymentRequest{
		PaymentRequest: bolt11, MaxParts: 16, TimeoutSeconds: 60,
		FeeLimitMsat: decoded.NumMsat/20 + 10_000,
	})
}

// Send runs a payment to its final state. An error means that the outcome is
// not known.
func (n *Node) Send(ctx context.Context, req *routerrpc.SendPaymentRequest) (*lnrpc.Payment, error) {
	req.NoInflightUpdates = true
	stream, err := n.Router.SendPaymentV2(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("pay from %s: %w", n.Name, err)
	}
	for {
		payment, err := stream.Recv()
		if err != nil {
			return nil, fmt.Errorf("pay from %s: %w", n.Name, err)
		}
		switch payment.Status {
		case lnrpc.Payment_SUCCEEDED, lnrpc.Payment_FAILED:
			return payment, nil
		}
	}
}
