package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// Payment is how an agreed payment stands, as its LSP says, with one thing
// that the wallet knows better: whether it has the money.
type Payment struct {
	LSP          string
	PaymentID    string
	Hash         ln.Hash
	Mode         Mode
	AmountMsat   ln.Msat
	FeeMsat      ln.Msat
	ReceivedMsat ln.Msat
	State        string
	Reason       string
	Terminal     bool
	// Paid says that the wallet's own invoice is settled.
	Paid      bool
	CreatedAt time.Time
	ExpiresAt time.Time
}

func paymentFromProto(l string, p *lspv1.Payment) (Payment, error) {
	hash, err := ln.HashFromBytes(p.GetPaymentHash())
	if err != nil {
		return Payment{}, fmt.Errorf("LSP %s: its payment: %w", l, err)
	}
	mode := PayerPays
	if p.GetMode() == lspv1.PaymentMode_PAYMENT_MODE_RECEIVER_PAYS {
		mode = ReceiverPays
	}
	reason := printable(p.GetReason())
	if reason == "" && !p.GetTerminal() && p.GetReceivedMsat() == 0 {
		reason = "waiting for the payer"
	}
	return Payment{
		LSP: l, PaymentID: p.GetPaymentId(), Hash: hash, Mode: mode, AmountMsat: ln.Msat(p.GetAmountMsat()),
		FeeMsat: ln.Msat(p.GetFeeMsat()), ReceivedMsat: ln.Msat(p.GetReceivedMsat()),
		State: printable(p.GetState()), Reason: reason, Terminal: p.GetTerminal(),
		CreatedAt: time.UnixMilli(p.GetCreatedMs()).UTC(), ExpiresAt: time.UnixMilli(p.GetExpiresMs()).UTC(),
	}, nil
}

// printable keeps an LSP's words from steering the terminal that shows them.
func printable(s string) string {
	const most = 500
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most])
	}
	return s
}

// delivered are the states in which the LSP says that the wallet was paid:
// then lnd's own word is only a moment away.
func delivered(state string) bool { return state == "paid" || state == "settled" }

// Watch reports a payment that Receive agreed on, now and at every change,
// until it is paid or can no longer be. It goes on through lost connections;
// paid is what the wallet's own lnd says, whatever the LSP says.
func (a *Agent) Watch(ctx context.Context, hash ln.Hash, report func(Payment)) (Payment, error) {
	g, ok := a.agreements.byHash(hash)
	if !ok {
		return Payment{}, errkind.New(errkind.NotFound, "no such payment was agreed on here: `sluice-wallet payments` lists them")
	}
	ctx, cancel := context.WithCancel(ctx)
	fromLSP, fromNode := make(chan Payment), make(chan ln.Invoice)
	ended := make(chan struct{}, 2)
	go func() {
		defer func() { ended <- struct{}{} }()
		a.watchLSP(ctx, g, fromLSP)
	}()
	go func() {
		defer func() { ended <- struct{}{} }()
		a.watchInvoice(ctx, g.Hash, fromNode)
	}()
	defer func() {
		cancel()
		<-ended
		<-ended
	}()
	last := Payment{
		LSP: g.LSP, PaymentID: g.PaymentID, Hash: g.Hash, Mode: g.Mode, AmountMsat: g.WalletMsat, FeeMsat: g.FeeMsat,
		State: "agreed", Reason: "waiting for the payer", CreatedAt: g.CreatedAt, ExpiresAt: g.ExpiresAt,
	}
	report(last)
	for {
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case inv := <-fromNode:
			switch inv.State {
			case ln.InvoiceSettled:
				last.Paid, last.Terminal, last.State = true, true, "paid"
				last.AmountMsat, last.Reason = inv.PaidMsat, "the money is in the wallet"
			case ln.InvoiceCanceled:
				last.Terminal, last.State, last.Reason = true, "expired", "the wallet's own invoice ended unpaid"
			default:
				continue
			}
		case p := <-fromLSP:
			if p.Terminal && delivered(p.State) {
				p.Terminal, p.Reason = false, "the LSP has handed the payment on; the wallet's node is booking it"
			}
			last = p
		}
		report(last)
		if last.Terminal {
			return a.final(ctx, last)
		}
	}
}

// final asks lnd once more before a payment is called lost: the LSP's word
// alone never makes it so.
func (a *Agent) final(ctx context.Context, p Payment) (Payment, error) {
	if p.Paid {
		return p, nil
	}
	inv, err := a.ports.Invoices.LookupInvoice(ctx, p.Hash)
	if err != nil {
		return p, nodeError(err)
	}
	if inv.State == ln.InvoiceSettled {
		p.Paid, p.State, p.Reason, p.AmountMsat = true, "paid", "the money is in the wallet", inv.PaidMsat
	}
	return p, nil
}

// watchLSP sends what the LSP reports until the payment is over for it.
func (a *Agent) watchLSP(ctx context.Context, g Agreement, out chan<- Payment) {
	if g.PaymentID == "" {
		return
	}
	for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
		over, err := a.watchLSPOnce(ctx, g, out)
		if over || errors.Is(err, errkind.NotFound) {
			return
		}
		a.log.Debug("the LSP's word on a payment was cut off; asking again", zap.String("lsp", g.LSP), zap.Error(err))
		if pace.Pause(ctx, wait) != nil {
			return
		}
	}
}

func (a *Agent) watchLSPOnce(ctx context.Context, g Agreement, out chan<- Payment) (over bool, err error) {
	l, err := a.book.ByName(g.LSP)
	if err != nil {
		return false, err
	}
	client, err := a.gateway(ctx, l)
	if err != nil {
		return false, err
	}
	stream, err := client.WatchPayment(ctx, &lspv1.WatchPaymentRequest{PaymentId: g.PaymentID})
	if err != nil {
		return false, fromGateway(l, err)
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return over, nil
		}
		if err != nil {
			return over, fromGateway(l, err)
		}
		p, err := paymentFromProto(l.Name, resp.GetPayment())
		if err != nil {
			return over, err
		}
		over = p.Terminal
		select {
		case out <- p:
		case <-ctx.Done():
			return over, ctx.Err()
		}
	}
}

// watchInvoice sends what lnd says of the wallet's own invoice.
func (a *Agent) watchInvoice(ctx context.Context, hash ln.Hash, out chan<- ln.Invoice) {
	for wait := 50 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
		err := a.ports.Invoices.SubscribeInvoice(ctx, hash, func(inv ln.Invoice) {
			select {
			case out <- inv:
			case <-ctx.Done():
			}
		})
		if ctx.Err() != nil {
			return
		}
		a.log.Debug("lnd's word on an invoice was cut off; asking again", zap.Error(err))
		if pace.Pause(ctx, wait) != nil {
			return
		}
	}
}

// Payments lists what was agreed with every LSP, the newest first within each.
func (a *Agent) Payments(ctx context.Context, limit uint32, openOnly bool) ([]Payment, []error) {
	lsps := a.book.List()
	got, errs := make([][]Payment, len(lsps)), make([]error, len(lsps))
	each(lsps, func(i int, l LSP) { got[i], errs[i] = a.paymentsOf(ctx, l, limit, openOnly) })
	var all []Payment
	var failed []error
	for i := range lsps {
		all = append(all, got[i]...)
		if errs[i] != nil {
			failed = append(failed, errs[i])
		}
	}
	return all, failed
}

func (a *Agent) paymentsOf(ctx context.Context, l LSP, limit uint32, openOnly bool) ([]Payment, error) {
	if l.GRPC == "" {
		return nil, nil // it agreed on none
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	client, err := a.gateway(ctx, l)
	if err != nil {
		return nil, err
	}
	resp, err := client.ListPayments(ctx, &lspv1.ListPaymentsRequest{Limit: limit, OpenOnly: openOnly})
	if err != nil {
		return nil, fromGateway(l, err)
	}
	out := make([]Payment, 0, len(resp.GetPayments()))
	for _, rp := range resp.GetPayments() {
		p, err := paymentFromProto(l.Name, rp)
		if err != nil {
			return nil, err
		}
		p.Paid = p.Terminal && delivered(p.State)
		out = append(out, p)
	}
	return out, nil
}

// Pay pays an invoice. feeLimit 0 means 5 % and at least 10 sat.
func (a *Agent) Pay(ctx context.Context, bolt11 string, amount, feeLimit ln.Msat) (ln.Payment, error) {
	if a.ports.Payer == nil {
		return ln.Payment{}, errkind.New(errkind.Denied, "this wallet's agent does not pay: use lncli")
	}
	self, err := a.self(ctx)
	if err != nil {
		return ln.Payment{}, err
	}
	inv, err := a.ports.Decode(self.Network, bolt11)
	if err != nil {
		return ln.Payment{}, errkind.Wrap(errkind.Invalid, err, "this invoice cannot be paid from a wallet on "+self.Network+": "+err.Error())
	}
	switch {
	case inv.AmountMsat == 0 && amount == 0:
		return ln.Payment{}, errkind.New(errkind.Invalid, "the invoice names no amount: add --amount")
	case inv.AmountMsat > 0 && amount > 0 && amount != inv.AmountMsat:
		return ln.Payment{}, errkind.Newf(errkind.Invalid, "the invoice is for %s: leave out --amount", inv.AmountMsat)
	case !a.now().Before(inv.ExpiresAt()):
		return ln.Payment{}, errkind.New(errkind.Invalid, "the invoice has expired: ask for a new one")
	case inv.AmountMsat > 0:
		amount = 0
	}
	if feeLimit == 0 {
		feeLimit = max((inv.AmountMsat+amount)/20, 10_000)
	}
	p, err := a.ports.Payer.PayInvoice(ctx, bolt11, amount, feeLimit)
	if err != nil {
		return p, nodeError(err)
	}
	if p.State != ln.PaymentSucceeded {
		return p, errkind.Newf(errkind.Unavailable, "the payment failed: %s", p.Failure)
	}
	return p, nil
}
