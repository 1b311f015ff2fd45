package agent

import (
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/order"
)

// CheckOrder is the wallet's check of an order before anybody pays for it: it is
// over what was asked for, its parts add up, its invoice is over exactly that, and
// a refund promise is signed by the LSP's node.
func CheckOrder(l LSP, ask lsps1.CreateOrderRequest, got lsps1.Order, decode func(string) (ln.Bolt11, error), now time.Time) (Order, error) {
	bad := func(format string, args ...any) (Order, error) {
		return Order{}, errkind.Newf(errkind.Invalid, "it answered with an order that cannot be paid: "+format, args...)
	}
	mirrored := order.Wish{
		LspBalanceSat: ln.Sat(got.LspBalanceSat), ClientBalanceSat: ln.Sat(got.ClientBalanceSat), RequiredConfs: got.RequiredConfs,
		ConfirmWithin: got.ConfirmWithin, ExpiryBlocks: got.ExpiryBlocks, Token: ask.Token, Announce: got.Announce,
	}
	if mirrored != ask.Wish {
		return bad("it is another channel than was asked for")
	}
	if printable(got.OrderID) != got.OrderID {
		return bad("its id is not printable")
	}
	o := Order{
		LSP: l.Name, NodeKey: l.NodeKey, ID: got.OrderID, Wish: ask.Wish, State: got.State, PaymentState: paymentState(got), CreatedAt: now.UTC(),
	}
	if o.State != order.WireCreated {
		return bad("it is %s already", printable(string(o.State)))
	}
	if p := got.Payment.Bolt11; p != nil {
		o.FeeSat, o.TotalSat, o.Bolt11, o.ExpiresAt = ln.Sat(p.FeeSat), ln.Sat(p.TotalSat), p.Invoice, time.Time(p.ExpiresAt)
		if err := checkOrderInvoice(o, decode, now); err != nil {
			return bad("%s", err)
		}
	}
	if p := got.Payment.OnChain; p != nil && ask.RefundAddress != "" {
		if p.RefundAddress != ask.RefundAddress {
			return bad("it would refund to another address than yours")
		}
		if len(p.Address) > lsps1.MaxAddress || printable(p.Address) != p.Address || p.Address == "" {
			return bad("its address cannot be used")
		}
		o.Address, o.ChainFeeSat, o.ChainTotalSat, o.RefundAddress = p.Address, ln.Sat(p.FeeSat), ln.Sat(p.TotalSat), p.RefundAddress
		if o.Bolt11 == "" {
			o.FeeSat, o.TotalSat, o.ExpiresAt = o.ChainFeeSat, o.ChainTotalSat, time.Time(p.ExpiresAt)
		}
		if text := p.RefundPromise.Message; text != "" {
			signer, err := auth.RecoverSigner(text, p.RefundPromise.Signature)
			if err != nil || signer != l.NodeKey {
				return bad("its refund promise is not signed by its node")
			}
			o.Promise, o.PromiseSignature = text, p.RefundPromise.Signature
		}
	}
	switch {
	case o.Bolt11 == "" && o.Address == "":
		return bad("it names no way to pay that this wallet knows (a BOLT 11 invoice, or on chain with a refund address)")
	case !o.ExpiresAt.After(now):
		return bad("it is over already: check the clocks")
	}
	return o, nil
}

func checkOrderInvoice(o Order, decode func(string) (ln.Bolt11, error), now time.Time) error {
	invoice, err := decode(o.Bolt11)
	if err != nil {
		return fmt.Errorf("its invoice cannot be read, or is of another network")
	}
	total, err := o.TotalSat.Msat()
	switch {
	case err != nil || invoice.AmountMsat != total:
		return fmt.Errorf("its invoice is over %s instead of %s", invoice.AmountMsat, o.TotalSat)
	case !invoice.ExpiresAt().After(now):
		return fmt.Errorf("its invoice has expired")
	}
	return nil
}
