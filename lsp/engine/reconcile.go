package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/books"
)

// ReconcileLine compares one account of the books with lnd.
type ReconcileLine struct {
	Account             string
	BooksMsat, NodeMsat int64
	Note                string
}

// ReconcileDetail is a part of a difference, as narrow as lnd's records allow.
type ReconcileDetail struct {
	ReconcileLine
	// Reference is the channel, transaction or payment that it is about.
	Reference string
}

// ReconcileReport is the whole comparison.
type ReconcileReport struct {
	Balanced bool
	// InFlight says that HTLCs or unconfirmed transactions make figures that
	// still move.
	InFlight bool
	Lines    []ReconcileLine
	Details  []ReconcileDetail
}

const (
	// reconcileTries is how often a comparison that differs is made again at once:
	// lnd cannot be asked everything in the same moment.
	reconcileTries = 3
	// heldTries is how often one in which an HTLC that is held has left lnd's channel:
	// its service hears of it within moments. The pauses between them double from the
	// first to the last, which makes six seconds in all.
	heldTries      = 8
	heldPauseFirst = 100 * time.Millisecond
	heldPauseLast  = 1600 * time.Millisecond
)

// Reconcile takes lnd's other business (ordinary forwards, own payments and
// invoices, transactions, channels opened and closed) into the books, entry by
// entry under lnd's own identifiers, and compares the result. Nothing is ever
// adjusted to fit: what no evidence explains stays a difference.
func (e *Engine) Reconcile(ctx context.Context) (ReconcileReport, error) {
	e.bookMu.Lock()
	defer e.bookMu.Unlock()
	defer e.progress.step.Store(nil)
	c, err := e.openBooks(ctx)
	if err != nil {
		return ReconcileReport{}, err
	}
	pause := heldPauseFirst
	for try := 1; ; try++ {
		if err := e.bookFlows(ctx, &c); err != nil {
			return ReconcileReport{}, err
		}
		b, err := e.bookChain(ctx, &c)
		if err != nil {
			return ReconcileReport{}, err
		}
		e.progress.at("comparing")
		report := b.compare()
		if report.Balanced || try >= reconcileTries && b.held.gone == 0 || try >= heldTries {
			return report, nil
		}
		if b.held.gone == 0 {
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ReconcileReport{}, fmt.Errorf("wait for what becomes of held payments: %w", ctx.Err())
		}
		pause = min(2*pause, heldPauseLast)
	}
}

// compare holds the balances against lnd's lists.
func (b *chainBooks) compare() ReconcileReport {
	r := ReconcileReport{Balanced: true, InFlight: b.view.htlcs || len(b.view.pending) > 0}
	for _, t := range b.view.txs {
		r.InFlight = r.InFlight || t.Confirmations == 0
	}
	var trial int64
	for _, msat := range b.balances {
		trial += msat
	}
	channels, slack := b.compareChannels(&r)
	closing := b.compareClosing(&r)
	held := b.compareHeld(&r)
	onChain := ReconcileLine{Account: books.OnChain, BooksMsat: b.balances[books.OnChain], NodeMsat: b.view.onChainMsat}
	r.Lines = []ReconcileLine{channels, closing, onChain, held, {Account: "trial balance", BooksMsat: trial}}
	for i := range r.Lines {
		l := &r.Lines[i]
		diff := l.NodeMsat - l.BooksMsat
		switch {
		case diff == 0 || l.Account == closing.Account:
		case l.Account == channels.Account && max(diff, -diff) < slack:
			l.Note = "less than a satoshi per channel, which lnd does not show"
		case r.InFlight:
			l.Note, r.Balanced = "payments or transactions are in flight: ask again when they are done", false
		default:
			l.Note, r.Balanced = "not explained by anything that lnd reports: see the runbook", false
		}
		if l.Account == books.OnChain && diff != 0 {
			b.explainOnChain(&r, diff)
		}
	}
	slices.SortFunc(r.Details, func(a, b ReconcileDetail) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Reference, b.Reference))
	})
	return r
}

// tally is one channel, or all of one peer's whose payments lnd has not told
// the channel of, in the books and at lnd.
type tally struct {
	channels           []ln.Outpoint
	books, node, slack int64
	note               string
}

// compareChannels compares what is open. A channel whose funding does not exist
// yet counts on neither side.
func (b *chainBooks) compareChannels(r *ReconcileReport) (line ReconcileLine, slack int64) {
	tallies := make(map[ln.Outpoint]*tally)
	at := func(ch *books.Channel) *tally {
		t := tallies[ch.Outpoint]
		if t == nil {
			t = &tally{channels: []ln.Outpoint{ch.Outpoint}, slack: 1000}
			tallies[ch.Outpoint] = t
		}
		return t
	}
	line.Account, slack = "channels", 1000
	for _, l := range b.view.open {
		if ch := b.channels[l.Outpoint]; ch.Funded {
			t := at(ch)
			t.node, t.slack = books.ValueMsat(l)
		}
	}
	for _, p := range b.view.pending {
		if ch := b.channels[p.Outpoint]; p.Kind == ln.PendingOpen && ch.Funded {
			at(ch).node = books.PendingValueMsat(p)
		}
	}
	peers := make(map[ln.PubKey]int64)
	for account, msat := range b.balances {
		n := books.Parse(string(account))
		ch := b.of(n)
		switch {
		case msat == 0 || !n.Closing.IsZero():
		case !n.Funding.IsZero():
			// Signed and stored, and not in lnd's wallet yet: the channel counts
			// on neither side. Afterwards nothing may be left here.
			if ch := b.channels[n.Funding]; ch != nil && !b.promised(ch) {
				line.BooksMsat += msat
				b.detail(r, string(account), msat, 0, n.Funding.String(), "lnd's wallet took another amount than the signed transaction says")
			}
		case ch != nil && b.promised(ch):
		case ch != nil:
			at(ch).books += msat
		case !n.Chan.IsZero() && b.balances[ledger.Account(books.FundingAccount(n.Chan))] != 0:
		case !n.Peer.IsZero():
			peers[n.Peer] += msat
		case n != (books.Named{}):
			line.BooksMsat += msat
			b.detail(r, string(account), msat, 0, "", "lnd lists no channel of this name")
		}
	}
	b.joinPeers(tallies, peers, &line)
	for _, t := range tallies {
		line.BooksMsat += t.books
		line.NodeMsat += t.node
		slack += t.slack
		if diff := t.node - t.books; max(diff, -diff) >= t.slack {
			b.detail(r, books.ChanAccount(t.channels[0]), t.books, t.node, t.channels[0].String(), b.explainChannel(t))
		}
	}
	return line, slack
}

// joinPeers puts what went to a peer, over a channel that lnd has not named
// yet, together with all channels of that peer.
func (b *chainBooks) joinPeers(tallies map[ln.Outpoint]*tally, peers map[ln.PubKey]int64, line *ReconcileLine) {
	for peer, msat := range peers {
		joined := &tally{books: msat, note: "payments to this peer whose channel lnd has not told yet: it writes its history up to 15 s late"}
		for op, t := range tallies {
			if b.channels[op].Peer == peer {
				joined.channels = append(joined.channels, t.channels...)
				joined.books += t.books
				joined.node += t.node
				joined.slack += t.slack
				delete(tallies, op)
			}
		}
		if len(joined.channels) == 0 {
			line.BooksMsat += msat
			continue
		}
		tallies[joined.channels[0]] = joined
	}
}

func (b *chainBooks) explainChannel(t *tally) string {
	ch := b.channels[t.channels[0]]
	switch {
	case t.note != "":
		return t.note
	case ch.Phase == books.Missing:
		return "lnd lists this channel neither as open, nor as pending, nor as closed"
	case b.view.htlcs:
		return "a payment may be settled on one side and not yet on the other"
	default:
		return "a payment over this channel is missing in lnd's history (an unclean stop of lnd loses up to 15 s of it), or was moved by hand"
	}
}

// compareClosing compares what closing channels owe us with what lnd has in
// limbo. They differ by fees, anchors and HTLCs; by more they may not.
func (b *chainBooks) compareClosing(r *ReconcileReport) ReconcileLine {
	line := ReconcileLine{Account: "closing"}
	claimed := make(map[ln.Outpoint]int64)
	for _, t := range b.txs {
		for _, l := range t.Lines {
			if n := books.Parse(l.Account); t.Booked && !n.Closing.IsZero() {
				claimed[n.Closing] -= l.Msat
			}
		}
	}
	for op, ch := range b.channels {
		account := books.ClosingAccount(op)
		left := b.balances[ledger.Account(account)]
		switch {
		case b.promised(ch):
		case ch.Phase == books.Closing:
			p := b.pending[op]
			row := b.txs[ch.CloseTx]
			limbo, ok := ch.Owed(p, left, claimed[op], row != nil && row.Booked)
			line.NodeMsat += limbo
			if !ok && !ch.ClosingAtStart {
				r.Balanced = false
				b.detail(r, account, left, limbo, op.String(), "more or less than fees, anchors and HTLCs of this close explain")
			}
		case ch.Phase == books.Closed:
			if left != 0 {
				r.Balanced = false
				b.detail(r, account, left, 0, op.String(), fmt.Sprint(b.unexplained[op]))
			}
		}
		line.BooksMsat += left
	}
	if line.BooksMsat != line.NodeMsat {
		line.Note = "lnd's limbo leaves out fees, anchors and HTLCs of closes that are under way"
	}
	return line
}

// explainOnChain names what an on-chain difference may come from.
func (b *chainBooks) explainOnChain(r *ReconcileReport, diff int64) {
	if b.view.torn {
		b.detail(r, books.OnChain, 0, 0, "", "two transactions of the wallet spend the same coins and neither is confirmed: lnd counts both until one is")
	}
	for _, t := range b.view.txs {
		amount := t.AmountSat * 1000
		row := b.txs[t.TxID]
		switch {
		case b.view.losers[t.TxID]:
			b.detail(r, books.OnChain, 0, amount, t.TxID.String(), "lnd lists it, but another one that spends the same coin pays more")
		case amount == diff || amount == -diff:
			b.detail(r, books.OnChain, bookedOnChain(row), amount, t.TxID.String(), "it moves exactly the difference: "+cmp.Or(t.Label, "no label"))
		}
	}
	for account, msat := range b.balances {
		if n := books.Parse(string(account)); !n.Funding.IsZero() && msat != 0 {
			b.detail(r, string(account), msat, 0, n.Funding.String(), "a funding transaction that is signed and not in lnd's wallet")
		}
	}
}

func bookedOnChain(row *books.Tx) (msat int64) {
	if row == nil || !row.Booked {
		return 0
	}
	for _, l := range row.Lines {
		if l.Account == books.OnChain {
			msat += l.Msat
		}
	}
	return msat
}

func (b *chainBooks) detail(r *ReconcileReport, account string, booksMsat, nodeMsat int64, reference, note string) {
	r.Details = append(r.Details, ReconcileDetail{
		ReconcileLine: ReconcileLine{Account: account, BooksMsat: booksMsat, NodeMsat: nodeMsat, Note: note}, Reference: reference,
	})
}
