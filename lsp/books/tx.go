package books

import (
	"cmp"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Tx is what the books remember of one transaction of lnd's wallet.
type Tx struct {
	TxID   ln.TxID `json:"txid"`
	Height int32   `json:"height,omitempty"`
	// Times counts how often it was booked; Booked says whether it is now, and
	// Lines how.
	Times  int    `json:"times,omitempty"`
	Booked bool   `json:"booked,omitempty"`
	Lines  []Line `json:"lines,omitempty"`
	// AtStart: its effect is in the opening balance.
	AtStart bool `json:"at_start,omitempty"`
	// Channels are those whose close it is part of, or that it funds.
	Channels []ln.Outpoint `json:"channels,omitempty"`
	// Staged are outputs that are ours and not the wallet's yet: second-stage
	// outputs of HTLCs.
	Staged []Stage `json:"staged,omitempty"`
}

// Stage is one output of a second-stage transaction.
type Stage struct {
	Outpoint ln.Outpoint `json:"outpoint"`
	Channel  ln.Outpoint `json:"channel"`
	ValueSat int64       `json:"value_sat"`
}

// Known finds what a transaction may be about.
type Known struct {
	ByFunding map[ln.Outpoint]*Channel
	ByClose   map[ln.TxID]*Channel
	Staged    map[ln.Outpoint]Stage
	// Signed says that a machine has booked the funding already, against the
	// clearing account.
	Signed map[ln.Outpoint]bool
	// Paid names the order that an output pays, Refunds the one that a
	// transaction pays back.
	Paid    map[ln.Outpoint]string
	Refunds map[ln.TxID]string
}

// NewKnown indexes channels and transactions.
func NewKnown(channels map[ln.Outpoint]*Channel, txs map[ln.TxID]*Tx, signed map[ln.Outpoint]bool) Known {
	k := Known{ByFunding: channels, ByClose: make(map[ln.TxID]*Channel), Staged: make(map[ln.Outpoint]Stage), Signed: signed}
	for _, c := range channels {
		if c.CloseTx != (ln.TxID{}) {
			k.ByClose[c.CloseTx] = c
		}
		for _, s := range c.Stages {
			k.Staged[s.Outpoint] = Stage{Outpoint: s.Outpoint, Channel: c.Outpoint, ValueSat: int64(s.AmountSat)} //nolint:gosec // bounded by the capacity
		}
	}
	for _, t := range txs {
		for _, s := range t.Staged {
			k.Staged[s.Outpoint] = s
		}
	}
	return k
}

// Book tells how a transaction of the wallet is booked: what it takes from a
// closing channel, what it puts into a channel of ours, and what it pays to
// others or gets from them.
func (k Known) Book(tx ln.WalletTx) Tx {
	out := Tx{TxID: tx.TxID, Height: tx.Height}
	amount := tx.AmountSat * 1000
	lines := []Line{{OnChain, amount}}
	claims := k.claims(tx)
	switch {
	case len(claims) > 0:
		lines = append(lines, k.bookClaims(tx, claims, &out)...)
	default:
		lines = append(lines, k.bookSend(tx, &out)...)
	}
	out.Lines = Tidy(lines)
	return out
}

// CloseOf is the channel whose funding output a transaction spends, nil if none.
func (k Known) CloseOf(tx ln.WalletTx) *Channel {
	for _, in := range tx.Inputs {
		if c := k.ByFunding[in.Outpoint]; c != nil && !in.Ours {
			return c
		}
	}
	return nil
}

// claim is one input that spends money of a closing channel.
type claim struct {
	input    int
	channel  *Channel
	valueSat int64
	known    bool
	// whole: it spends the channel's funding output itself.
	whole bool
}

func (k Known) claims(tx ln.WalletTx) []claim {
	var out []claim
	for i, in := range tx.Inputs {
		if in.Ours {
			continue
		}
		if c := k.ByFunding[in.Outpoint]; c != nil {
			out = append(out, claim{input: i, channel: c, whole: true})
		} else if s, ok := k.Staged[in.Outpoint]; ok && k.ByFunding[s.Channel] != nil {
			out = append(out, claim{input: i, channel: k.ByFunding[s.Channel], valueSat: s.ValueSat, known: true})
		} else if c := k.ByClose[in.Outpoint.TxID]; c != nil {
			value, known := c.outputOf(in.Outpoint.Index)
			out = append(out, claim{input: i, channel: c, valueSat: value, known: known})
		}
	}
	return out
}

// bookClaims balances a transaction that spends money of closing channels.
func (k Known) bookClaims(tx ln.WalletTx, claims []claim, out *Tx) []Line {
	amount := tx.AmountSat * 1000
	first := claims[0].channel
	for _, c := range claims {
		out.Channels = append(out.Channels, c.channel.Outpoint)
	}
	if claims[0].whole {
		// The closing transaction itself. Its fee is what is left once it is
		// resolved: who pays it depends on the closes' protocol.
		return []Line{{ClosingAccount(first.Outpoint), -amount}}
	}
	var lines []Line
	var sum int64
	allKnown := true
	for _, c := range claims {
		allKnown = allKnown && c.known
		taken := c.valueSat
		// A second-stage transaction is signed for the output at the index of
		// its input: what is there and not the wallet's stays the channel's.
		if c.input < len(tx.Outputs) && !tx.Outputs[c.input].Ours {
			staged := tx.Outputs[c.input].ValueSat
			taken -= staged
			out.Staged = append(out.Staged, Stage{
				Outpoint: ln.Outpoint{TxID: tx.TxID, Index: uint32(c.input)}, Channel: c.channel.Outpoint, ValueSat: staged, //nolint:gosec // an index
			})
		}
		lines = append(lines, Line{ClosingAccount(c.channel.Outpoint), -taken * 1000})
		sum += taken * 1000
	}
	if !allKnown {
		// What its inputs held is told by the commitment, which lnd shows once
		// the channel is resolved. Until then all is one channel's.
		return []Line{{ClosingAccount(first.Outpoint), -amount}}
	}
	return append(lines, Line{SweepFee, sum - amount})
}

// bookSend balances every other transaction.
func (k Known) bookSend(tx ln.WalletTx, out *Tx) []Line {
	rest := -tx.AmountSat * 1000
	if id, refund := k.Refunds[tx.TxID]; refund {
		// Its client bears the fee.
		return []Line{{OrderAccount(id), rest}}
	}
	var lines []Line
	signed := ""
	for i := range tx.Outputs {
		op := ln.Outpoint{TxID: tx.TxID, Index: uint32(i)} //nolint:gosec // an index
		if id, paid := k.Paid[op]; paid && tx.Outputs[i].Ours {
			owed := tx.Outputs[i].ValueSat * 1000
			lines = append(lines, Line{OrderAccount(id), -owed})
			rest += owed
			continue
		}
		c := k.ByFunding[op]
		if c == nil || !c.Initiator {
			continue
		}
		out.Channels = append(out.Channels, op)
		if k.Signed[op] {
			// One that funds several channels is cleared with the first of them.
			signed = cmp.Or(signed, FundingAccount(op))
			continue
		}
		capacity, push := int64(c.CapacitySat)*1000, int64(c.PushSat)*1000 //nolint:gosec // bounded by all bitcoin
		lines = append(lines, Line{ChanAccount(op), capacity - push}, Line{Pushed, push})
		rest -= capacity
	}
	if signed != "" {
		return []Line{{signed, -tx.AmountSat * 1000}}
	}
	// lnd knows a fee only where every input was the wallet's.
	fee := int64(tx.FeeSat) * 1000 //nolint:gosec // bounded by all bitcoin
	return append(lines, Line{ChainFee, fee}, Line{Outside, rest - fee})
}
