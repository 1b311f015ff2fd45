package funding

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Request is what a funding transaction must do.
type Request struct {
	FundingSat ln.Sat
	// Channels is how many outputs share FundingSat (0: one).
	Channels int
	FeeRate  ln.FeeRateSatPerKW
	// ChangeScript is P2WPKH or P2TR, of the gateway's own wallet.
	ChangeScript []byte
	// MinChangeSat is the least change that is worth having as a handle for
	// CPFP; the dust limit if lower.
	MinChangeSat ln.Sat
	// Depth is, for each unconfirmed coin that is our own change, the length of
	// its chain of unconfirmed ancestors (1: its own transaction only). An
	// unconfirmed coin that is not in it came from somebody else, who could
	// take it back: it is never used.
	Depth map[ln.Outpoint]int
	// MaxDepth is the longest such chain to build on; 0 spends confirmed coins
	// only.
	MaxDepth int
	// BuriedConfs are the confirmations from which on no reorg is expected to undo a
	// coin. One that has fewer may go, if whoever paid it spends it otherwise then, and
	// every channel that it funded with it: it is spent where no single deeper one does.
	BuriedConfs uint32
	// ReserveSat must be left in the wallet, for anchors: see AnchorReserve.
	ReserveSat ln.Sat
}

// CoinsShortError says by how much the free coins fall short. It is of kind
// errkind.Unavailable.
type CoinsShortError struct {
	MissingSat ln.Sat
	// FreeSat is what could have been spent.
	FreeSat ln.Sat
}

func (e *CoinsShortError) Error() string {
	return fmt.Sprintf("the wallet has %s free to spend, %s too little: add coins, or wait until unconfirmed ones confirm", e.FreeSat, e.MissingSat)
}

// Unwrap gives the error its kind; callers outside are not told figures.
func (e *CoinsShortError) Unwrap() error { return errShort }

var errShort = errkind.New(errkind.Unavailable, "the gateway has too few free coins for this channel now: try again later or receive less")

// maxInputs bounds the transaction.
const maxInputs = 100

// Select chooses coins: confirmed ones first, the smallest single coin that
// suffices, of the buried ones if there is one, else from the largest down; then the same with our own unconfirmed
// change. CoinsShortError if nothing suffices. The same coins in any order
// give the same selection.
func Select(coins []ln.Coin, r Request) (Selection, error) {
	dust, err := DustLimit(r.ChangeScript)
	if err != nil {
		return Selection{}, fmt.Errorf("change: %w", err)
	}
	if r.FeeRate < ln.MinFeeRate {
		return Selection{}, fmt.Errorf("a fee rate of %d sat/kw is below what nodes relay (%d)", r.FeeRate, ln.MinFeeRate)
	}
	if r.FundingSat == 0 {
		return Selection{}, errors.New("a channel of 0 sat")
	}
	var free, wallet ln.Sat
	var confirmed, young []ln.Coin
	for _, c := range coins {
		wu, spendable := inputWU(c.PkScript)
		depth, ours := r.Depth[c.Outpoint]
		if c.Confirmations <= 0 && !ours {
			// What others have sent, and is in no block, they may take back: no reserve of ours.
			continue
		}
		if wallet, err = wallet.Add(c.AmountSat); err != nil {
			return Selection{}, fmt.Errorf("the wallet's coins: %w", err)
		}
		cost, err := r.FeeRate.Fee(wu)
		if err != nil {
			return Selection{}, err
		}
		switch {
		case !spendable || c.AmountSat <= cost:
			continue
		case c.Confirmations > 0:
			confirmed = append(confirmed, c)
		case depth <= r.MaxDepth:
			young = append(young, c)
		default:
			continue
		}
		free += c.AmountSat
	}
	slices.SortFunc(confirmed, largestFirst)
	slices.SortFunc(young, largestFirst)

	var buried []ln.Coin
	for _, c := range confirmed {
		if c.Confirmations >= int64(r.BuriedConfs) {
			buried = append(buried, c)
		}
	}

	s := selector{Request: r, minChange: max(r.MinChangeSat, dust), wallet: wallet}
	for i := len(buried) - 1; i >= 0; i-- {
		if sel, ok, err := s.try(buried[i : i+1]); err != nil || ok {
			return sel, err
		}
	}
	// On one transaction of several channels all of them hang.
	for n := 2; r.Channels > 1 && n <= min(len(buried), maxInputs); n++ {
		if sel, ok, err := s.try(buried[:n]); err != nil || ok {
			return sel, err
		}
	}
	for _, set := range [][]ln.Coin{confirmed, append(slices.Clone(confirmed), young...)} {
		for i := len(set) - 1; i >= 0; i-- {
			if sel, ok, err := s.try(set[i : i+1]); err != nil || ok {
				return sel, err
			}
		}
		for n := 2; n <= min(len(set), maxInputs); n++ {
			if sel, ok, err := s.try(set[:n]); err != nil || ok {
				return sel, err
			}
		}
	}
	return Selection{}, s.short(append(confirmed, young...), free)
}

type selector struct {
	Request
	minChange, wallet ln.Sat
}

// try says whether exactly these coins do, with change, by which it can be bumped.
func (s selector) try(set []ln.Coin) (Selection, bool, error) {
	sum, spend, weight, err := s.need(set)
	if err != nil {
		return Selection{}, false, err
	}
	if sum < spend || sum-spend < s.minChange || s.wallet < spend || s.wallet-spend < s.ReserveSat {
		return Selection{}, false, nil
	}
	inputs := slices.Clone(set)
	slices.SortFunc(inputs, byOutpoint)
	return Selection{
		Inputs: inputs, FundingSat: s.FundingSat, ChangeSat: sum - spend,
		FeeSat: spend - s.FundingSat, FeeRate: s.FeeRate, WeightWU: weight,
	}, true, nil
}

// need is what these coins bring, and what the transaction spends: funding and fee.
func (s selector) need(set []ln.Coin) (sum, spend ln.Sat, weight uint64, err error) {
	weight = txBaseWU + countWU(len(set)) + uint64(max(s.Channels, 1))*fundingOutputWU + outputWU(s.ChangeScript) //nolint:gosec // positive
	for _, c := range set {
		wu, _ := inputWU(c.PkScript)
		weight += wu
		if sum, err = sum.Add(c.AmountSat); err != nil {
			return 0, 0, 0, err
		}
	}
	fee, err := s.FeeRate.Fee(weight)
	if err != nil {
		return 0, 0, 0, err
	}
	spend, err = s.FundingSat.Add(fee)
	return sum, spend, weight, err
}

// short is by how much all that could be spent at once falls short.
func (s selector) short(set []ln.Coin, free ln.Sat) error {
	set = set[:min(len(set), maxInputs)]
	sum, spend, _, err := s.need(set)
	if err != nil {
		return err
	}
	want := spend + s.minChange
	missing := want - min(want, sum)
	// The wallet after the spend must keep the reserve.
	if keep := spend + s.ReserveSat; keep > s.wallet {
		missing = max(missing, keep-s.wallet)
	}
	return &CoinsShortError{MissingSat: max(missing, 1), FreeSat: free - min(free, s.ReserveSat)}
}

func largestFirst(a, b ln.Coin) int {
	switch {
	case a.AmountSat > b.AmountSat:
		return -1
	case a.AmountSat < b.AmountSat:
		return 1
	}
	return byOutpoint(a, b)
}

// byOutpoint is BIP 69's order of inputs: the txid as people read it.
func byOutpoint(a, b ln.Coin) int {
	for i := len(a.Outpoint.TxID) - 1; i >= 0; i-- {
		if a.Outpoint.TxID[i] != b.Outpoint.TxID[i] {
			return bytes.Compare(a.Outpoint.TxID[i:i+1], b.Outpoint.TxID[i:i+1])
		}
	}
	return int(int64(a.Outpoint.Index) - int64(b.Outpoint.Index))
}
