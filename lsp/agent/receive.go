package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// ReceiveRequest says what to receive.
type ReceiveRequest struct {
	// AmountMsat is what arrives when the payer pays the fee, and what is paid
	// when the receiver does.
	AmountMsat ln.Msat
	Mode       Mode
	// NoZeroConf waits for Confirmations (0: DefaultConfirmations) of the new
	// channel. The payment is then held by the LSP meanwhile, which only a
	// wrapped invoice allows: the receiver pays.
	NoZeroConf    bool
	Confirmations uint32
	// NoFurtherChannel keeps to the channels there are, if there are any.
	NoFurtherChannel bool
	Description      string
	// HoldFor is how long the payment may wait for this wallet while it is offline; 0 is
	// the LSP's usual time. The LSP's own invoice holds it, so the receiver pays.
	HoldFor time.Duration
	// Expiry is for how long the payer can pay (0: DefaultExpiry).
	Expiry time.Duration
	// LSP asks only this one.
	LSP string
	// MaxFeeMsat refuses a dearer offer; 0 means no limit.
	MaxFeeMsat ln.Msat
}

// Defaults and bounds of a request.
const (
	DefaultConfirmations = 3
	DefaultExpiry        = time.Hour
	maxConfirmations     = 100
	maxExpiry            = 30 * 24 * time.Hour
	maxHoldFor           = 7 * 24 * time.Hour
	maxDescription       = 639
	// finalCltv is lnd's own default for invoices.
	finalCltv = 80
	// claimTime is how much longer than the wrapped invoice the wallet's own
	// lives, so that a payment held by the LSP while it opens a channel still
	// finds it open; each confirmation may take blockTime.
	claimTime = 10 * time.Minute
	blockTime = time.Hour
)

func (r ReceiveRequest) normal() (ReceiveRequest, error) {
	if r.Mode == "" {
		r.Mode = ReceiverPays
	}
	if r.Expiry == 0 {
		r.Expiry = DefaultExpiry
	}
	if r.NoZeroConf && r.Confirmations == 0 {
		r.Confirmations = DefaultConfirmations
	}
	switch {
	case r.AmountMsat == 0:
		return r, errkind.New(errkind.Invalid, "name an amount: channels on demand are made for one payment")
	case r.AmountMsat > ln.MaxMsat:
		return r, errkind.New(errkind.Invalid, "the amount is more than will ever exist")
	case r.Mode != PayerPays && r.Mode != ReceiverPays:
		return r, errkind.Newf(errkind.Invalid, "who pays the fee? %q is neither %s nor %s", r.Mode, PayerPays, ReceiverPays)
	case !r.NoZeroConf && r.Confirmations > 0:
		return r, errkind.New(errkind.Invalid, "confirmations are waited for without zero-conf only: add --no-zero-conf")
	case r.NoZeroConf && r.Mode == PayerPays:
		return r, errkind.New(errkind.Invalid, "without zero-conf the LSP must hold the payment until the channel confirms, which its payer's route cannot wait for: let the receiver pay the fee (--receiver-pays)")
	case r.HoldFor < 0 || r.HoldFor > maxHoldFor:
		return r, errkind.Newf(errkind.Invalid, "a payment waits for %d days at most", maxHoldFor/(24*time.Hour))
	case r.HoldFor > 0 && r.Mode == PayerPays:
		return r, errkind.New(errkind.Invalid, "the route of a payer who pays the fee cannot wait for a wallet that is offline: let the receiver pay (--receiver-pays)")
	case r.Confirmations > maxConfirmations:
		return r, errkind.Newf(errkind.Invalid, "%d confirmations take too long for a payment: ask for %d at most", r.Confirmations, maxConfirmations)
	case r.Expiry < time.Minute || r.Expiry > maxExpiry:
		return r, errkind.Newf(errkind.Invalid, "the invoice's expiry must be between a minute and %d days", maxExpiry/(24*time.Hour))
	case len(r.Description) > maxDescription:
		return r, errkind.Newf(errkind.Invalid, "the description has %d bytes, an invoice takes %d", len(r.Description), maxDescription)
	}
	return r, nil
}

func (r ReceiveRequest) wish(trust ln.Msat) *lspv1.ChannelWish {
	return &lspv1.ChannelWish{
		TrustMsat: uint64(trust),
		ZeroConf:  !r.NoZeroConf, MinConfirmations: r.Confirmations, AllowAnotherChannel: !r.NoFurtherChannel,
		HoldForSeconds: uint32(r.HoldFor / time.Second), //nolint:gosec // at most maxHoldFor
	}
}

// Receive agrees with the cheapest LSP that the payment fits and gives the
// invoice to show. An LSP that fails for now is passed over for the next; the
// error joins what each said.
func (a *Agent) Receive(ctx context.Context, r ReceiveRequest) (Agreement, error) {
	r, err := r.normal()
	if err != nil {
		return Agreement{}, err
	}
	lsps := a.book.List()
	if r.LSP != "" {
		l, err := a.book.ByName(r.LSP)
		if err != nil {
			return Agreement{}, err
		}
		lsps = []LSP{l}
	}
	if len(lsps) == 0 {
		return Agreement{}, errNoLSP
	}
	channels, err := a.ports.Channels.ListChannels(ctx)
	if err != nil {
		return Agreement{}, nodeError(err)
	}
	menus, away := a.menus(ctx, lsps)
	var failed []error
	for _, u := range away {
		failed = append(failed, u.Err)
	}
	// With room in a channel there is nothing to pay for: a plain invoice does,
	// and even while the LSP's service is away.
	for _, l := range lsps {
		if !hasRoom(channels, l.NodeKey, r) {
			continue
		}
		g, err := a.receiveThere(ctx, r, l, menus)
		if err == nil {
			return g, nil
		}
		if r.HoldFor > 0 {
			failed = append(failed, err)
		}
		a.log.Info("the present channel cannot be used after all", zap.String("lsp", l.Name), zap.Error(err))
	}
	for _, m := range menus {
		if m.Refused != nil {
			failed = append(failed, m.Refused)
		}
	}
	tried := map[string]bool{}
	for _, c := range Rank(menus, a.cfg.Policy, r.Mode, r.AmountMsat, a.now()) {
		l := c.Menu.LSP
		if tried[l.Name] {
			continue
		}
		if c.Unfit == nil && r.MaxFeeMsat > 0 && c.Quote.FeeMsat > r.MaxFeeMsat {
			c.Unfit = errkind.Newf(errkind.Invalid, "the fee would be %s, above your limit of %s: raise --max-fee or receive more at once", c.Quote.FeeMsat, r.MaxFeeMsat)
		}
		if c.Unfit != nil {
			failed = append(failed, prefixed(l.Name, c.Unfit))
			continue
		}
		tried[l.Name] = true
		g, err := a.agree(ctx, r, c)
		if errors.Is(err, errkind.Conflict) && r.Mode == ReceiverPays && !r.NoZeroConf {
			// The LSP sees room in a channel where we saw none.
			if g, byChannel := a.receiveThere(ctx, r, l, menus); byChannel == nil {
				return g, nil
			}
		}
		if err == nil {
			return g, nil
		}
		failed = append(failed, err)
	}
	return Agreement{}, noneFits(failed)
}

func prefixed(name string, err error) error {
	return errkind.Wrap(errkind.Of(err), err, name+": "+errkind.Told(err))
}

// noneFits joins what each LSP said, under the kind of the first.
func noneFits(errs []error) error {
	if len(errs) == 0 {
		return errkind.New(errkind.Unavailable, "no LSP offers channels at the moment: try again later")
	}
	var said []string
	for _, err := range errs {
		if s := errkind.Told(err); !slices.Contains(said, s) {
			said = append(said, s)
		}
	}
	return errkind.Wrap(errkind.Of(errs[0]), errors.Join(errs...), strings.Join(said, "\n"))
}

// hasRoom says that one present channel with the peer takes the payment. Who
// declines zero-conf trusts no unconfirmed channel either.
func hasRoom(channels []ln.Channel, peer ln.PubKey, r ReceiveRequest) bool {
	for _, ch := range channels {
		if ch.Peer == peer && Receivable(ch) >= r.AmountMsat && !(r.NoZeroConf && unconfirmed(ch)) {
			return true
		}
	}
	return false
}

func (a *Agent) agree(ctx context.Context, r ReceiveRequest, c Candidate) (Agreement, error) {
	if r.Mode == PayerPays {
		return a.receivePayerPays(ctx, r, c)
	}
	return a.receiveWrapped(ctx, r, c)
}

// receiveThere receives over the channel that there is.
func (a *Agent) receiveThere(ctx context.Context, r ReceiveRequest, l LSP, menus []Menu) (Agreement, error) {
	if r.HoldFor == 0 {
		return a.receiveByChannel(ctx, r, l, menus)
	}
	// Only the LSP's own invoice can be held for long. No channel is opened, and there is
	// no fee.
	r.NoFurtherChannel, r.NoZeroConf, r.Confirmations = true, false, 0
	for _, m := range menus {
		if m.LSP == l && len(m.Offers) > 0 {
			return a.receiveWrapped(ctx, r, Candidate{Menu: m, Params: m.Offers[0], Quote: lsp.Quote{WalletMsat: r.AmountMsat, PayerMsat: r.AmountMsat}})
		}
	}
	return Agreement{}, errkind.Newf(errkind.Unavailable, "%s has no offer at the moment, so that it does not wrap invoices: try again later, or without --hold-for", l.Name)
}

// receiveByChannel makes an invoice over the channel that there is. Its hint
// names an SCID that the LSP gives, not the channel's own: lnd knows that one
// only once the peer's channel_update came. Where the LSP gives none, lnd's own
// hint does, if it is there.
func (a *Agent) receiveByChannel(ctx context.Context, r ReceiveRequest, l LSP, menus []Menu) (Agreement, error) {
	// No channel is opened, so there is nothing to trust or to wait for.
	r.Mode, r.NoFurtherChannel, r.NoZeroConf, r.Confirmations = PayerPays, true, false, 0
	var asked error
	for _, m := range menus {
		if m.LSP != l || m.Withheld {
			continue
		}
		c := Candidate{Menu: m}
		if len(m.Offers) > 0 {
			c.Params = m.Offers[0]
		}
		c.Quote.WalletMsat, c.Quote.PayerMsat = r.AmountMsat, r.AmountMsat
		g, err := a.receivePayerPays(ctx, r, c)
		if err == nil {
			return g, nil
		}
		if errors.Is(err, errkind.Conflict) {
			// The LSP has promised the room to another agreement of ours: a plain
			// invoice would count on it once more.
			return Agreement{}, err
		}
		asked = err
	}
	g, err := a.receivePlain(ctx, r, l)
	if err != nil {
		return Agreement{}, errors.Join(asked, err)
	}
	return g, nil
}

// receivePlain makes an invoice with lnd's own hints and keeps it only if one
// of them leads through the LSP.
func (a *Agent) receivePlain(ctx context.Context, r ReceiveRequest, l LSP) (Agreement, error) {
	self, err := a.self(ctx)
	if err != nil {
		return Agreement{}, err
	}
	bolt11, hash, err := a.ports.Invoices.AddInvoice(ctx, ln.InvoiceRequest{
		AmountMsat: r.AmountMsat, Memo: r.Description, Expiry: r.Expiry, FinalCltvDelta: finalCltv, Private: true,
	})
	if err != nil {
		return Agreement{}, nodeError(err)
	}
	own, err := a.ports.Decode(self.Network, bolt11)
	if err == nil && !slices.ContainsFunc(own.RouteHints, func(route []ln.RouteHint) bool {
		return len(route) == 1 && route[0].Node == l.NodeKey
	}) {
		err = errkind.New(errkind.Unavailable, "lnd has no route hint for the channel with "+l.Name+" yet: try again in a few seconds")
	}
	if err != nil {
		a.cancelInvoice(hash)
		return Agreement{}, err
	}
	return a.conclude(Agreement{
		LSP: l.Name, NodeKey: l.NodeKey, Hash: hash, Mode: PayerPays, Bolt11: bolt11,
		PayerMsat: r.AmountMsat, WalletMsat: r.AmountMsat, ZeroConf: true,
		CreatedAt: a.now().UTC(), ExpiresAt: own.ExpiresAt().UTC(),
	}, nil)
}

// receivePayerPays agrees on a route hint and makes the wallet's own invoice
// with it. Nothing but the hash leaves the wallet before the check.
func (a *Agent) receivePayerPays(ctx context.Context, r ReceiveRequest, c Candidate) (Agreement, error) {
	l := c.Menu.LSP
	client, err := a.gateway(ctx, l)
	if err != nil {
		return Agreement{}, err
	}
	preimage, err := a.newPreimage()
	if err != nil {
		return Agreement{}, err
	}
	hash, trust := preimage.Hash(), a.trustFor(c.Menu, r.AmountMsat)
	call, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	resp, err := client.Negotiate(call, &lspv1.NegotiateRequest{
		PaymentHash: hash[:], AmountMsat: uint64(r.AmountMsat), OpeningFeeParams: paramsToProto(c.Params),
		Channel: r.wish(trust), FinalCltvDeltaBlocks: finalCltv, InvoiceExpiresMs: a.now().Add(r.Expiry).UnixMilli(),
	})
	if err != nil {
		return Agreement{}, fromGateway(l, err)
	}
	n, err := CheckNegotiated(c, a.cfg.Policy, trust, resp, a.now())
	if err != nil {
		a.withdraw(l, client, resp.GetPaymentId())
		return Agreement{}, err
	}
	// Nobody shall pay an invoice whose hint leads nowhere any more.
	life := min(r.Expiry, n.ExpiresAt.Sub(a.now()).Truncate(time.Second))
	var bolt11 string
	made := hash
	if n.Trusts {
		bolt11, err = a.holdBack(ctx, trustedPayment{
			LSP: l.Name, NodeKey: l.NodeKey, PaymentID: n.PaymentID, Hash: hash, AmountMsat: r.AmountMsat, Preimage: lsp.NewSecret(preimage),
		}, ln.HoldInvoiceRequest{
			Hash: hash, AmountMsat: r.AmountMsat, Memo: r.Description,
			Expiry: max(life, time.Second), FinalCltvDelta: finalCltv, RouteHints: []ln.RouteHint{n.Hint},
		})
	} else {
		bolt11, made, err = a.ports.Invoices.AddInvoice(ctx, ln.InvoiceRequest{
			Preimage: preimage, AmountMsat: r.AmountMsat, Memo: r.Description,
			Expiry: max(life, time.Second), FinalCltvDelta: finalCltv, RouteHints: []ln.RouteHint{n.Hint},
		})
	}
	if err == nil && made != hash {
		err = fmt.Errorf("lnd made an invoice of another hash")
	}
	if err != nil {
		a.withdraw(l, client, n.PaymentID)
		return Agreement{}, nodeError(err)
	}
	g := Agreement{
		LSP: l.Name, NodeKey: l.NodeKey, PaymentID: n.PaymentID, Hash: hash, Mode: PayerPays, Bolt11: bolt11,
		PayerMsat: n.PayerMsat, WalletMsat: r.AmountMsat, FeeMsat: n.FeeMsat, OpensChannel: n.OpensChannel,
		CapacitySat: n.CapacitySat, ZeroConf: !r.NoZeroConf, Confirmations: r.Confirmations,
		CreatedAt: a.now().UTC(), ExpiresAt: a.now().Add(life).UTC(),
	}
	return a.conclude(g, client)
}

// receiveWrapped makes the wallet's own invoice over what the fee leaves and
// has the LSP wrap it.
func (a *Agent) receiveWrapped(ctx context.Context, r ReceiveRequest, c Candidate) (Agreement, error) {
	l := c.Menu.LSP
	client, err := a.gateway(ctx, l)
	if err != nil {
		return Agreement{}, err
	}
	expiry := r.Expiry + claimTime + time.Duration(r.Confirmations)*blockTime + r.HoldFor
	trust := a.trustFor(c.Menu, c.Quote.WalletMsat)
	record := trustedPayment{LSP: l.Name, NodeKey: l.NodeKey, AmountMsat: c.Quote.WalletMsat}
	var bolt11 string
	var hash ln.Hash
	if trust > 0 {
		preimage, err := a.newPreimage()
		if err != nil {
			return Agreement{}, err
		}
		hash = preimage.Hash()
		record.Hash, record.Preimage = hash, lsp.NewSecret(preimage)
		bolt11, err = a.holdBack(ctx, record, ln.HoldInvoiceRequest{
			Hash: hash, AmountMsat: c.Quote.WalletMsat, Memo: r.Description, FinalCltvDelta: finalCltv, Expiry: expiry,
		})
		if err != nil {
			return Agreement{}, err
		}
	} else {
		bolt11, hash, err = a.ports.Invoices.AddInvoice(ctx, ln.InvoiceRequest{
			AmountMsat: c.Quote.WalletMsat, Memo: r.Description, FinalCltvDelta: finalCltv, Expiry: expiry,
		})
		if err != nil {
			return Agreement{}, nodeError(err)
		}
	}
	abandon := func(paymentID string) {
		if paymentID != "" {
			a.withdraw(l, client, paymentID)
		}
		a.cancelInvoice(hash)
		if err := a.trusts.remove(hash); err != nil {
			a.log.Warn("a record is left over", zap.Error(err))
		}
	}
	own, err := a.ports.Decode(c.Menu.Network, bolt11)
	if err != nil {
		abandon("")
		return Agreement{}, fmt.Errorf("read lnd's own invoice: %w", err)
	}
	call, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	resp, err := client.Wrap(call, &lspv1.WrapRequest{
		Bolt11: bolt11, AmountMsat: uint64(c.Quote.PayerMsat), OpeningFeeParams: paramsToProto(c.Params), Channel: r.wish(trust),
	})
	if err != nil {
		abandon("")
		return Agreement{}, fromGateway(l, err)
	}
	wrapped, err := a.ports.Decode(c.Menu.Network, resp.GetBolt11())
	if err != nil {
		err = errkind.Wrap(errkind.Invalid, err, "LSP "+l.Name+" answered with something that is no invoice")
	} else {
		err = CheckWrapped(c, a.cfg.Policy, trust, own, wrapped, resp, r.Confirmations, r.HoldFor, a.now())
	}
	if err == nil && trust > 0 {
		record.PaymentID, record.State, record.CreatedAt = resp.GetPaymentId(), trustWaiting, a.now().UTC()
		err = a.trusts.put(record, a.cfg.Trust.MaxSat)
	}
	if err != nil {
		abandon(resp.GetPaymentId())
		return Agreement{}, err
	}
	g := Agreement{
		LSP: l.Name, NodeKey: l.NodeKey, PaymentID: resp.GetPaymentId(), Hash: hash, Mode: ReceiverPays, Bolt11: wrapped.Text,
		PayerMsat: wrapped.AmountMsat, WalletMsat: own.AmountMsat, FeeMsat: wrapped.AmountMsat - own.AmountMsat,
		OpensChannel: resp.GetOpensChannel(), CapacitySat: ln.Sat(resp.GetChannelCapacitySat()),
		ZeroConf: !r.NoZeroConf, Confirmations: r.Confirmations, MaxWaitBlocks: resp.GetMaxWaitBlocks(),
		CreatedAt: a.now().UTC(), ExpiresAt: wrapped.ExpiresAt().UTC(), OwnExpiresAt: own.ExpiresAt().UTC(),
	}
	return a.conclude(g, client)
}

// conclude stores an agreement before anyone sees its invoice.
func (a *Agent) conclude(g Agreement, client lspv1.ChannelsServiceClient) (Agreement, error) {
	if err := a.agreements.add(g, a.now()); err != nil {
		if client != nil {
			a.withdraw(LSP{Name: g.LSP}, client, g.PaymentID)
		}
		a.cancelInvoice(g.Hash)
		return Agreement{}, err
	}
	a.log.Info("agreed on a payment", zap.String("lsp", g.LSP), zap.String("payment_id", g.PaymentID),
		zap.Stringer("payment_hash", g.Hash), zap.String("mode", string(g.Mode)), zap.Bool("opens_channel", g.OpensChannel))
	return g, nil
}

// tidyTimeout bounds what is only tidied up.
const tidyTimeout = 5 * time.Second

// withdraw gives back an agreement that nobody will pay. It is a courtesy: the
// agreement lapses by itself.
func (a *Agent) withdraw(l LSP, client lspv1.ChannelsServiceClient, paymentID string) {
	if paymentID == "" || len(paymentID) > maxIDLen {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), tidyTimeout)
	defer cancel()
	if _, err := client.CancelPayment(ctx, &lspv1.CancelPaymentRequest{PaymentId: paymentID}); err != nil {
		a.log.Info("an agreement could not be withdrawn; it lapses by itself",
			zap.String("lsp", l.Name), zap.String("payment_id", paymentID), zap.Error(err))
	}
}

// cancelInvoice makes an invoice that nobody saw unpayable.
func (a *Agent) cancelInvoice(hash ln.Hash) {
	ctx, cancel := context.WithTimeout(context.Background(), tidyTimeout)
	defer cancel()
	if err := a.ports.Invoices.CancelInvoice(ctx, hash); err != nil {
		a.log.Info("an invoice that nobody saw could not be cancelled; it expires by itself",
			zap.Stringer("payment_hash", hash), zap.Error(err))
	}
}

// Offers asks every LSP what an amount would cost when the receiver pays; those
// that do not answer, or offer nothing at the moment, come second. Prices are the same when the payer pays.
func (a *Agent) Offers(ctx context.Context, amount ln.Msat) ([]Candidate, []Unreachable) {
	menus, away := a.menus(ctx, a.book.List())
	for _, m := range menus {
		if m.Refused != nil {
			away = append(away, Unreachable{LSP: m.LSP, Err: m.Refused})
		}
	}
	return Rank(menus, a.cfg.Policy, ReceiverPays, amount, a.now()), away
}
