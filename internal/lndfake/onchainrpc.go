package lndfake

import (
	"context"
	"encoding/hex"
	"slices"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// WalletBalance implements lnrpc.LightningServer.
func (s *lightningServer) WalletBalance(context.Context, *lnrpc.WalletBalanceRequest) (*lnrpc.WalletBalanceResponse, error) {
	out := &lnrpc.WalletBalanceResponse{}
	err := s.do(func() error {
		c, u, l := s.node.wallet.balances()
		out.ConfirmedBalance, out.UnconfirmedBalance, out.LockedBalance, out.TotalBalance = c, u, l, c+u+l
		out.AccountBalance = map[string]*lnrpc.WalletAccountBalance{"default": {ConfirmedBalance: c, UnconfirmedBalance: u}}
		return nil
	})
	return out, err
}

// ChannelBalance implements lnrpc.LightningServer.
func (s *lightningServer) ChannelBalance(context.Context, *lnrpc.ChannelBalanceRequest) (*lnrpc.ChannelBalanceResponse, error) {
	out := &lnrpc.ChannelBalanceResponse{}
	err := s.do(func() error {
		var local, remote int64
		for _, sd := range s.node.sides(func(x *side) bool { return x.c.phase == phaseOpen }) {
			local += sd.localSat()
			remote += sd.other().localSat()
		}
		out.Balance, out.LocalBalance = local, &lnrpc.Amount{Sat: uint64(local), Msat: uint64(local * 1000)}
		out.RemoteBalance = &lnrpc.Amount{Sat: uint64(remote), Msat: uint64(remote * 1000)}
		return nil
	})
	return out, err
}

// concerns says whether the wallet gains or loses by the transaction.
func (n *Node) concerns(e *mempoolTx) bool {
	mine := func(o *wire.TxOut) bool { return n.w.chain.owner[string(o.PkScript)] == n }
	for _, k := range e.prev {
		if mine(k.out) {
			return true
		}
	}
	return slices.ContainsFunc(e.tx.TxOut, mine)
}

func (n *Node) txRPC(e *mempoolTx) *lnrpc.Transaction {
	chain := n.w.chain
	m := &lnrpc.Transaction{
		TxHash: e.txid.String(), NumConfirmations: int32(chain.confirmations(e.txid)), BlockHeight: int32(e.height),
		TimeStamp: e.arrived.Unix(), RawTxHex: hex.EncodeToString(encodeTx(e.tx)), Label: e.label,
	}
	// The wallet knows a fee only where it knows every input.
	all := true
	for _, k := range e.prev {
		if chain.owner[string(k.out.PkScript)] == n {
			m.Amount -= k.out.Value
		} else {
			all = false
		}
	}
	for i, o := range e.tx.TxOut {
		mine := chain.owner[string(o.PkScript)] == n
		if mine {
			m.Amount += o.Value
		}
		m.OutputDetails = append(m.OutputDetails, &lnrpc.OutputDetail{
			PkScript: hex.EncodeToString(o.PkScript), OutputIndex: int64(i), Amount: o.Value, IsOurAddress: mine,
		})
	}
	for _, ti := range e.tx.TxIn {
		k := e.prev[ti.PreviousOutPoint]
		m.PreviousOutpoints = append(m.PreviousOutpoints, &lnrpc.PreviousOutPoint{
			Outpoint: ti.PreviousOutPoint.String(), IsOurOutput: k != nil && chain.owner[string(k.out.PkScript)] == n,
		})
	}
	if all && len(e.prev) > 0 {
		m.TotalFees = e.feeSat
	}
	if e.height > 0 {
		for _, b := range chain.blocks {
			if b.height == e.height {
				m.BlockHash = b.hash.String()
			}
		}
	}
	return m
}

func (n *Node) announceTx(e *mempoolTx) {
	if n.concerns(e) {
		n.mem.transactions.publish(n.txRPC(e))
	}
}

// GetTransactions implements lnrpc.LightningServer, newest first.
func (s *lightningServer) GetTransactions(_ context.Context, r *lnrpc.GetTransactionsRequest) (*lnrpc.TransactionDetails, error) {
	out := &lnrpc.TransactionDetails{}
	err := s.do(func() error {
		all := s.node.walletTxs()
		if s.node.behind {
			all = s.node.seen
		}
		for _, t := range all {
			if t.BlockHeight == 0 || t.BlockHeight >= r.StartHeight {
				out.Transactions = append(out.Transactions, t)
			}
		}
		return nil
	})
	return out, err
}

// walletTxs are the transactions that concern the node, newest first.
func (n *Node) walletTxs() (out []*lnrpc.Transaction) {
	chain := n.w.chain
	all := append(slices.Clone(n.wallet.ghosts), chain.mempool...)
	slices.Reverse(all)
	for i := len(chain.blocks) - 1; i >= 0; i-- {
		all = append(all, chain.blocks[i].txs...)
	}
	for _, e := range all {
		if n.concerns(e) {
			out = append(out, n.txRPC(e))
		}
	}
	return out
}

// HoldWallet keeps the node's wallet at the block that it is at: lnd tells of new blocks
// before its wallet has taken them in, and goes on listing what was in blocks that a reorg
// undid. It opens and accepts no channel meanwhile. It ends with false.
func (n *Node) HoldWallet(hold bool) {
	n.w.do(func() { n.behind, n.seen = hold, n.walletTxs() })
}

// SubscribeTransactions implements lnrpc.LightningServer.
func (s *lightningServer) SubscribeTransactions(_ *lnrpc.GetTransactionsRequest, stream lnrpc.Lightning_SubscribeTransactionsServer) error {
	return pump(s.instance, stream.Context(), &s.mem.transactions, nil, stream.Send)
}

// ListUnspent implements lnrpc.LightningServer.
func (s *lightningServer) ListUnspent(_ context.Context, r *lnrpc.ListUnspentRequest) (*lnrpc.ListUnspentResponse, error) {
	out := &lnrpc.ListUnspentResponse{}
	err := s.do(func() error { out.Utxos = s.node.wallet.utxos(r.MinConfs, r.MaxConfs); return nil })
	return out, err
}

// NewAddress implements lnrpc.LightningServer.
func (s *lightningServer) NewAddress(_ context.Context, r *lnrpc.NewAddressRequest) (*lnrpc.NewAddressResponse, error) {
	out := &lnrpc.NewAddressResponse{}
	err := s.do(func() error {
		taproot := r.Type == lnrpc.AddressType_TAPROOT_PUBKEY || r.Type == lnrpc.AddressType_UNUSED_TAPROOT_PUBKEY
		_, addr, err := s.node.wallet.newScript(taproot)
		if err == nil {
			out.Address = addr.EncodeAddress()
		}
		return err
	})
	return out, err
}

// SendCoins implements lnrpc.LightningServer.
func (s *lightningServer) SendCoins(_ context.Context, r *lnrpc.SendCoinsRequest) (*lnrpc.SendCoinsResponse, error) {
	out := &lnrpc.SendCoinsResponse{}
	err := s.do(func() error {
		if r.SendAll {
			return status.Error(codes.Unimplemented, "SendCoins with send_all is not implemented by the fake")
		}
		script, err := s.node.addrScript(r.Addr)
		if err != nil {
			return err
		}
		minConfs := r.MinConfs
		if !r.SpendUnconfirmed && minConfs == 0 {
			minConfs = 1
		}
		tx, err := s.node.wallet.send([]*wire.TxOut{wire.NewTxOut(r.Amount, script)}, s.node.feeRate(int64(r.SatPerVbyte), r.TargetConf), minConfs, r.Label)
		if err == nil {
			out.Txid = tx.TxHash().String()
		}
		return err
	})
	return out, err
}

// EstimateFee implements lnrpc.LightningServer.
func (s *lightningServer) EstimateFee(_ context.Context, r *lnrpc.EstimateFeeRequest) (*lnrpc.EstimateFeeResponse, error) {
	out := &lnrpc.EstimateFeeResponse{}
	err := s.do(func() error {
		var outs []*wire.TxOut
		for a, v := range r.AddrToAmount {
			script, err := s.node.addrScript(a)
			if err != nil {
				return err
			}
			outs = append(outs, wire.NewTxOut(v, script))
		}
		rate := s.node.feeRate(0, r.TargetConf)
		p, _, err := s.node.wallet.build(outs, rate, r.MinConfs, nil)
		if err != nil {
			return err
		}
		for _, in := range p.Inputs {
			out.FeeSat += in.WitnessUtxo.Value
		}
		for _, o := range p.UnsignedTx.TxOut {
			out.FeeSat -= o.Value
		}
		out.SatPerVbyte = uint64((rate + 249) / 250)
		return nil
	})
	return out, err
}

// SendFinal has the node's wallet pay an address with a transaction that does not
// say that it may be replaced, as some wallets do.
func (w *World) SendFinal(n *Node, address string, sat int64) (err error) {
	w.do(func() {
		var script []byte
		if script, err = n.addrScript(address); err != nil {
			return
		}
		var p *psbt.Packet
		if p, _, err = n.wallet.build([]*wire.TxOut{wire.NewTxOut(sat, script)}, 2500, 0, nil); err != nil {
			return
		}
		for _, in := range p.UnsignedTx.TxIn {
			in.Sequence = wire.MaxTxInSequenceNum - 1
		}
		if _, err = n.wallet.sign(p); err != nil {
			return
		}
		var tx *wire.MsgTx
		if tx, err = finalize(p); err == nil {
			err = w.chain.publish(tx, "")
		}
	})
	return err
}
