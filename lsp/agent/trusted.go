package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// An LSP that is under attack funds a channel only once its payment is claimed
// (bLIP-52, client_trusts_lsp). The wallet then gives its preimage for a channel
// that does not exist yet. So it holds the payment back until the LSP has signed
// which transaction it will publish and its own node shows exactly that channel,
// trusts with no more than its user allows, keeps the promise, and raises an alarm
// when the transaction does not confirm.

// Holder keeps payments back until the wallet decides.
type Holder interface {
	AddHoldInvoice(ctx context.Context, r ln.HoldInvoiceRequest) (bolt11 string, err error)
	// SettleInvoice takes one that is settled already as success.
	SettleInvoice(ctx context.Context, preimage ln.Preimage) error
	// AbandonChannel makes lnd forget a channel; one that it does not know is success.
	AbandonChannel(ctx context.Context, op ln.Outpoint) error
}

// TrustConfig is how far the wallet trusts its LSPs to publish.
type TrustConfig struct {
	// MaxSat of payments may be claimed over channels that are not confirmed; 0: none.
	MaxSat ln.Sat
	// AlarmBlocks after a claim its channel should have confirmed.
	AlarmBlocks uint32
}

// trustedFile is in DataDir. It holds preimages until they are given.
const trustedFile = "trusted.json"

// The states of a trusted payment.
const (
	// trustWaiting: the invoice may be paid, or was; the preimage is the wallet's.
	trustWaiting = "waiting"
	// trustClaimed: stored before the preimage is given; the channel is not confirmed.
	trustClaimed = "claimed"
)

// trustedPayment is one, until its channel is confirmed or it ended otherwise.
type trustedPayment struct {
	LSP        string     `json:"lsp"`
	NodeKey    ln.PubKey  `json:"node_key"`
	PaymentID  string     `json:"payment_id"`
	Hash       ln.Hash    `json:"payment_hash"`
	AmountMsat ln.Msat    `json:"amount_msat"`
	Preimage   lsp.Secret `json:"preimage"`
	State      string     `json:"state"`
	// Promise is what the LSP signed before the preimage was given.
	Outpoint      ln.Outpoint `json:"outpoint,omitzero"`
	Promise       string      `json:"promise,omitempty"`
	Signature     string      `json:"signature,omitempty"`
	ClaimedHeight uint32      `json:"claimed_height,omitempty"`
	CreatedAt     time.Time   `json:"created_at"`
}

// trusts are the records, in a file that is always whole.
type trusts struct {
	path string

	mu   sync.Mutex
	list []trustedPayment
}

func openTrusts(path string) (*trusts, error) {
	list, err := readList[trustedPayment]("trusted payments", path)
	return &trusts{path: path, list: list}, err
}

func (t *trusts) all() []trustedPayment {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.list)
}

func (t *trusts) get(hash ln.Hash) (trustedPayment, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.list, func(p trustedPayment) bool { return p.Hash == hash })
	if i < 0 {
		return trustedPayment{}, false
	}
	return t.list[i], true
}

// put stores a record, within what may be trusted with in all if it is new.
func (t *trusts) put(p trustedPayment, most ln.Sat) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(t.list), func(old trustedPayment) bool { return old.Hash == p.Hash })
	if len(next) == len(t.list) {
		if err := withinTrust(t.list, p.AmountMsat, most); err != nil {
			return err
		}
	}
	next = append(next, p)
	if err := writeList("trusted payments", t.path, next); err != nil {
		return err
	}
	t.list = next
	return nil
}

func (t *trusts) remove(hash ln.Hash) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(t.list), func(p trustedPayment) bool { return p.Hash == hash })
	if len(next) == len(t.list) {
		return nil
	}
	if err := writeList("trusted payments", t.path, next); err != nil {
		return err
	}
	t.list = next
	return nil
}

func withinTrust(list []trustedPayment, amount ln.Msat, most ln.Sat) error {
	limit, err := most.Msat()
	if err != nil {
		return err
	}
	sum := amount
	for _, p := range list {
		if sum, err = sum.Add(p.AmountMsat); err != nil {
			return err
		}
	}
	if sum > limit {
		return errkind.Newf(errkind.Exhausted, "your LSPs would be trusted with %s, and you allow %s (trust.max_sat): wait until the last channels have confirmed, or receive less", sum, most)
	}
	return nil
}

// trustFor is with how much the LSP may be told to be trusted for a payment: all of
// it, or nothing.
func (a *Agent) trustFor(m Menu, amount ln.Msat) ln.Msat {
	if !m.Trusts || a.ports.Holder == nil || withinTrust(a.trusts.all(), amount, a.cfg.Trust.MaxSat) != nil {
		return 0
	}
	return amount
}

// holdBack makes an invoice that the wallet holds. Its preimage is on disk before
// anybody can pay it.
func (a *Agent) holdBack(ctx context.Context, p trustedPayment, r ln.HoldInvoiceRequest) (string, error) {
	p.State, p.CreatedAt = trustWaiting, a.now().UTC()
	if err := a.trusts.put(p, a.cfg.Trust.MaxSat); err != nil {
		return "", err
	}
	bolt11, err := a.ports.Holder.AddHoldInvoice(ctx, r)
	if err != nil {
		return "", errors.Join(nodeError(err), a.trusts.remove(p.Hash))
	}
	a.followTrusted(p.Hash)
	return bolt11, nil
}

func (a *Agent) newPreimage() (ln.Preimage, error) {
	var preimage ln.Preimage
	if _, err := io.ReadFull(a.ports.Random, preimage[:]); err != nil {
		return preimage, fmt.Errorf("make a preimage: %w", err)
	}
	return preimage, nil
}

// followTrusted sees one through while the agent runs; Run begins with all.
func (a *Agent) followTrusted(hash ln.Hash) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running == nil || a.running.Err() != nil || a.ports.Holder == nil {
		return
	}
	ctx := a.running
	a.spawn(func() {
		for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, time.Minute) {
			if a.awaitPayer(ctx, hash) {
				wait = time.Second
			}
			over, err := a.trustedOnce(ctx, hash)
			if over {
				return
			}
			if err != nil && ctx.Err() == nil {
				a.log.Warn("a payment for which an LSP is trusted", zap.Stringer("payment_hash", hash), zap.Error(err))
			}
			if pace.Pause(ctx, wait) != nil {
				return
			}
		}
	})
}

// awaitPayer waits while nobody has paid the invoice; it says that it did.
func (a *Agent) awaitPayer(ctx context.Context, hash ln.Hash) (waited bool) {
	if p, ok := a.trusts.get(hash); !ok || p.State != trustWaiting {
		return false
	}
	sub, cancel := context.WithCancel(ctx)
	defer cancel()
	_ = a.ports.Invoices.SubscribeInvoice(sub, hash, func(inv ln.Invoice) {
		if inv.State != ln.InvoiceOpen {
			cancel()
			return
		}
		waited = true
	})
	return waited
}

// trustedOnce does what is to be done now; over says that nothing is left.
func (a *Agent) trustedOnce(ctx context.Context, hash ln.Hash) (over bool, err error) {
	p, ok := a.trusts.get(hash)
	if !ok {
		return true, nil
	}
	if p.State == trustClaimed {
		return a.awaitFunding(ctx, p)
	}
	inv, err := a.ports.Invoices.LookupInvoice(ctx, hash)
	switch {
	case errors.Is(err, ln.ErrNotFound):
		// Stored, and never made.
		return true, a.trusts.remove(hash)
	case err != nil:
		return false, err
	}
	switch inv.State {
	case ln.InvoiceAccepted:
		return false, a.claim(ctx, p, inv)
	case ln.InvoiceCanceled:
		return a.forgetGivenUp(ctx, p)
	default:
		return false, nil
	}
}

// claim gives the preimage, if what is promised for it is what lnd shows.
func (a *Agent) claim(ctx context.Context, p trustedPayment, inv ln.Invoice) error {
	channels, err := a.ports.Channels.ListChannels(ctx)
	if err != nil {
		return nodeError(err)
	}
	young, err := unconfirmedOf(inv, channels)
	if err != nil {
		return err
	}
	if young != nil {
		if err := a.askPromise(ctx, &p, *young); err != nil {
			return err
		}
	}
	info, err := a.ports.Node.Info(ctx)
	if err != nil {
		return nodeError(err)
	}
	p.State, p.ClaimedHeight = trustClaimed, info.BlockHeight
	if err := a.trusts.put(p, a.cfg.Trust.MaxSat); err != nil {
		return err
	}
	return nodeError(a.ports.Holder.SettleInvoice(ctx, p.Preimage.Preimage()))
}

// unconfirmedOf is the one unconfirmed channel that a held payment came over; nil if
// all of them are confirmed.
func unconfirmedOf(inv ln.Invoice, channels []ln.Channel) (*ln.Channel, error) {
	var young *ln.Channel
	for _, h := range inv.Htlcs {
		if h.State != ln.InvoiceAccepted {
			continue
		}
		i := slices.IndexFunc(channels, func(c ln.Channel) bool {
			return c.ChanID == h.Key.ChanID || c.ConfirmedSCID == h.Key.ChanID || slices.Contains(c.Aliases, h.Key.ChanID)
		})
		switch {
		case i < 0:
			return nil, fmt.Errorf("a part came over channel %s, which lnd does not list", h.Key.ChanID)
		case !unconfirmed(channels[i]):
		case young == nil:
			young = &channels[i]
		case young.Outpoint != channels[i].Outpoint:
			return nil, errors.New("the parts came over two channels that are not confirmed: one is promised at most")
		}
	}
	return young, nil
}

// askPromise has the LSP sign that exactly this channel will be funded.
func (a *Agent) askPromise(ctx context.Context, p *trustedPayment, c ln.Channel) error {
	l, err := a.book.ByName(p.LSP)
	if err != nil {
		return err
	}
	client, err := a.gateway(ctx, l)
	if err != nil {
		return err
	}
	self, err := a.self(ctx)
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	resp, err := client.PromiseFunding(call, &lspv1.PromiseFundingRequest{PaymentId: p.PaymentID})
	if err != nil {
		return fromGateway(l, err)
	}
	want := lsp.FundingPromise{Gateway: p.NodeKey, Wallet: self.PubKey, Hash: p.Hash, Outpoint: c.Outpoint, CapacitySat: c.CapacitySat}
	if c.Peer != p.NodeKey || resp.GetText() != want.Text() {
		return errkind.Newf(errkind.Invalid, "LSP %s promises another channel than %s, over which the payment came: the preimage is kept back, and the payment goes back when it expires", l.Name, c.Outpoint)
	}
	signer, err := auth.RecoverSigner(want.Text(), resp.GetSignature())
	if err != nil || signer != p.NodeKey {
		return errkind.Newf(errkind.Invalid, "LSP %s: its promise is not signed by its node: the preimage is kept back", l.Name)
	}
	p.Outpoint, p.Promise, p.Signature = c.Outpoint, want.Text(), resp.GetSignature()
	return nil
}

// awaitFunding settles again what a crash may have left, and waits for the
// channel's confirmation.
func (a *Agent) awaitFunding(ctx context.Context, p trustedPayment) (over bool, err error) {
	inv, err := a.ports.Invoices.LookupInvoice(ctx, p.Hash)
	switch {
	case errors.Is(err, ln.ErrNotFound):
		return a.keepPromise(ctx, p)
	case err != nil:
		return false, err
	case inv.State == ln.InvoiceAccepted:
		return false, nodeError(a.ports.Holder.SettleInvoice(ctx, p.Preimage.Preimage()))
	case inv.State != ln.InvoiceSettled:
		return a.forgetGivenUp(ctx, p)
	case p.Outpoint.IsZero():
		return true, a.trusts.remove(p.Hash)
	}
	channels, err := a.ports.Channels.ListChannels(ctx)
	if err != nil {
		return false, nodeError(err)
	}
	for _, c := range channels {
		if c.Outpoint == p.Outpoint && unconfirmed(c) {
			return false, a.alarm(ctx, p)
		}
	}
	// Confirmed, or closed: lnd closes nothing cooperatively that is not on the chain.
	return true, a.trusts.remove(p.Hash)
}

// keepPromise is for a payment that was claimed by a node of which only a backup is left:
// lnd knows nothing of it, and of its channel only that it is to be closed. The promise is
// kept until the channel's transaction is on the chain for sure.
func (a *Agent) keepPromise(ctx context.Context, p trustedPayment) (over bool, err error) {
	if p.Outpoint.IsZero() {
		return true, a.trusts.remove(p.Hash)
	}
	onChain, err := a.onChain(ctx, p.Outpoint)
	if err != nil {
		return false, nodeError(err)
	}
	if onChain {
		return true, a.trusts.remove(p.Hash)
	}
	return false, a.alarm(ctx, p)
}

// onChain says that lnd knows a channel's funding to be in a block, by the channel's close
// at the latest.
func (a *Agent) onChain(ctx context.Context, op ln.Outpoint) (bool, error) {
	open, err := a.ports.Channels.ListChannels(ctx)
	if err != nil {
		return false, err
	}
	pending, err := a.ports.Channels.PendingChannels(ctx)
	if err != nil {
		return false, err
	}
	closed, err := a.ports.Channels.ClosedChannels(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(open, func(c ln.Channel) bool { return c.Outpoint == op && !unconfirmed(c) }) ||
		slices.ContainsFunc(pending, func(c ln.PendingChannel) bool { return c.Outpoint == op && c.Kind == ln.PendingForceClose }) ||
		slices.ContainsFunc(closed, func(c ln.ClosedChannel) bool { return c.Outpoint == op && c.CloseHeight > 0 }), nil
}

// alarm is an error, so that it is told again and again, once the channel is late.
func (a *Agent) alarm(ctx context.Context, p trustedPayment) error {
	info, err := a.ports.Node.Info(ctx)
	if err != nil {
		return nodeError(err)
	}
	if text := a.overdue(p, info.BlockHeight); text != "" {
		return errors.New(text)
	}
	return nil
}

// overdue says that the LSP has not kept its promise so far; "" if it is in time.
func (a *Agent) overdue(p trustedPayment, height uint32) string {
	blocks := cmp.Or(a.cfg.Trust.AlarmBlocks, DefaultAlarmBlocks)
	if p.State != trustClaimed || p.Outpoint.IsZero() || height < p.ClaimedHeight || height-p.ClaimedHeight < blocks {
		return ""
	}
	return fmt.Sprintf("LSP %s was trusted with %s and transaction %s, which it promised, is not confirmed %d blocks after the payment was claimed: look for it in a block explorer. If nobody has seen it, ask the operator, and show this promise with the preimage: %q, signed %s (all of it is in %s)",
		p.LSP, p.AmountMsat, p.Outpoint.TxID, height-p.ClaimedHeight, p.Promise, p.Signature, trustedFile)
}

// DefaultAlarmBlocks is a few hours: a transaction may wait when blocks are full.
const DefaultAlarmBlocks = 18

// Alarms are promises that should have been kept by now, for people.
func (a *Agent) alarms(height uint32) (out []string) {
	for _, p := range a.trusts.all() {
		if text := a.overdue(p, height); text != "" {
			out = append(out, text)
		}
	}
	return out
}

// forgetGivenUp ends a payment that went back: lnd forgets the channels that the LSP
// has given up, if nothing of the wallet's is in them.
func (a *Agent) forgetGivenUp(ctx context.Context, p trustedPayment) (over bool, err error) {
	l, err := a.book.ByName(p.LSP)
	if err != nil {
		// The LSP was left: nobody says what it gave up.
		return true, a.trusts.remove(p.Hash)
	}
	client, err := a.gateway(ctx, l)
	if err != nil {
		return false, err
	}
	call, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	resp, err := client.GetPayment(call, &lspv1.GetPaymentRequest{PaymentId: p.PaymentID})
	if err = fromGateway(l, err); err != nil && !errors.Is(err, errkind.NotFound) {
		return false, err
	}
	channels, listErr := a.ports.Channels.ListChannels(ctx)
	if listErr != nil {
		return false, nodeError(listErr)
	}
	left := false
	for _, c := range channels {
		if c.Peer != p.NodeKey || !unconfirmed(c) || !slices.Contains(resp.GetPayment().GetGivenUpOutpoints(), c.Outpoint.String()) {
			continue
		}
		if c.LocalSat > 0 || len(c.Htlcs) > 0 {
			left = true
			continue
		}
		if err := a.ports.Holder.AbandonChannel(ctx, c.Outpoint); err != nil {
			return false, nodeError(err)
		}
		a.log.Info("a channel that its LSP never funded is forgotten", zap.String("lsp", l.Name), zap.Stringer("outpoint", c.Outpoint))
	}
	if left || resp != nil && !resp.GetPayment().GetTerminal() {
		return false, nil
	}
	return true, a.trusts.remove(p.Hash)
}
