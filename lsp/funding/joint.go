package funding

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Party is what one side brings to a funding transaction of two.
type Party struct {
	Inputs []ln.Coin `json:"inputs"`
	// OutlaySat is what it pays besides its share of the chain fee: into the
	// channel, and to the other side.
	OutlaySat    ln.Sat `json:"outlay_sat"`
	ChangeScript []byte `json:"change_script,omitempty"`
	// MinChangeSat is the least change that it wants; less goes to the miners.
	MinChangeSat ln.Sat `json:"min_change_sat,omitempty"`
}

// Share is what the transaction means for one side: its inputs equal its
// outlay, its fee and its change, always.
type Share struct {
	FeeSat    ln.Sat `json:"fee_sat"`
	ChangeSat ln.Sat `json:"change_sat"`
	WeightWU  uint64 `json:"weight_wu"`
}

// Joint is a funding transaction that two sides pay for.
type Joint struct {
	FundingSat      ln.Sat             `json:"funding_sat"`
	FeeRate         ln.FeeRateSatPerKW `json:"fee_rate_sat_per_kw"`
	Gateway, Wallet Share
	// WeightWU is the whole transaction's, signed; FeeSat what both pay.
	WeightWU uint64 `json:"weight_wu"`
	FeeSat   ln.Sat `json:"fee_sat"`
}

// ShortError says how much a side's coins lack. It is of kind errkind.Invalid:
// who named the coins can name more.
type ShortError struct{ MissingSat ln.Sat }

func (e *ShortError) Error() string {
	return fmt.Sprintf("the coins bring %s too little for the amount, the fee of the gateway and the chain fee: offer more coins, or a smaller amount", e.MissingSat)
}

// Unwrap gives the error its kind.
func (e *ShortError) Unwrap() error { return errJointShort }

var errJointShort = errkind.New(errkind.Invalid, "the coins bring too little for the amount, the fee of the gateway and the chain fee: offer more coins, or a smaller amount")

// Divide shares the chain fee by weight: each side pays for its own inputs and
// its change, and half of what is nobody's (the transaction's frame and the
// channel's output). The wallet bears the odd unit and the rounding.
func Divide(fundingSat ln.Sat, rate ln.FeeRateSatPerKW, gateway, wallet Party) (Joint, error) {
	if rate < ln.MinFeeRate {
		return Joint{}, fmt.Errorf("a fee rate of %d sat/kw is below what nodes relay (%d)", rate, ln.MinFeeRate)
	}
	paid, err := gateway.OutlaySat.Add(wallet.OutlaySat)
	if err != nil {
		return Joint{}, err
	}
	if paid != fundingSat {
		return Joint{}, fmt.Errorf("the sides pay %s and %s into a channel of %s", gateway.OutlaySat, wallet.OutlaySat, fundingSat)
	}
	if len(gateway.Inputs) == 0 || len(wallet.Inputs) == 0 {
		return Joint{}, errors.New("both sides bring coins, or it is no funding of two")
	}
	common := txBaseWU + countWU(len(gateway.Inputs)+len(wallet.Inputs)) + fundingOutputWU
	j := Joint{FundingSat: fundingSat, FeeRate: rate}
	if j.Wallet, err = wallet.share(rate, (common+1)/2); err != nil {
		return Joint{}, err
	}
	if j.Gateway, err = gateway.share(rate, common/2); err != nil {
		return Joint{}, err
	}
	j.WeightWU = j.Gateway.WeightWU + j.Wallet.WeightWU
	if j.FeeSat, err = j.Gateway.FeeSat.Add(j.Wallet.FeeSat); err != nil {
		return Joint{}, err
	}
	return j, nil
}

// share computes one side's part; common is its part of what is nobody's.
func (p Party) share(rate ln.FeeRateSatPerKW, common uint64) (Share, error) {
	sum, bare := ln.Sat(0), common
	for _, c := range p.Inputs {
		wu, ok := inputWU(c.PkScript)
		if !ok {
			return Share{}, errkind.Newf(errkind.Invalid, "coin %s pays to a script that is neither P2WPKH nor P2TR: its signature could change the transaction's id, which both commitments name", c.Outpoint)
		}
		bare += wu
		var err error
		if sum, err = sum.Add(c.AmountSat); err != nil {
			return Share{}, err
		}
	}
	fee, err := rate.Fee(bare)
	if err != nil {
		return Share{}, err
	}
	least, err := p.OutlaySat.Add(fee)
	if err != nil {
		return Share{}, err
	}
	if sum < least {
		return Share{}, &ShortError{MissingSat: least - sum}
	}
	if len(p.ChangeScript) > 0 {
		dust, err := DustLimit(p.ChangeScript)
		if err != nil {
			return Share{}, errkind.Wrap(errkind.Invalid, err, "The change must go to a P2WPKH, P2WSH or P2TR output.")
		}
		full := bare + outputWU(p.ChangeScript)
		with, err := rate.Fee(full)
		if err != nil {
			return Share{}, err
		}
		if rest := sum - p.OutlaySat; rest >= with && rest-with >= max(dust, p.MinChangeSat) {
			return Share{FeeSat: with, ChangeSat: rest - with, WeightWU: full}, nil
		}
	}
	return Share{FeeSat: sum - p.OutlaySat, WeightWU: bare}, nil
}

// JointTx is the transaction itself, before anybody signed it.
type JointTx struct {
	Psbt    []byte      `json:"psbt"`
	Funding ln.Outpoint `json:"funding"`
	// GatewayChange and WalletChange are zero where there is none.
	GatewayChange ln.Outpoint `json:"gateway_change,omitzero"`
	WalletChange  ln.Outpoint `json:"wallet_change,omitzero"`
}

// BuildJoint makes the transaction of both, in BIP 69's order. The same sides
// always give the same transaction.
func BuildJoint(j Joint, gateway, wallet Party, fundingScript []byte) (JointTx, error) {
	if k := kindOf(fundingScript); k != p2wsh && k != p2tr {
		return JointTx{}, fmt.Errorf("funding script %x is neither P2WSH nor P2TR", fundingScript)
	}
	again, err := Divide(j.FundingSat, j.FeeRate, gateway, wallet)
	if err != nil {
		return JointTx{}, err
	}
	if again != j {
		return JointTx{}, errors.New("the shares are not those of these coins")
	}
	inputs := append(slices.Clone(gateway.Inputs), wallet.Inputs...)
	slices.SortFunc(inputs, byOutpoint)
	tx := wire.NewMsgTx(2)
	for i, c := range inputs {
		if i > 0 && inputs[i-1].Outpoint == c.Outpoint {
			return JointTx{}, errkind.Newf(errkind.Invalid, "coin %s is named twice, or is the gateway's", c.Outpoint)
		}
		in := wire.NewTxIn(&wire.OutPoint{Hash: [32]byte(c.Outpoint.TxID), Index: c.Outpoint.Index}, nil, nil)
		// BIP 125: an open of the same coins that pays more may take its place. Nobody
		// else can, and who has the key could spend its coin otherwise anyway.
		in.Sequence = wire.MaxTxInSequenceNum - 2
		tx.AddTxIn(in)
	}
	type output struct {
		what   int
		sat    ln.Sat
		script []byte
	}
	const funds, ours, theirs = 0, 1, 2
	outputs := []output{{funds, j.FundingSat, fundingScript}}
	if j.Gateway.ChangeSat > 0 {
		outputs = append(outputs, output{ours, j.Gateway.ChangeSat, gateway.ChangeScript})
	}
	if j.Wallet.ChangeSat > 0 {
		outputs = append(outputs, output{theirs, j.Wallet.ChangeSat, wallet.ChangeScript})
	}
	for i, a := range outputs {
		for _, b := range outputs[i+1:] {
			if bytes.Equal(a.script, b.script) {
				return JointTx{}, errkind.New(errkind.Invalid, "two of the outputs pay to one script: the change must go to a fresh address")
			}
		}
	}
	slices.SortFunc(outputs, func(a, b output) int {
		switch {
		case a.sat < b.sat:
			return -1
		case a.sat > b.sat:
			return 1
		}
		return bytes.Compare(a.script, b.script)
	})
	for _, o := range outputs {
		amount, err := o.sat.Int64()
		if err != nil {
			return JointTx{}, err
		}
		tx.AddTxOut(wire.NewTxOut(amount, slices.Clone(o.script)))
	}
	packet, err := psbt.NewFromUnsignedTx(tx)
	if err != nil {
		return JointTx{}, fmt.Errorf("make the PSBT: %w", err)
	}
	for i, c := range inputs {
		amount, err := c.AmountSat.Int64()
		if err != nil {
			return JointTx{}, err
		}
		packet.Inputs[i].WitnessUtxo = wire.NewTxOut(amount, slices.Clone(c.PkScript))
	}
	var raw bytes.Buffer
	if err := packet.Serialize(&raw); err != nil {
		return JointTx{}, fmt.Errorf("encode the PSBT: %w", err)
	}
	out := JointTx{Psbt: raw.Bytes()}
	for i, o := range outputs {
		op := ln.Outpoint{TxID: ln.TxID(tx.TxHash()), Index: uint32(i)} //nolint:gosec // at most 2
		switch o.what {
		case funds:
			out.Funding = op
		case ours:
			out.GatewayChange = op
		case theirs:
			out.WalletChange = op
		}
	}
	return out, nil
}
