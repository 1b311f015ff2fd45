package order

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// see takes in what lnd's wallet lists. The list is whole: what is missing from
// it is gone. New coins are leased, so that nothing else spends them.
func (o Order) see(v CoinsSeen) (Order, []Effect) {
	o.Coins = slices.Clone(o.Coins)
	listed := make(map[ln.Outpoint]SeenCoin, len(v.Coins))
	var fresh []ln.Outpoint
	for _, c := range v.Coins {
		listed[c.Outpoint] = c
		known := slices.ContainsFunc(o.Coins, func(k Coin) bool { return k.Outpoint == c.Outpoint })
		// One that is spent before it was seen is not there to be taken or
		// returned: the database is an older copy, or a person has spent it.
		// So is one that comes when the address is watched no more.
		if !known && !c.Spent && !o.Unwatched {
			o.Coins = append(o.Coins, Coin{Outpoint: c.Outpoint, AmountSat: c.AmountSat, SeenAt: c.At, Replaceable: c.Replaceable})
			fresh = append(fresh, c.Outpoint)
		}
	}
	for i := range o.Coins {
		c, there := listed[o.Coins[i].Outpoint]
		o.Coins[i].Gone, o.Coins[i].Height = !there, c.Height
	}
	effects := o.lose(v.Height)
	if len(fresh) > 0 {
		effects = append(effects, KeepCoins{OrderID: o.ID, LeaseID: LeaseID(o.ID), Coins: fresh})
	}
	return o, effects
}

// lose gives up refunds of which a coin left the chain: a reorg that let its payer
// spend it otherwise makes every version of the refund invalid, and with it the way
// back of the coins beside it. lnd's wallet may list such a payment as unconfirmed
// until it restarts, and never the transaction that took its place. So time decides:
// what was in a block and has been in none for as many blocks as bury a transaction
// is waited for no longer. If it comes back it is returned by itself. The coins are
// the order's own copy.
func (o Order) lose(height uint32) (effects []Effect) {
	var ids []string
	lost := make(map[string][]ln.Outpoint)
	for i := range o.Coins {
		switch c := &o.Coins[i]; {
		case c.Refund == "" || c.RefundOver || c.Height > 0:
			c.LostHeight = 0
		case c.LostHeight == 0:
			c.LostHeight = max(height, 1)
		case height >= c.LostHeight && height-c.LostHeight >= max(o.BuriedConfs, 1):
			// It is told again after as long, should there be no answer.
			c.LostHeight = height
			if lost[c.Refund] == nil {
				ids = append(ids, c.Refund)
			}
			lost[c.Refund] = append(lost[c.Refund], c.Outpoint)
		}
	}
	for _, id := range ids {
		effects = append(effects, DropRefund{OrderID: o.ID, RefundID: id, Coins: lost[id]})
	}
	return effects
}

// payBy is when an order that is not paid ends. A payment that was seen in time
// may confirm later; one that is too little goes back when the order has expired
// (bLIP-51): nothing that comes then counts any more.
func (o Order) payBy() time.Time {
	var due time.Time
	if o.Lightning != nil && !o.InvoiceGone {
		due = o.Lightning.ExpiresAt
	}
	if o.OnChain == nil {
		if due.IsZero() {
			return o.CreatedAt
		}
		return due
	}
	if o.OnChain.ExpiresAt.After(due) {
		due = o.OnChain.ExpiresAt
	}
	if o.covered() {
		due = o.OnChain.ConfirmBy
	}
	return due
}

// covered: what was seen in time makes the total, once it has its confirmations.
func (o Order) covered() bool {
	var sum ln.Sat
	for _, c := range o.Coins {
		if !o.timely(c) {
			continue
		}
		var err error
		if sum, err = sum.Add(c.AmountSat); err != nil {
			return true
		}
	}
	return sum >= o.OnChain.TotalSat
}

func (o Order) watchUntil() time.Time {
	if o.OnChain == nil || o.Unwatched {
		return time.Time{}
	}
	return o.OnChain.WatchUntil
}

// timely: the coin was seen before the order expired, and may pay for it.
func (o Order) timely(c Coin) bool {
	return !c.Gone && c.Refund == "" && c.SeenAt.Before(o.OnChain.ExpiresAt)
}

// take chooses the coins that pay for the order, if they do. Of unconfirmed
// ones a single one counts, which says that it will not be replaced, and only
// where order and limits allow it: two may be one payment and its replacement.
func (o Order) take(v CoinsSeen) (Order, bool, error) {
	if o.OnChain == nil {
		return o, false, nil
	}
	var sum ln.Sat
	var err error
	chosen := make([]bool, len(o.Coins))
	for i, c := range o.Coins {
		if !o.timely(c) || ln.Confirmations(c.Height, v.Height) < max(uint32(o.OnChain.MinConfs), 1) {
			continue
		}
		chosen[i] = true
		if sum, err = sum.Add(c.AmountSat); err != nil {
			return o, false, fmt.Errorf("order %s: what was paid: %w", o.ID, err)
		}
	}
	zero := false
	if sum < o.OnChain.TotalSat {
		if o.OnChain.MinConfs > 0 || !v.ZeroConf || !o.single() {
			return o, false, nil
		}
		zero, chosen = true, []bool{true}
	}
	o.Coins = slices.Clone(o.Coins)
	for i := range o.Coins {
		o.Coins[i].Used, o.Coins[i].Zero = chosen[i], zero
	}
	o.PaidBy, o.PaidHeight = PaidByOnChain, v.Height
	return o, true, nil
}

// single: one coin pays for the whole order, and is not to be replaced.
func (o Order) single() bool {
	return len(o.Coins) == 1 && o.timely(o.Coins[0]) && !o.Coins[0].Replaceable && o.Coins[0].AmountSat >= o.OnChain.TotalSat
}

// WantsZeroConf says that the order would be paid if unconfirmed money counted:
// then the limits for that are asked.
func WantsZeroConf(s State, v CoinsSeen) (ln.Sat, bool) {
	a, ok := s.(Awaiting)
	if !ok || a.OnChain == nil || a.OnChain.MinConfs > 0 {
		return 0, false
	}
	o, _ := a.see(v)
	v.ZeroConf = true
	o, paid, err := o.take(v)
	return o.RiskSat(), err == nil && paid && o.RiskSat() > 0
}

// RiskSat is what was taken for paid and is unconfirmed.
func (o Order) RiskSat() (sum ln.Sat) {
	for _, c := range o.Coins {
		if c.Used && c.Zero && c.Height == 0 {
			sum += c.AmountSat
		}
	}
	return sum
}

// backed: what pays for the order on chain is still there.
func (o Order) backed() bool {
	for _, c := range o.Coins {
		if c.Used && (c.Gone || c.Height == 0 && !c.Zero) {
			return false
		}
	}
	return true
}

// unpaid takes an on-chain payment for what it is after a reorg: not there.
func (o Order) unpaid() Order {
	o.PaidBy, o.Coins = PaidByNobody, slices.Clone(o.Coins)
	for i := range o.Coins {
		o.Coins[i].Used, o.Coins[i].Zero = false, false
	}
	return o
}

// confirmedSat is what has been paid for the order and is in blocks.
func (o Order) confirmedSat() (sum ln.Sat) {
	for _, c := range o.Coins {
		if c.Used && !c.Gone && c.Height > 0 {
			sum += c.AmountSat // outputs of the chain: below 2^63 together
		}
	}
	return sum
}

// standIn has confirmed coins pay for a channel that is there while those that were
// taken for it are in no block: a payment that was taken unconfirmed, or that a reorg took
// away, may have been replaced by its payer. Should both confirm, takeOver returns what
// is too much.
func (o Order) standIn() Order {
	if o.PaidBy != PaidByOnChain || o.Taken {
		return o
	}
	have := o.confirmedSat()
	for i := range o.Coins {
		c := &o.Coins[i]
		if have >= o.OnChain.TotalSat {
			break
		}
		if !c.Used && !c.Gone && c.Height > 0 && c.Refund == "" {
			c.Used = true
			have += c.AmountSat
		}
	}
	return o
}

// giveBack begins to return every confirmed coin that nothing is bought with: all
// of them when there is no channel.
func (o Order) giveBack(delivered bool, reason lsp.Reason) (Order, []Effect) {
	if o.OnChain == nil {
		return o, nil
	}
	o.Coins = slices.Clone(o.Coins)
	if delivered {
		o = o.standIn()
	}
	var due []int
	for i, c := range o.Coins {
		if !c.Gone && c.Height > 0 && c.Refund == "" && (!c.Used || !delivered) {
			due = append(due, i)
		}
	}
	if len(due) == 0 {
		return o, nil
	}
	o, f := o.refund(due, 0, reason)
	return o, []Effect{f}
}

// takeOver makes the coins that paid for the channel the gateway's own, once its
// funding is buried; what they hold beyond the total goes back.
func (o Order) takeOver(height uint32) (Order, []Effect) {
	if o.Taken || o.PaidBy != PaidByOnChain || o.Channel == nil || ln.Confirmations(o.Channel.ConfirmedHeight, height) < max(o.BuriedConfs, 1) {
		return o, nil
	}
	sum := o.confirmedSat()
	if sum < o.OnChain.TotalSat {
		// A payment that was taken unconfirmed, or that a reorg took away.
		return o, nil
	}
	o.Coins = slices.Clone(o.Coins)
	var used []int
	var free []ln.Outpoint
	for i := range o.Coins {
		switch c := &o.Coins[i]; {
		case !c.Used || c.Refund != "":
		case c.Gone || c.Height == 0:
			// Others paid in its place: if it comes it goes back.
			c.Used = false
		default:
			used = append(used, i)
			free = append(free, c.Outpoint)
		}
	}
	o.Taken = true
	if sum <= o.OnChain.TotalSat || len(used) == 0 {
		return o, []Effect{FreeCoins{OrderID: o.ID, LeaseID: LeaseID(o.ID), Coins: free}}
	}
	o, f := o.refund(used, o.OnChain.TotalSat, tooMuch())
	return o, []Effect{f}
}

func tooMuch() lsp.Reason {
	return lsp.Because(lsp.ReasonAmountOver, "more than the order's total was paid: the rest goes back, less the fee of the transaction")
}

// returning: a refund of the coin has begun and is not over.
func (c Coin) returning() bool { return c.Refund != "" && !c.RefundOver }

// refund begins one of these coins. The caller has cloned them.
func (o Order) refund(due []int, keep ln.Sat, reason lsp.Reason) (Order, Effect) {
	o.Refunds++
	f := Refund{
		OrderID: o.ID, RefundID: RefundID(o.ID, o.Refunds), KeepSat: keep,
		Script: o.OnChain.Script, ToScript: o.OnChain.RefundScript, Reason: reason,
	}
	for _, i := range due {
		f.Coins = append(f.Coins, o.Coins[i])
		o.Coins[i].Refund = f.RefundID
	}
	return o, f
}

// refunded takes in what became of a refund.
func (o Order) refunded(v Event) (Order, []Effect, bool) {
	o.Coins = slices.Clone(o.Coins)
	found := false
	var free []ln.Outpoint
	for i := range o.Coins {
		c := &o.Coins[i]
		switch v := v.(type) {
		case RefundSent:
			if c.Refund == v.RefundID && c.Refund != "" {
				c.RefundTx, found = v.TxID, true
			}
		case RefundEnded:
			if c.Refund == v.RefundID && c.Refund != "" {
				c.RefundOver, found = true, true
				free = append(free, c.Outpoint)
			}
		case RefundVoid:
			if c.Refund != v.RefundID || c.Refund == "" {
				continue
			}
			found = true
			if slices.Contains(v.Spent, c.Outpoint) {
				c.RefundOver = true
				free = append(free, c.Outpoint)
				continue
			}
			c.Refund, c.RefundTx, c.LostHeight = "", ln.TxID{}, 0
		}
	}
	if _, void := v.(RefundVoid); void && found {
		return o.returnAnew(free)
	}
	if len(free) == 0 {
		return o, nil, found
	}
	return o, []Effect{FreeCoins{OrderID: o.ID, LeaseID: LeaseID(o.ID), Coins: free}}, found
}

// returnAnew takes up the surplus that a void refund was to return. Coins that paid
// for the channel and are still there pay for it alone, as far as they go; one that
// comes back later is beyond the total, or what was missing of it. What is no part of
// the payment is given back as any other (giveBack). The coins are the order's own copy.
func (o Order) returnAnew(free []ln.Outpoint) (Order, []Effect, bool) {
	var effects []Effect
	if len(free) > 0 {
		effects = append(effects, FreeCoins{OrderID: o.ID, LeaseID: LeaseID(o.ID), Coins: free})
	}
	if !o.Taken {
		return o, effects, true
	}
	var there, missing []int
	var sum ln.Sat
	for i, c := range o.Coins {
		switch {
		case !c.Used || c.RefundOver || c.Refund != "":
		case c.Gone || c.Height == 0:
			missing = append(missing, i)
		default:
			there = append(there, i)
			sum += c.AmountSat // checked when the coins were taken
		}
	}
	if sum <= o.OnChain.TotalSat {
		// takeOver looks again when what is missing is back.
		o.Taken = len(missing) == 0
		return o, effects, true
	}
	for _, i := range missing {
		o.Coins[i].Used = false
	}
	o, f := o.refund(there, o.OnChain.TotalSat, tooMuch())
	return o, append(effects, f), true
}

// quiet: nothing that was paid is still to be returned, and nothing can come.
func (o Order) quiet(delivered bool) bool {
	if o.Lightning != nil && !o.Settled && !o.InvoiceGone {
		return false
	}
	if o.OnChain == nil {
		return true
	}
	if !o.Unwatched {
		return false
	}
	for _, c := range o.Coins {
		if c.returning() {
			return false
		}
	}
	return !delivered || o.Taken || o.PaidBy != PaidByOnChain || o.confirmedSat() < o.OnChain.TotalSat && !o.backed()
}

// OwnCoins are payments that have become the gateway's.
func (o Order) OwnCoins() map[ln.Outpoint]bool {
	out := make(map[ln.Outpoint]bool)
	for _, c := range o.Coins {
		if o.Taken && c.Used && c.Refund == "" || c.RefundOver {
			out[c.Outpoint] = true
		}
	}
	return out
}

// Kept are payments that nothing else may spend. One that is on its way back is kept
// as well: lnd frees it when the transaction that returns it is no longer valid.
func Kept(o Order) []ln.Outpoint {
	var out []ln.Outpoint
	own := o.OwnCoins()
	for _, c := range o.Coins {
		if !c.Gone && !own[c.Outpoint] {
			out = append(out, c.Outpoint)
		}
	}
	return out
}

// Missing are payments that lnd does not list any more: a lease of one keeps nothing.
func Missing(o Order) []ln.Outpoint {
	var out []ln.Outpoint
	for _, c := range o.Coins {
		if c.Gone {
			out = append(out, c.Outpoint)
		}
	}
	return out
}

// EarnedMsat is what the gateway earns by an order that is delivered.
func (o Order) EarnedMsat() (ln.Msat, error) {
	push, err := o.ClientBalanceSat.Msat()
	if err != nil {
		return 0, err
	}
	if o.PaidBy == PaidByLightning && o.Held.HeldMsat > 0 {
		// A payer may send more than was asked for.
		return o.Held.HeldMsat.Sub(push)
	}
	return o.price().FeeSat.Msat()
}

// LostMsat is what is missing of an on-chain payment that was taken.
func (o Order) LostMsat() (ln.Msat, error) {
	if o.PaidBy != PaidByOnChain {
		return 0, nil
	}
	return (o.OnChain.TotalSat - min(o.confirmedSat(), o.OnChain.TotalSat)).Msat()
}
