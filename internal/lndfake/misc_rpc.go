package lndfake

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/chainrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnrpc/verrpc"
)

type stateServer struct {
	lnrpc.UnimplementedStateServer
	*instance
}

// GetState implements lnrpc.StateServer.
func (s *stateServer) GetState(context.Context, *lnrpc.GetStateRequest) (*lnrpc.GetStateResponse, error) {
	return &lnrpc.GetStateResponse{State: lnrpc.WalletState_SERVER_ACTIVE}, nil
}

// SubscribeState implements lnrpc.StateServer.
func (s *stateServer) SubscribeState(_ *lnrpc.SubscribeStateRequest, stream lnrpc.State_SubscribeStateServer) error {
	if err := stream.Send(&lnrpc.SubscribeStateResponse{State: lnrpc.WalletState_SERVER_ACTIVE}); err != nil {
		return err
	}
	return s.wait(stream.Context(), nil)
}

type versionServer struct {
	verrpc.UnimplementedVersionerServer
	*instance
}

// GetVersion implements verrpc.VersionerServer.
func (s *versionServer) GetVersion(context.Context, *verrpc.VersionRequest) (*verrpc.Version, error) {
	v := &verrpc.Version{
		Commit: "v" + s.node.cfg.Version, Version: s.node.cfg.Version, AppPreRelease: "beta", GoVersion: "go1.26",
		BuildTags: []string{
			"autopilotrpc", "chainrpc", "invoicesrpc", "neutrinorpc", "peersrpc", "routerrpc", "signrpc", "verrpc",
			"walletrpc", "watchtowerrpc", "wtclientrpc",
		},
	}
	if _, err := fmt.Sscanf(s.node.cfg.Version, "%d.%d.%d", &v.AppMajor, &v.AppMinor, &v.AppPatch); err != nil {
		return nil, fmt.Errorf("version %q of the fake: %w", s.node.cfg.Version, err)
	}
	return v, nil
}

type signerServer struct {
	signrpc.UnimplementedSignerServer
	*instance
}

// SignMessage implements signrpc.SignerServer for ECDSA signatures.
func (s *signerServer) SignMessage(_ context.Context, r *signrpc.SignMessageReq) (*signrpc.SignMessageResp, error) {
	if r.KeyLoc == nil || r.SchnorrSig {
		return nil, errors.New("only ECDSA signatures with a key locator are supported by the fake")
	}
	key := s.node.derive(r.KeyLoc.KeyFamily, r.KeyLoc.KeyIndex)
	digest := chainhash.HashB(r.Msg)
	if r.DoubleHash {
		digest = chainhash.DoubleHashB(r.Msg)
	}
	if r.CompactSig {
		return &signrpc.SignMessageResp{Signature: ecdsa.SignCompact(key, digest, true)}, nil
	}
	return &signrpc.SignMessageResp{Signature: ecdsa.Sign(key, digest).Serialize()}, nil
}

// VerifyMessage implements signrpc.SignerServer for DER signatures.
func (s *signerServer) VerifyMessage(_ context.Context, r *signrpc.VerifyMessageReq) (*signrpc.VerifyMessageResp, error) {
	pub, err := btcec.ParsePubKey(r.Pubkey)
	if err != nil {
		return nil, err
	}
	sig, err := ecdsa.ParseDERSignature(r.Signature)
	if err != nil {
		return nil, err
	}
	return &signrpc.VerifyMessageResp{Valid: sig.Verify(chainhash.HashB(r.Msg), pub)}, nil
}

type blockEvent struct {
	height uint32
	hash   chainhash.Hash
}

// chainEvent wakes the chain subscriptions, which then look for themselves.
type chainEvent struct{ reorg bool }

type notifierServer struct {
	chainrpc.UnimplementedChainNotifierServer
	*instance
}

// RegisterBlockEpochNtfn implements chainrpc.ChainNotifierServer.
func (s *notifierServer) RegisterBlockEpochNtfn(r *chainrpc.BlockEpoch, stream chainrpc.ChainNotifier_RegisterBlockEpochNtfnServer) error {
	return pump(s.instance, stream.Context(), &s.mem.blocks, func(f *feed[blockEvent]) {
		for _, b := range s.node.w.chain.blocks {
			if len(r.Hash) > 0 && b.height > r.Height || b == s.node.w.chain.tip() {
				f.push(blockEvent{b.height, b.hash})
			}
		}
	}, func(e blockEvent) error {
		return stream.Send(&chainrpc.BlockEpoch{Hash: append([]byte(nil), e.hash[:]...), Height: e.height})
	})
}

// RegisterConfirmationsNtfn implements chainrpc.ChainNotifierServer.
func (s *notifierServer) RegisterConfirmationsNtfn(r *chainrpc.ConfRequest, stream chainrpc.ChainNotifier_RegisterConfirmationsNtfnServer) error {
	var told *mempoolTx
	return pump(s.instance, stream.Context(), &s.mem.chainTopic, func(f *feed[chainEvent]) { f.push(chainEvent{}) },
		func(chainEvent) error {
			var ev *chainrpc.ConfEvent
			if err := s.do(func() error { ev, told = s.node.confEvent(r, told); return nil }); err != nil {
				return err
			}
			if ev == nil {
				return nil
			}
			return stream.Send(ev)
		})
}

func (n *Node) confEvent(r *chainrpc.ConfRequest, told *mempoolTx) (*chainrpc.ConfEvent, *mempoolTx) {
	chain := n.w.chain
	if told != nil {
		if told.height == 0 {
			return &chainrpc.ConfEvent{Event: &chainrpc.ConfEvent_Reorg{Reorg: &chainrpc.Reorg{}}}, nil
		}
		return nil, told
	}
	for _, b := range chain.blocks {
		for i, e := range b.txs {
			match := len(r.Txid) == 32 && e.txid == chainhash.Hash(r.Txid)
			if len(r.Txid) == 0 || slices.Equal(r.Txid, make([]byte, 32)) {
				match = slices.ContainsFunc(e.tx.TxOut, func(o *wire.TxOut) bool { return slices.Equal(o.PkScript, r.Script) })
			}
			if !match || chain.confirmations(e.txid) < max(r.NumConfs, 1) {
				continue
			}
			d := &chainrpc.ConfDetails{
				RawTx: encodeTx(e.tx), BlockHash: append([]byte(nil), b.hash[:]...), BlockHeight: b.height, TxIndex: uint32(i + 1),
			}
			if r.IncludeBlock {
				d.RawBlock = chain.rawBlock(b)
			}
			return &chainrpc.ConfEvent{Event: &chainrpc.ConfEvent_Conf{Conf: d}}, e
		}
	}
	return nil, nil
}

// RegisterSpendNtfn implements chainrpc.ChainNotifierServer; like lnd's it waits for a block.
func (s *notifierServer) RegisterSpendNtfn(r *chainrpc.SpendRequest, stream chainrpc.ChainNotifier_RegisterSpendNtfnServer) error {
	var told *mempoolTx
	return pump(s.instance, stream.Context(), &s.mem.chainTopic, func(f *feed[chainEvent]) { f.push(chainEvent{}) },
		func(chainEvent) error {
			var ev *chainrpc.SpendEvent
			if err := s.do(func() error { ev, told = s.node.spendEvent(r, told); return nil }); err != nil {
				return err
			}
			if ev == nil {
				return nil
			}
			return stream.Send(ev)
		})
}

func (n *Node) spendEvent(r *chainrpc.SpendRequest, told *mempoolTx) (*chainrpc.SpendEvent, *mempoolTx) {
	if told != nil {
		if told.height == 0 {
			return &chainrpc.SpendEvent{Event: &chainrpc.SpendEvent_Reorg{Reorg: &chainrpc.Reorg{}}}, nil
		}
		return nil, told
	}
	for _, b := range n.w.chain.blocks {
		for _, e := range b.txs {
			for i, ti := range e.tx.TxIn {
				op := ti.PreviousOutPoint
				match := r.Outpoint != nil && slices.Equal(r.Outpoint.Hash, op.Hash[:]) && r.Outpoint.Index == op.Index
				if r.Outpoint == nil && e.prev[op] != nil {
					match = slices.Equal(e.prev[op].out.PkScript, r.Script)
				}
				if !match {
					continue
				}
				return &chainrpc.SpendEvent{Event: &chainrpc.SpendEvent_Spend{Spend: &chainrpc.SpendDetails{
					SpendingOutpoint: &chainrpc.Outpoint{Hash: append([]byte(nil), op.Hash[:]...), Index: op.Index},
					RawSpendingTx:    encodeTx(e.tx), SpendingTxHash: append([]byte(nil), e.txid[:]...),
					SpendingInputIndex: uint32(i), SpendingHeight: b.height,
				}}}, e
			}
		}
	}
	return nil, nil
}

type chainKitServer struct {
	chainrpc.UnimplementedChainKitServer
	*instance
}

// GetBlock implements chainrpc.ChainKitServer.
func (s *chainKitServer) GetBlock(_ context.Context, r *chainrpc.GetBlockRequest) (*chainrpc.GetBlockResponse, error) {
	out := &chainrpc.GetBlockResponse{}
	err := s.do(func() error {
		for _, b := range s.node.w.chain.blocks {
			if slices.Equal(b.hash[:], r.BlockHash) {
				out.RawBlock = s.node.w.chain.rawBlock(b)
				return nil
			}
		}
		return errors.New("-5: Block not found")
	})
	return out, err
}

// GetBestBlock implements chainrpc.ChainKitServer.
func (s *chainKitServer) GetBestBlock(context.Context, *chainrpc.GetBestBlockRequest) (*chainrpc.GetBestBlockResponse, error) {
	out := &chainrpc.GetBestBlockResponse{}
	err := s.do(func() error {
		b := s.node.w.chain.tip()
		out.BlockHash, out.BlockHeight = append([]byte(nil), b.hash[:]...), int32(b.height)
		return nil
	})
	return out, err
}

// GetBlockHash implements chainrpc.ChainKitServer.
func (s *chainKitServer) GetBlockHash(_ context.Context, r *chainrpc.GetBlockHashRequest) (*chainrpc.GetBlockHashResponse, error) {
	out := &chainrpc.GetBlockHashResponse{}
	err := s.do(func() error {
		for _, b := range s.node.w.chain.blocks {
			if int64(b.height) == r.BlockHeight {
				out.BlockHash = append([]byte(nil), b.hash[:]...)
				return nil
			}
		}
		return errors.New("-1: Block number out of range")
	})
	return out, err
}
