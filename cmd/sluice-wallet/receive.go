package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"rsc.io/qr"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
)

type receiveCmd struct {
	Amount amountArg `arg:"" help:"The amount in satoshis (or 1500msat). With --receiver-pays the payer pays exactly this; with --payer-pays exactly this arrives."`

	PayerPays    bool `xor:"who" help:"The payer pays the opening fee on top, as a routing fee. The whole amount arrives, but payers that limit routing fees may refuse."`
	ReceiverPays bool `xor:"who" help:"The opening fee is taken out of the amount (the default: any payer can pay such an invoice)."`

	NoZeroConf     bool          `help:"Don't trust the LSP with an unconfirmed channel: the payment waits until it has confirmed."`
	Confs          uint32        `placeholder:"N" help:"Confirmations to wait for with --no-zero-conf (default 3)."`
	AnotherChannel bool          `default:"true" negatable:"" help:"Agree to a further channel when those there are lack room."`
	Description    string        `short:"d" help:"What the payer reads in the invoice."`
	Expiry         time.Duration `default:"1h" help:"For how long the invoice can be paid."`
	Lsp            string        `placeholder:"NAME" help:"Ask this LSP only, rather than the cheapest."`
	MaxFee         amountArg     `placeholder:"AMOUNT" help:"Refuse a higher opening fee."`
	Wait           bool          `short:"w" help:"Show what happens until the payment has arrived; exit code 4 if it does not."`
	JSON           bool          `name:"json" help:"Print one line of JSON: the agreement; with --wait also one per state."`
	NoQR           bool          `name:"no-qr" help:"No QR code."`
}

// Run makes the invoice.
func (c *receiveCmd) Run(ctx context.Context, g *cli) error {
	if c.Expiry < time.Minute || c.Expiry > 30*24*time.Hour {
		return errkind.New(errkind.Invalid, "--expiry must be between 1m and 720h")
	}
	payer := agentv1.FeePayer_FEE_PAYER_RECEIVER
	if c.PayerPays {
		payer = agentv1.FeePayer_FEE_PAYER_PAYER
	}
	return g.wallet(ctx, func(ctx context.Context, w agentv1.WalletClient) error {
		r, err := w.Receive(ctx, &agentv1.ReceiveRequest{
			AmountMsat: uint64(c.Amount), FeePayer: payer, NoZeroConf: c.NoZeroConf, Confirmations: c.Confs,
			NoFurtherChannel: !c.AnotherChannel, Description: c.Description,
			ExpirySeconds: uint32(c.Expiry / time.Second), Lsp: c.Lsp, MaxFeeMsat: uint64(c.MaxFee),
		})
		if err != nil {
			return err
		}
		if c.JSON {
			err = printJSON(os.Stdout, r)
		} else {
			err = c.show(os.Stdout, r)
		}
		if err != nil || !c.Wait {
			return err
		}
		return c.wait(ctx, w, r.GetPaymentHash())
	})
}

func (c *receiveCmd) show(w io.Writer, r *agentv1.ReceiveResponse) error {
	var b strings.Builder
	if !c.NoQR && isTerminal(os.Stdout) {
		if code, err := qr.Encode(strings.ToUpper("lightning:"+r.GetBolt11()), qr.L); err == nil {
			drawQR(&b, code)
		}
	}
	fmt.Fprintf(&b, "%s\n\n", r.GetBolt11())
	fmt.Fprintf(&b, "The payer pays   %s%s\n", ln.Msat(r.GetPayerPaysMsat()), routing(r))
	fmt.Fprintf(&b, "You receive      %s\n", ln.Msat(r.GetWalletGetsMsat()))
	fmt.Fprintf(&b, "Opening fee      %s, to %s\n", ln.Msat(r.GetFeeMsat()), r.GetLsp())
	switch {
	case !r.GetOpensChannel():
		b.WriteString("Channel          the present one has room: nothing is opened\n")
	case r.GetConfirmations() > 0:
		fmt.Fprintf(&b, "Channel          a new one of %s; the payment waits for %d confirmation(s), about %s: keep the wallet online\n",
			ln.Sat(r.GetChannelCapacitySat()), r.GetConfirmations(), time.Duration(r.GetConfirmations())*10*time.Minute)
	default:
		fmt.Fprintf(&b, "Channel          a new one of %s, usable at once: until it confirms you trust %s not to double-spend it\n",
			ln.Sat(r.GetChannelCapacitySat()), r.GetLsp())
	}
	fmt.Fprintf(&b, "Pay before       %s\n", time.UnixMilli(r.GetExpiresMs()).Local().Format("2006-01-02 15:04:05"))
	_, err := io.WriteString(w, b.String())
	return err
}

func routing(r *agentv1.ReceiveResponse) string {
	if r.GetFeePayer() == agentv1.FeePayer_FEE_PAYER_PAYER && r.GetFeeMsat() > 0 {
		return " (the fee shows as a routing fee)"
	}
	return ""
}

func (c *receiveCmd) wait(ctx context.Context, w agentv1.WalletClient, hash string) error {
	stream, err := w.WatchReceive(ctx, &agentv1.WatchReceiveRequest{PaymentHash: hash})
	if err != nil {
		return err
	}
	var last *agentv1.Payment
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		last = resp.GetPayment()
		if c.JSON {
			if err := printJSON(os.Stdout, resp); err != nil {
				return err
			}
			continue
		}
		fmt.Printf("%s  %-16s %s\n", time.Now().Format("15:04:05"), last.GetState(), last.GetReason())
	}
	if last == nil || !last.GetPaid() {
		return exitError{exitNotArrived, "the payment did not arrive: " + last.GetReason()}
	}
	if !c.JSON {
		fmt.Printf("received %s\n", ln.Msat(last.GetAmountMsat()))
	}
	return nil
}

// drawQR draws two rows of the code per line of text, dark on light with a
// quiet zone of four, as scanners want it.
func drawQR(b *strings.Builder, code *qr.Code) {
	const quiet = 4
	at := func(x, y int) bool {
		return x >= 0 && y >= 0 && x < code.Size && y < code.Size && code.Black(x, y)
	}
	for y := -quiet; y < code.Size+quiet; y += 2 {
		for x := -quiet; x < code.Size+quiet; x++ {
			switch upper, lower := at(x, y), at(x, y+1); {
			case upper && lower:
				b.WriteString(" ")
			case upper:
				b.WriteString("▄")
			case lower:
				b.WriteString("▀")
			default:
				b.WriteString("█")
			}
		}
		b.WriteByte('\n')
	}
}
