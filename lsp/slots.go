package lsp

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// ChannelSlots is how many HTLCs a channel admits at most in one direction (BOLT 2,
// max_accepted_htlcs). One that waits here keeps its slot from everybody who pays
// through that channel, however small it is.
const ChannelSlots = 483

// Slots counts HTLCs by the channel that they came in on, in the order of the
// channels; no channel is there with none.
type Slots []Slot

// Slot is one channel's part.
type Slot struct {
	Chan  ln.SCID
	Htlcs int
}

// With counts one more HTLC.
func (s Slots) With(scid ln.SCID) Slots {
	i, found := s.find(scid)
	if found {
		s[i].Htlcs++
		return s
	}
	return slices.Insert(s, i, Slot{Chan: scid, Htlcs: 1})
}

// Of is how many came in on one channel.
func (s Slots) Of(scid ln.SCID) int {
	if i, found := s.find(scid); found {
		return s[i].Htlcs
	}
	return 0
}

// Total is how many there are.
func (s Slots) Total() (n int) {
	for _, c := range s {
		n += c.Htlcs
	}
	return n
}

func (s Slots) find(scid ln.SCID) (int, bool) {
	return slices.BinarySearchFunc(s, scid, func(c Slot, scid ln.SCID) int { return cmp.Compare(c.Chan, scid) })
}

// String is the form in which they are stored: "BxTxO:n", separated by commas.
func (s Slots) String() string {
	var b strings.Builder
	for i, c := range s {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(c.Chan.String())
		b.WriteByte(':')
		b.WriteString(strconv.Itoa(c.Htlcs))
	}
	return b.String()
}

// ParseSlots reads what String wrote.
func ParseSlots(text string) (Slots, error) {
	if text == "" {
		return nil, nil
	}
	var out Slots
	for item := range strings.SplitSeq(text, ",") {
		scid, count, ok := strings.Cut(item, ":")
		id, err := ln.ParseSCID(scid)
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(count)
		if !ok || err != nil || n < 1 || (len(out) > 0 && out[len(out)-1].Chan >= id) {
			return nil, fmt.Errorf("counts of HTLCs by channel %q: want BxTxO:n in the order of channels", ln.Clip(text, 80))
		}
		out = append(out, Slot{Chan: id, Htlcs: n})
	}
	return out, nil
}

// Holding is what is kept of payers' money: how much, what it costs (see
// SatBlocks), and the slots that it takes.
type Holding struct {
	HeldMsat  ln.Msat
	SatBlocks uint64
	Slots     Slots
}

// InvoiceSlots are the slots of a set that a hold invoice accepted.
func InvoiceSlots(htlcs []ln.InvoiceHtlc) (s Slots) {
	for _, h := range htlcs {
		s = s.With(h.Key.ChanID)
	}
	return s
}
