package lndfake

import (
	"context"
	"errors"
	"slices"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
)

// childRequest is an output of which lnd's sweeper was asked to make a child, at a rate per 1000 weight units.
type childRequest struct {
	of   wire.OutPoint
	rate int64
}

// BumpFee implements walletrpc.WalletKitServer: with the next block a child pays the rate asked for, of the child
// alone. Immediate may stop lnd's sweeper for good (sweep.TxPublisher.Broadcast): asking for it is a violation.
func (s *walletServer) BumpFee(_ context.Context, r *walletrpc.BumpFeeRequest) (*walletrpc.BumpFeeResponse, error) {
	err := s.do(func() error {
		n := s.node
		if r.Immediate || r.Force {
			n.w.violate(errors.New("BumpFee with immediate or force: lnd's sweeper may never move again"))
		}
		op, err := parseOutpoint(r.Outpoint)
		if err != nil {
			return err
		}
		k := n.w.chain.owned[n][op]
		if k == nil {
			return errors.New("the passed output does not belong to the wallet")
		}
		rate := n.feeRate(int64(max(r.SatPerVbyte, uint64(r.SatPerByte))), int32(r.TargetConf))
		if r.Budget > 0 && childFee(rate) > int64(r.Budget) {
			return errors.New("the budget does not allow this fee rate")
		}
		n.mem.children = slices.DeleteFunc(n.mem.children, func(c childRequest) bool { return c.of == op })
		n.mem.children = append(n.mem.children, childRequest{of: op, rate: rate})
		return nil
	})
	return &walletrpc.BumpFeeResponse{Status: "Successfully registered CPFP-tx with the sweeper"}, err
}

// Bumping are the outputs of which the node makes children with the next block.
func (n *Node) Bumping() (ops []wire.OutPoint) {
	n.w.do(func() {
		for _, c := range n.mem.children {
			ops = append(ops, c.of)
		}
	})
	return ops
}

// childFee is what a child of one output pays at a rate per 1000 weight units, in sat.
func childFee(rate int64) int64 { return rate*450/1000 + 1 }

// sweepChildren makes the children that were asked for since the last block. What cannot be made is dropped: lnd
// tells nobody either.
func (n *Node) sweepChildren() {
	asked := n.mem.children
	n.mem.children = nil
	for _, c := range asked {
		if k := n.w.chain.owned[n][c.of]; k != nil {
			_ = n.sweepChild(c.of, k.out.Value-childFee(c.rate))
		}
	}
}

func (n *Node) sweepChild(op wire.OutPoint, value int64) error {
	script, _, err := n.wallet.newScript(true)
	if err != nil {
		return err
	}
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: op, Sequence: wire.MaxTxInSequenceNum - 2})
	tx.AddTxOut(wire.NewTxOut(value, script))
	p, err := psbt.NewFromUnsignedTx(tx)
	if err != nil {
		return err
	}
	if _, err := n.wallet.sign(p); err != nil {
		return err
	}
	if tx, err = finalize(p); err != nil {
		return err
	}
	return n.w.chain.publish(tx, "sweep")
}
