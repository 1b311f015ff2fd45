package guard

import (
	"fmt"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
)

// Day is how long what left counts against a day's limit: any 24 hours.
const Day = 24 * time.Hour

// maxUnseen is how many payments to scripts in a day may not have proven to be channels
// before the next one counts as one to an address.
const maxUnseen = 3

// Sums are amounts by where they go.
type Sums struct {
	AddressSat int64 `json:"address_sat,omitempty"`
	ChannelSat int64 `json:"channel_sat,omitempty"`
	FeeSat     int64 `json:"fee_sat,omitempty"`
}

func (s Sums) plus(o Sums) (Sums, error) {
	var out Sums
	for _, x := range []struct {
		to   *int64
		a, b int64
	}{{&out.AddressSat, s.AddressSat, o.AddressSat}, {&out.ChannelSat, s.ChannelSat, o.ChannelSat}, {&out.FeeSat, s.FeeSat, o.FeeSat}} {
		sum, err := add(x.a, x.b)
		if err != nil {
			return out, err
		}
		*x.to = sum
	}
	return out, nil
}

// over is what s has more than o.
func (s Sums) over(o Sums) Sums {
	return Sums{AddressSat: max(0, s.AddressSat-o.AddressSat), ChannelSat: max(0, s.ChannelSat-o.ChannelSat), FeeSat: max(0, s.FeeSat-o.FeeSat)}
}

// Coin is one of the wallet's coins that a signature was given for.
type Coin struct {
	TxID  string `json:"txid"`
	Index uint32 `json:"index"`
	Sat   int64  `json:"sat"`
}

// Script is an output that can be a channel's.
type Script struct {
	Index uint32 `json:"index"`
	Hex   string `json:"script"`
}

// Entry is what a signature adds to the book. It is durable before the signature is made:
// one that was written and not made costs a little of the day's limit, the other way
// around would be a signature that nothing counts.
type Entry struct {
	At   time.Time `json:"at"`
	TxID string    `json:"txid"`
	// Coins are those that are signed for now.
	Coins []Coin `json:"coins,omitempty"`
	// Sums are what is counted for it now, besides what was before.
	Sums
	Scripts []Script `json:"scripts,omitempty"`
	// Channel is an output of TxID that proved to be a channel.
	Channel *uint32 `json:"channel,omitempty"`
}

// transaction is what the book knows of one. It is kept for good: a host may ask for the
// signatures of one transaction on different days, and each counts the whole change.
type transaction struct {
	signed  map[wire.OutPoint]int64
	charged Sums
	at      time.Time
	scripts map[uint32]string
}

type charge struct {
	at   time.Time
	sums Sums
}

// Book counts what left.
type Book struct {
	transactions map[chainhash.Hash]*transaction
	// recent are the charges of the last day, oldest first.
	recent []charge
}

// NewBook is an empty one.
func NewBook() *Book { return &Book{transactions: map[chainhash.Hash]*transaction{}} }

// Apply adds an entry, a new one or one of the log.
func (b *Book) Apply(e Entry) error {
	id, err := chainhash.NewHashFromStr(e.TxID)
	if err != nil || len(e.TxID) != 2*chainhash.HashSize {
		return fmt.Errorf("the entry of %s names no transaction: %q", e.At.Format(time.RFC3339), e.TxID)
	}
	t := b.transactions[*id]
	if t == nil {
		t = &transaction{signed: map[wire.OutPoint]int64{}, scripts: map[uint32]string{}}
		b.transactions[*id] = t
	}
	t.at = e.At
	if e.Channel != nil {
		delete(t.scripts, *e.Channel)
		return nil
	}
	for _, c := range e.Coins {
		at, err := chainhash.NewHashFromStr(c.TxID)
		if err != nil || c.Sat < 0 {
			return fmt.Errorf("the entry of %s names no coin: %q", e.At.Format(time.RFC3339), c.TxID)
		}
		point := wire.OutPoint{Hash: *at, Index: c.Index}
		t.signed[point] = max(t.signed[point], c.Sat)
	}
	if t.charged, err = t.charged.plus(e.Sums); err != nil {
		return fmt.Errorf("the entry of %s: %w", e.At.Format(time.RFC3339), err)
	}
	for _, s := range e.Scripts {
		t.scripts[s.Index] = s.Hex
	}
	if e.Sums != (Sums{}) {
		b.recent = append(b.recent, charge{at: e.At, sums: e.Sums})
	}
	return nil
}

// Today sums up the 24 hours before now. What is dated later counts as well: a clock that
// was set back gives nothing free.
func (b *Book) Today(now time.Time) Sums {
	from := now.Add(-Day)
	kept := b.recent[:0]
	var out Sums
	for _, c := range b.recent {
		if !c.at.After(from) {
			continue
		}
		kept = append(kept, c)
		// Each was added to sums before without being too much.
		out.AddressSat += c.sums.AddressSat
		out.ChannelSat += c.sums.ChannelSat
		out.FeeSat += c.sums.FeeSat
	}
	b.recent = kept
	return out
}

// unseen counts the other transactions of the last day whose scripts did not prove to be
// channels yet.
func (b *Book) unseen(but chainhash.Hash, now time.Time) int {
	n := 0
	for id, t := range b.transactions {
		if id != but && t.charged.ChannelSat > 0 && len(t.scripts) > 0 && t.at.After(now.Add(-Day)) {
			n++
		}
	}
	return n
}
