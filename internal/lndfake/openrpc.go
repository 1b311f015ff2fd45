package lndfake

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// OpenChannel implements lnrpc.LightningServer.
func (s *lightningServer) OpenChannel(r *lnrpc.OpenChannelRequest, stream lnrpc.Lightning_OpenChannelServer) error {
	updates := newFeed[openUpdate]()
	if err := s.do(func() error { return s.node.startOpen(r, updates) }); err != nil {
		return err
	}
	for {
		u, err := updates.next(stream.Context())
		if err != nil {
			return err
		}
		if u.err != nil {
			return u.err
		}
		if err := stream.Send(u.u); err != nil {
			return err
		}
		if u.last {
			return nil
		}
	}
}

// OpenChannelSync implements lnrpc.LightningServer.
func (s *lightningServer) OpenChannelSync(ctx context.Context, r *lnrpc.OpenChannelRequest) (*lnrpc.ChannelPoint, error) {
	updates := newFeed[openUpdate]()
	if err := s.do(func() error { return s.node.startOpen(r, updates) }); err != nil {
		return nil, err
	}
	for {
		u, err := updates.next(ctx)
		if err != nil {
			return nil, err
		}
		if u.err != nil {
			return nil, u.err
		}
		if p := u.u.GetChanPending(); p != nil {
			return &lnrpc.ChannelPoint{
				FundingTxid: &lnrpc.ChannelPoint_FundingTxidBytes{FundingTxidBytes: p.Txid}, OutputIndex: p.OutputIndex,
			}, nil
		}
	}
}

func (n *Node) startOpen(r *lnrpc.OpenChannelRequest, updates *feed[openUpdate]) error {
	if n.behind {
		return status.Error(codes.Unknown, "channels cannot be created before the wallet is fully synced")
	}
	peer, p, err := n.parseOpen(r)
	if err != nil {
		return err
	}
	if sh := r.FundingShim; sh != nil {
		ps := sh.GetPsbtShim()
		if ps == nil {
			return errors.New("only the PSBT shim is supported by the fake")
		}
		if len(ps.PendingChanId) != 32 {
			return errors.New("pending chan ID not set")
		}
		p.pendID = [32]byte(ps.PendingChanId)
		if n.mem.shims[p.pendID] != nil {
			return errors.New("pending channel ID already used")
		}
		return n.startShim(peer, p, ps, updates)
	}
	fee := n.feeRate(int64(r.SatPerVbyte), r.TargetConf)
	minConfs := r.MinConfs
	if r.SpendUnconfirmed {
		minConfs = 0
	} else if minConfs == 0 {
		minConfs = 1
	}
	var fixed []opKey
	for _, o := range r.Outpoints {
		op, err := parseOutpoint(o)
		if err != nil {
			return err
		}
		if n.wallet.leased(op) {
			return fmt.Errorf("outpoint %v is locked", op)
		}
		fixed = append(fixed, op)
	}
	if _, _, err := n.wallet.selectCoins([]*wire.TxOut{wire.NewTxOut(p.capacity, make([]byte, 34))}, fee, minConfs, fixed); err != nil {
		return fmt.Errorf("not enough witness outputs to create funding transaction: %w", err)
	}
	n.propose(peer, p, func(p openParams, err error) {
		if err != nil {
			updates.push(openUpdate{err: err})
			return
		}
		n.w.after(n.w.cfg.Latency.Open, func() {
			if !n.up || !n.connected(peer) {
				updates.push(openUpdate{err: errNotOnline})
				return
			}
			c, err := n.fundNow(peer, p, fee, minConfs, fixed)
			if err != nil {
				updates.push(openUpdate{err: err})
				return
			}
			c.announceTo(updates)
		})
	})
	return nil
}

// announceTo sends chan_pending now and chan_open when the channel is open at its opener.
func (c *channel) announceTo(updates *feed[openUpdate]) {
	updates.push(openUpdate{u: &lnrpc.OpenStatusUpdate{
		PendingChanId: append([]byte(nil), c.pendID[:]...),
		Update: &lnrpc.OpenStatusUpdate_ChanPending{ChanPending: &lnrpc.PendingUpdate{
			Txid: append([]byte(nil), c.op.Hash[:]...), OutputIndex: c.op.Index,
		}},
	}})
	inst := c.sides[0].node.inst
	var poll func()
	poll = func() {
		if c.sides[0].node.inst != inst || c.phase > phaseOpen || c.sides[0].gone {
			return
		}
		if c.phase != phaseOpen || c.sides[0].graph == nil {
			c.w.after(100*time.Millisecond, poll)
			return
		}
		updates.push(openUpdate{last: true, u: &lnrpc.OpenStatusUpdate{
			PendingChanId: append([]byte(nil), c.pendID[:]...),
			Update:        &lnrpc.OpenStatusUpdate_ChanOpen{ChanOpen: &lnrpc.ChannelOpenUpdate{ChannelPoint: c.point()}},
		}})
	}
	c.w.after(time.Nanosecond, poll)
}

func (n *Node) startShim(peer *Node, p openParams, ps *lnrpc.PsbtShim, updates *feed[openUpdate]) error {
	sh := &shim{id: p.pendID, noPublish: ps.NoPublish, peer: peer, updates: updates}
	n.mem.shims[p.pendID] = sh
	n.propose(peer, p, func(p openParams, err error) {
		if err != nil {
			delete(n.mem.shims, sh.id)
			updates.push(openUpdate{err: err})
			return
		}
		script, addr, err := n.fundingScript(peer, p)
		if err != nil {
			updates.push(openUpdate{err: err})
			return
		}
		sh.params, sh.script = p, script
		updates.push(openUpdate{u: &lnrpc.OpenStatusUpdate{
			PendingChanId: append([]byte(nil), sh.id[:]...),
			Update: &lnrpc.OpenStatusUpdate_PsbtFund{PsbtFund: &lnrpc.ReadyForPsbtFunding{
				FundingAddress: addr.EncodeAddress(), FundingAmount: p.capacity,
			}},
		}})
	})
	return nil
}

// cancelReservations ends what was being negotiated with a peer that went away.
func (n *Node) cancelReservations(peer *Node) {
	for id, sh := range n.mem.shims {
		if sh.peer == peer && sh.c == nil {
			delete(n.mem.shims, id)
			sh.updates.push(openUpdate{err: fmt.Errorf("funding canceled: peer %s disconnected", peer.pub)})
		}
	}
}

// FundingStateStep implements lnrpc.LightningServer.
func (s *lightningServer) FundingStateStep(_ context.Context, m *lnrpc.FundingTransitionMsg) (*lnrpc.FundingStateStepResp, error) {
	n := s.node
	err := s.do(func() error {
		switch {
		case m.GetPsbtVerify() != nil:
			v := m.GetPsbtVerify()
			return n.verifyShim(v.PendingChanId, v.FundedPsbt, v.SkipFinalize)
		case m.GetPsbtFinalize() != nil:
			f := m.GetPsbtFinalize()
			return n.finalizeShim(f.PendingChanId, f.SignedPsbt, f.FinalRawTx)
		case m.GetShimCancel() != nil:
			sh, err := n.shim(m.GetShimCancel().PendingChanId)
			if err != nil {
				return err
			}
			if sh.verified {
				return errors.New("no funding intent found for pendingChannelID")
			}
			delete(n.mem.shims, sh.id)
			sh.updates.push(openUpdate{err: errors.New("funding shim canceled")})
			return nil
		}
		return errors.New("unsupported funding transition message")
	})
	return &lnrpc.FundingStateStepResp{}, err
}

func (n *Node) shim(id []byte) (*shim, error) {
	if len(id) != 32 || n.mem.shims[[32]byte(id)] == nil {
		return nil, fmt.Errorf("no funding intent found for pendingChannelID %x", id)
	}
	return n.mem.shims[[32]byte(id)], nil
}

func (n *Node) verifyShim(id, raw []byte, skip bool) error {
	sh, err := n.shim(id)
	if err != nil {
		return err
	}
	if sh.verified || sh.script == nil {
		return errors.New("invalid state. got psbt_verify in the wrong state")
	}
	if skip && !sh.noPublish {
		return errors.New("cannot set skip_finalize for channel that did not set no_publish")
	}
	p, err := decodePSBT(raw)
	if err != nil {
		return err
	}
	idx := -1
	for i, o := range p.UnsignedTx.TxOut {
		if string(o.PkScript) == string(sh.script) && o.Value == sh.params.capacity {
			idx = i
		}
	}
	if idx < 0 {
		return errors.New("funding output not found in PSBT")
	}
	var in, out int64
	for _, x := range p.Inputs {
		if x.WitnessUtxo == nil {
			return errors.New("input has no witness UTXO: all inputs must be SegWit spends")
		}
		in += x.WitnessUtxo.Value
	}
	for _, o := range p.UnsignedTx.TxOut {
		out += o.Value
	}
	if in < out {
		return errors.New("inputs do not pay for the outputs")
	}
	sh.verified, sh.psbt = true, raw
	if skip {
		n.fundShim(sh, wire.OutPoint{Hash: p.UnsignedTx.TxHash(), Index: uint32(idx)})
	}
	return nil
}

func (n *Node) fundShim(sh *shim, op wire.OutPoint) {
	var sign func()
	sign = func() {
		switch {
		case !n.up || !n.connected(sh.peer):
		case sh.peer.keepsSignatures:
			n.w.after(100*time.Millisecond, sign)
		default:
			sh.c = n.negotiated(sh.peer, sh.params, op, sh.script)
			sh.c.announceTo(sh.updates)
		}
	}
	n.w.after(n.w.cfg.Latency.Open, sign)
}

// KeepSignatures has a node keep its commitment signature back from whoever opens a
// channel to it, until it is told otherwise.
func (n *Node) KeepSignatures(keep bool) { n.w.do(func() { n.keepsSignatures = keep }) }

func (n *Node) finalizeShim(id, signed, rawTx []byte) error {
	sh, err := n.shim(id)
	if err != nil {
		return err
	}
	if !sh.verified || sh.c != nil {
		return errors.New("invalid state. got psbt_finalize in the wrong state")
	}
	var tx *wire.MsgTx
	if len(signed) > 0 {
		p, err := decodePSBT(signed)
		if err != nil {
			return err
		}
		if tx, err = finalize(p); err != nil {
			return err
		}
	} else if tx, err = decodeTx(rawTx); err != nil {
		return err
	}
	before, err := decodePSBT(sh.psbt)
	if err != nil {
		return err
	}
	if before.UnsignedTx.TxHash() != tx.TxHash() {
		return errors.New("final transaction differs from the verified PSBT")
	}
	for i, o := range tx.TxOut {
		if string(o.PkScript) == string(sh.script) {
			n.fundShim(sh, wire.OutPoint{Hash: tx.TxHash(), Index: uint32(i)})
		}
	}
	if !sh.noPublish {
		n.w.after(n.w.cfg.Latency.Open, func() { _ = n.w.chain.publish(tx, "openchannel") })
	}
	return nil
}

// AbandonChannel implements lnrpc.LightningServer.
func (s *lightningServer) AbandonChannel(_ context.Context, r *lnrpc.AbandonChannelRequest) (*lnrpc.AbandonChannelResponse, error) {
	err := s.do(func() error {
		sd, err := s.node.findPoint(r.ChannelPoint)
		if err != nil {
			return s.node.closedPoint(r.ChannelPoint)
		}
		if !r.IKnowWhatIAmDoing {
			if r.PendingFundingShimOnly {
				return errors.New("channel is not externally funded or not pending")
			}
			return errors.New("AbandonChannel RPC call only available in dev builds, or with i_know_what_i_am_doing")
		}
		sd.c.linkStop()
		sd.event(lnrpc.ChannelEventUpdate_CLOSED_CHANNEL)
		sd.gone, sd.goneAt = true, s.node.w.chain.height()
		return nil
	})
	return &lnrpc.AbandonChannelResponse{Status: "channel abandoned"}, err
}

func (n *Node) findPoint(p *lnrpc.ChannelPoint) (*side, error) {
	op, err := parsePoint(p)
	if err != nil {
		return nil, err
	}
	for _, c := range n.w.channels {
		if s := c.sideOf(n); s != nil && !s.gone && c.op == op && c.phase != phaseClosed {
			return s, nil
		}
	}
	return nil, fmt.Errorf("unable to find channel %v", op)
}

// closedPoint is AbandonChannel's answer for what is not open: a channel that was closed or abandoned is done, one
// that never was is an error about the summary that lnd looked for instead.
func (n *Node) closedPoint(p *lnrpc.ChannelPoint) error {
	op, err := parsePoint(p)
	if err != nil {
		return err
	}
	for _, c := range n.w.channels {
		if c.op == op && c.sideOf(n) != nil {
			return nil
		}
	}
	return errors.New("unable to find closed channel summary")
}

func parsePoint(p *lnrpc.ChannelPoint) (op wire.OutPoint, err error) {
	if p == nil {
		return op, errors.New("channel point is missing")
	}
	h, err := lnrpc.GetChanPointFundingTxid(p)
	if err != nil {
		return op, err
	}
	return wire.OutPoint{Hash: *h, Index: p.OutputIndex}, nil
}

func parseOutpoint(o *lnrpc.OutPoint) (op wire.OutPoint, err error) {
	if o == nil {
		return op, errors.New("outpoint is missing")
	}
	op.Index = o.OutputIndex
	if len(o.TxidBytes) == 32 {
		op.Hash = chainhash.Hash(o.TxidBytes)
		return op, nil
	}
	h, err := chainhash.NewHashFromStr(o.TxidStr)
	if err != nil {
		return op, err
	}
	op.Hash = *h
	return op, nil
}

func parsePub(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err == nil && len(b) != 33 {
		err = fmt.Errorf("public key has %d bytes, not 33", len(b))
	}
	return b, err
}

func (n *Node) feeRate(satPerVB int64, targetConf int32) int64 {
	if satPerVB > 0 {
		return satPerVB * 250
	}
	return max(n.w.chain.feeRatePerKW, 253)
}
