package guard

import (
	"encoding/hex"
	"time"

	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
)

// outputs is where a transaction's money goes.
type outputs struct {
	// ownSat is to the wallet and to known addresses.
	ownSat int64
	// scriptSat is to witness scripts, which can be channels. A node signs its funding
	// transaction before the guard can see what is behind the hash.
	scriptSat int64
	otherSat  int64
	scripts   []Script
}

func (k *Keyring) outputs(known map[string]bool, tx *wire.MsgTx) (o outputs, err error) {
	for i, out := range tx.TxOut {
		own, err := k.Own(out.PkScript)
		if err != nil {
			return o, err
		}
		to := &o.otherSat
		switch {
		case own || known[string(out.PkScript)]:
			to = &o.ownSat
		case txscript.IsPayToWitnessScriptHash(out.PkScript):
			to = &o.scriptSat
			o.scripts = append(o.scripts, Script{Index: uint32(i), Hex: hex.EncodeToString(out.PkScript)}) //nolint:gosec // maxInOuts
		}
		if *to, err = add(*to, out.Value); err != nil {
			return o, err
		}
	}
	return o, nil
}

// Judge decides about a spend. The entry, if there is one, must be applied and durable
// before the signer is asked.
//
// A signature over a coin is good for no other amount than the coin's, so the sum of what
// was signed for of a transaction is what it takes from the wallet, whatever the host
// says of the inputs that it asks nothing for. What does not come back is lost; a
// transaction is only good once all its coins are signed for, so its last signature is
// the one that has counted everything.
func (k *Keyring) Judge(p Policy, b *Book, s Spend, now time.Time) (*Entry, error) {
	known, err := p.known()
	if err != nil {
		return nil, refuse(RulePaused, "the policy cannot be read: %v", err)
	}
	o, err := k.outputs(known, s.tx)
	if err != nil {
		return nil, err
	}
	var counted []ask
	wallet := false
	for _, a := range s.asks {
		switch a.kind {
		case ofChannel:
			if e := b.channel(a, now); e != nil {
				return e, nil
			}
		case ofWallet:
			wallet = true
			counted = append(counted, a)
		case ofCoin:
			counted = append(counted, a)
		}
	}
	if len(counted) == 0 {
		return nil, nil
	}
	if !wallet && o.scriptSat+o.otherSat == 0 {
		return nil, onlySwept(counted, o)
	}
	return b.charge(p, s, counted, o, now)
}

// onlySwept: what a closed channel left goes to the wallet. Nothing is kept of it, since
// lnd signs such transactions for watchtowers at every payment. Of each output at most half
// goes to miners, which is what lnd's own sweeper goes up to before a deadline. Of several
// in one transaction the sum is not known: they are asked for one by one.
func onlySwept(asks []ask, o outputs) error {
	for _, a := range asks {
		if a.valueSat/2 > o.ownSat {
			return refuse(RuleFeeTx, "%d sat of a closed channel, of which only %d come to the wallet", a.valueSat, o.ownSat)
		}
	}
	return nil
}

// channel recognises an output that was signed for before as a channel's.
func (b *Book) channel(a ask, now time.Time) *Entry {
	t := b.transactions[a.outpoint.Hash]
	if t == nil || t.scripts[a.outpoint.Index] != hex.EncodeToString(a.script) {
		return nil
	}
	index := a.outpoint.Index
	return &Entry{At: now, TxID: a.outpoint.Hash.String(), Channel: &index}
}

func (b *Book) charge(p Policy, s Spend, asks []ask, o outputs, now time.Time) (*Entry, error) {
	signed := map[wire.OutPoint]int64{}
	var before Sums
	if t := b.transactions[s.id]; t != nil {
		before = t.charged
		for at, sat := range t.signed {
			signed[at] = sat
		}
	}
	e := &Entry{At: now, TxID: s.id.String()}
	for _, a := range asks {
		if have, ok := signed[a.outpoint]; !ok || a.valueSat > have {
			signed[a.outpoint] = a.valueSat
			e.Coins = append(e.Coins, Coin{TxID: a.outpoint.Hash.String(), Index: a.outpoint.Index, Sat: a.valueSat})
		}
	}
	total := int64(0)
	var err error
	for _, sat := range signed {
		if total, err = add(total, sat); err != nil {
			return nil, err
		}
	}
	sums := divide(p, max(0, total-o.ownSat), o, b.unseen(s.id, now) >= maxUnseen)
	e.Sums = sums.over(before)
	if sums.ChannelSat > 0 {
		e.Scripts = o.scripts
	}
	if len(e.Coins) == 0 && e.Sums == (Sums{}) {
		return nil, nil // the same once more
	}
	whole, err := before.plus(e.Sums)
	if err != nil {
		return nil, err
	}
	day, err := b.Today(now).plus(e.Sums)
	if err != nil {
		return nil, err
	}
	for _, l := range []struct {
		rule          Rule
		sat, most     int64
		what, instead string
	}{
		{RuleAddressTx, whole.AddressSat, p.AddressSatPerTx, "this transaction takes", "to addresses that are not the tenant's"},
		{RuleChannelTx, whole.ChannelSat, p.ChannelSatPerTx, "this transaction takes", "into channels"},
		{RuleFeeTx, whole.FeeSat, p.FeeSatPerTx, "this transaction takes", "to miners"},
		{RuleAddressDay, day.AddressSat, p.AddressSatPerDay, "with it 24 hours take", "to addresses that are not the tenant's"},
		{RuleChannelDay, day.ChannelSat, p.ChannelSatPerDay, "with it 24 hours take", "into channels"},
		{RuleFeeDay, day.FeeSat, p.FeeSatPerDay, "with it 24 hours take", "to miners"},
	} {
		if l.sat > l.most {
			return nil, refuse(l.rule, "%s %d sat %s, and the policy allows %d", l.what, l.sat, l.instead, l.most)
		}
	}
	return e, nil
}

// divide says where what is lost goes. Fees cannot be told apart from the amounts, since
// what the host says of other inputs proves nothing: they count where the money goes.
func divide(p Policy, lost int64, o outputs, doubted bool) (out Sums) {
	out.ChannelSat = min(lost, o.scriptSat)
	rest := lost - out.ChannelSat
	if o.otherSat > 0 {
		out.AddressSat = rest
	} else {
		out.FeeSat = rest
	}
	if !doubted || out.ChannelSat == 0 {
		return out
	}
	// Too many scripts did not prove to be channels. What is small may be the fees of an
	// HTLC's second transaction, which must not fail.
	if o.otherSat == 0 && lost <= p.FeeSatPerTx {
		return Sums{FeeSat: lost}
	}
	out.AddressSat, out.ChannelSat = out.AddressSat+out.ChannelSat, 0
	return out
}
