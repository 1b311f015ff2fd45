package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"rsc.io/qr"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/errkind"
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
	Expiry         time.Duration `default:"1h" help:"For how long the invoice can be paid; the LSP's offer may end it sooner."`
	Lsp            string        `placeholder:"NAME" help:"Ask this LSP only, rather than the cheapest."`
	MaxFee         amountArg     `placeholder:"AMOUNT" help:"Refuse a higher opening fee."`
	HoldFor        time.Duration `placeholder:"TIME" help:"Have the LSP hold the payment for so long while this wallet is offline (e.g. 12h): the invoice is the LSP's then, and the payer's money may be locked so long."`
	Wait           bool          `short:"w" help:"Show what happens until the payment has arrived; exit code 4 if it does not."`
	NoQR           bool          `name:"no-qr" help:"No QR code."`
}

// Run makes the invoice.
func (c *receiveCmd) Run(w *world, g *Globals) error {
	if c.Expiry < time.Minute || c.Expiry > 30*24*time.Hour {
		return errkind.New(errkind.Invalid, "--expiry must be between 1m and 720h")
	}
	if c.HoldFor < 0 || c.HoldFor > 7*24*time.Hour || (c.HoldFor > 0 && c.HoldFor < time.Minute) {
		return errkind.New(errkind.Invalid, "--hold-for must be between 1m and 168h")
	}
	payer := agentv1.FeePayer_FEE_PAYER_RECEIVER
	if c.PayerPays {
		payer = agentv1.FeePayer_FEE_PAYER_PAYER
	}
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.Receive(ctx, &agentv1.ReceiveRequest{
			AmountMsat: uint64(c.Amount), FeePayer: payer, NoZeroConf: c.NoZeroConf, Confirmations: c.Confs,
			NoFurtherChannel: !c.AnotherChannel, Description: c.Description,
			ExpirySeconds: uint32(c.Expiry / time.Second), Lsp: c.Lsp, MaxFeeMsat: uint64(c.MaxFee),
			HoldForSeconds: uint32(c.HoldFor / time.Second), //nolint:gosec // bounded above
		})
		if err != nil {
			return err
		}
		if g.JSON {
			err = cli.WriteJSONLine(w.stdout, r)
		} else {
			err = c.show(w, r)
		}
		if err != nil || !c.Wait {
			return err
		}
		return c.wait(ctx, w, g, wallet, r.GetPaymentHash())
	})
}

func (c *receiveCmd) show(w *world, r *agentv1.ReceiveResponse) error {
	p := w.printer()
	if !c.NoQR && w.terminal() {
		if code, err := qr.Encode(strings.ToUpper("lightning:"+r.GetBolt11()), qr.L); err == nil {
			p.Printf("%s", drawQR(code))
		}
	}
	p.Printf("%s\n\n", cli.Clean(r.GetBolt11()))
	t := cli.NewTable("", "")
	t.Row("The payer pays", cli.MsatAsSat(r.GetPayerPaysMsat())+routing(r))
	t.Row("You receive", cli.MsatAsSat(r.GetWalletGetsMsat()))
	t.Row("Opening fee", fmt.Sprintf("%s, to %s", cli.MsatAsSat(r.GetFeeMsat()), r.GetLsp()))
	capacity := cli.Sat(r.GetChannelCapacitySat())
	switch confs := r.GetConfirmations(); {
	case !r.GetOpensChannel():
		t.Row("Channel", "the present one has room: nothing is opened")
	case confs > 0:
		t.Row("Channel", fmt.Sprintf("a new one of %s; the payment waits for %d confirmation(s), about %s, and for %d blocks at most: keep the wallet online",
			capacity, confs, cli.Duration(time.Duration(confs)*10*time.Minute), r.GetMaxWaitBlocks()))
	default:
		t.Row("Channel", fmt.Sprintf("a new one of %s, usable at once: until it confirms you trust %s not to double-spend it", capacity, r.GetLsp()))
	}
	t.Row("Pay before", time.UnixMilli(r.GetExpiresMs()).UTC().Format("2006-01-02 15:04:05 UTC"))
	p.Table(t)
	return p.Err
}

func routing(r *agentv1.ReceiveResponse) string {
	if r.GetFeePayer() == agentv1.FeePayer_FEE_PAYER_PAYER && r.GetFeeMsat() > 0 {
		return " (the fee shows as a routing fee)"
	}
	return ""
}

func (c *receiveCmd) wait(ctx context.Context, w *world, g *Globals, wallet agentv1.WalletClient, hash string) error {
	stream, err := wallet.WatchReceive(ctx, &agentv1.WatchReceiveRequest{PaymentHash: hash})
	if err != nil {
		return err
	}
	p := w.printer()
	var last *agentv1.Payment
	for p.Err == nil {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		last = resp.GetPayment()
		if g.JSON {
			p.Err = cli.WriteJSONLine(w.stdout, last)
			continue
		}
		p.Printf("%s  %-16s %s\n", time.Now().UTC().Format("15:04:05"), cli.Words(cli.Clean(last.GetState())), cli.Clean(last.GetReason()))
	}
	switch {
	case p.Err != nil:
		return p.Err
	case !last.GetPaid():
		_, _ = fmt.Fprintln(w.stderr, "sluice-wallet: the payment did not arrive: "+cli.Stop(cli.Clean(last.GetReason())))
		return exitCode(exitNotArrived)
	case !g.JSON:
		p.Printf("Received %s.\n", cli.MsatAsSat(last.GetAmountMsat()))
	}
	return p.Err
}

// drawQR draws two rows of the code per line of text, dark on light with a
// quiet zone of four, as scanners want it.
func drawQR(code *qr.Code) string {
	var b strings.Builder
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
	return b.String()
}
