package lndfake

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
)

const defaultLease = 10 * time.Minute

// fundPsbtLockID is the id of the leases that FundPsbt takes.
func fundPsbtLockID() [32]byte { return sha256.Sum256([]byte("fund psbt of the fake")) }

type walletServer struct {
	walletrpc.UnimplementedWalletKitServer
	*instance
}

// ListUnspent implements walletrpc.WalletKitServer.
func (s *walletServer) ListUnspent(_ context.Context, r *walletrpc.ListUnspentRequest) (*walletrpc.ListUnspentResponse, error) {
	out := &walletrpc.ListUnspentResponse{}
	err := s.do(func() error {
		minC, maxC := r.MinConfs, r.MaxConfs
		if r.UnconfirmedOnly {
			minC, maxC = 0, 0
		}
		for _, u := range s.node.wallet.utxos(minC, maxC) {
			if r.UnconfirmedOnly && u.Confirmations > 0 {
				continue
			}
			out.Utxos = append(out.Utxos, u)
		}
		return nil
	})
	return out, err
}

// LeaseOutput implements walletrpc.WalletKitServer.
func (s *walletServer) LeaseOutput(_ context.Context, r *walletrpc.LeaseOutputRequest) (*walletrpc.LeaseOutputResponse, error) {
	out := &walletrpc.LeaseOutputResponse{}
	err := s.do(func() error {
		wl := s.node.wallet
		if len(r.Id) != 32 {
			return errors.New("id must be 32 random bytes")
		}
		op, err := parseOutpoint(r.Outpoint)
		if err != nil {
			return err
		}
		if !s.node.w.chain.knows(s.node, op) {
			return errors.New("unknown output")
		}
		if wl.leased(op) && wl.leases[op].id != [32]byte(r.Id) {
			return errors.New("output already locked")
		}
		d := defaultLease
		if r.ExpirationSeconds > 0 {
			d = time.Duration(r.ExpirationSeconds) * time.Second
		}
		l := &lease{id: [32]byte(r.Id), expires: time.Now().Add(d)}
		wl.leases[op] = l
		out.Expiration = uint64(l.expires.Unix())
		return nil
	})
	return out, err
}

// ReleaseOutput implements walletrpc.WalletKitServer.
func (s *walletServer) ReleaseOutput(_ context.Context, r *walletrpc.ReleaseOutputRequest) (*walletrpc.ReleaseOutputResponse, error) {
	err := s.do(func() error {
		wl := s.node.wallet
		op, err := parseOutpoint(r.Outpoint)
		if err != nil {
			return err
		}
		if !wl.leased(op) {
			return nil
		}
		if len(r.Id) != 32 || wl.leases[op].id != [32]byte(r.Id) {
			return errors.New("output already locked to different ID")
		}
		delete(wl.leases, op)
		return nil
	})
	return &walletrpc.ReleaseOutputResponse{Status: "output released"}, err
}

func (n *Node) leaseRPC(op opKey) *walletrpc.UtxoLease {
	l := n.wallet.leases[op]
	m := &walletrpc.UtxoLease{
		Id: append([]byte(nil), l.id[:]...), Outpoint: outpointRPC(op), Expiration: uint64(l.expires.Unix()),
	}
	if k := n.w.chain.owned[n][op]; k != nil {
		m.PkScript, m.Value = k.out.PkScript, uint64(k.out.Value)
	}
	return m
}

// ListLeases implements walletrpc.WalletKitServer.
func (s *walletServer) ListLeases(context.Context, *walletrpc.ListLeasesRequest) (*walletrpc.ListLeasesResponse, error) {
	out := &walletrpc.ListLeasesResponse{}
	err := s.do(func() error {
		var ops []opKey
		for op := range s.node.wallet.leases {
			if s.node.wallet.leased(op) {
				ops = append(ops, op)
			}
		}
		slices.SortFunc(ops, func(a, b opKey) int {
			if a.String() < b.String() {
				return -1
			}
			return 1
		})
		for _, op := range ops {
			out.LockedUtxos = append(out.LockedUtxos, s.node.leaseRPC(op))
		}
		return nil
	})
	return out, err
}

// NextAddr implements walletrpc.WalletKitServer.
func (s *walletServer) NextAddr(_ context.Context, r *walletrpc.AddrRequest) (*walletrpc.AddrResponse, error) {
	out := &walletrpc.AddrResponse{}
	err := s.do(func() error {
		_, addr, err := s.node.wallet.newScript(r.Type == walletrpc.AddressType_TAPROOT_PUBKEY)
		if err == nil {
			out.Addr = addr.EncodeAddress()
		}
		return err
	})
	return out, err
}

// FundPsbt implements walletrpc.WalletKitServer for the psbt and raw templates, and for
// coin selection whose change goes to an output of the template.
func (s *walletServer) FundPsbt(_ context.Context, r *walletrpc.FundPsbtRequest) (*walletrpc.FundPsbtResponse, error) {
	out := &walletrpc.FundPsbtResponse{}
	err := s.do(func() error {
		n, wl := s.node, s.node.wallet
		var outs []*wire.TxOut
		var fixed []opKey
		existing := -1
		switch {
		case r.GetRaw() != nil:
			addrs := make([]string, 0, len(r.GetRaw().Outputs))
			for a := range r.GetRaw().Outputs {
				addrs = append(addrs, a)
			}
			slices.Sort(addrs)
			for _, a := range addrs {
				script, err := n.addrScript(a)
				if err != nil {
					return err
				}
				outs = append(outs, wire.NewTxOut(int64(r.GetRaw().Outputs[a]), script))
			}
			for _, o := range r.GetRaw().Inputs {
				op, err := parseOutpoint(o)
				if err != nil {
					return err
				}
				fixed = append(fixed, op)
			}
		case r.GetPsbt() != nil:
			p, err := decodePSBT(r.GetPsbt())
			if err != nil {
				return err
			}
			outs = p.UnsignedTx.TxOut
			for _, ti := range p.UnsignedTx.TxIn {
				fixed = append(fixed, ti.PreviousOutPoint)
			}
		case r.GetCoinSelect() != nil:
			p, err := decodePSBT(r.GetCoinSelect().Psbt)
			if err != nil {
				return err
			}
			at, ok := r.GetCoinSelect().ChangeOutput.(*walletrpc.PsbtCoinSelect_ExistingOutputIndex)
			if !ok || len(p.UnsignedTx.TxIn) > 0 {
				return errors.New("the fake selects coins for outputs of which one takes the change")
			}
			if at.ExistingOutputIndex < 0 || int(at.ExistingOutputIndex) >= len(p.UnsignedTx.TxOut) {
				return fmt.Errorf("change output index out of range: %d", at.ExistingOutputIndex)
			}
			outs, existing = p.UnsignedTx.TxOut, int(at.ExistingOutputIndex)
		default:
			return errors.New("transaction template missing, need to specify either PSBT or raw TX template")
		}
		fee := n.feeRate(int64(r.GetSatPerVbyte()), int32(r.GetTargetConf()))
		if v := r.GetSatPerKw(); v > 0 {
			fee = int64(v)
		}
		minConfs := r.MinConfs
		if r.SpendUnconfirmed {
			minConfs = 0
		}
		p, change, err := wl.build(outs, fee, minConfs, fixed)
		if err != nil {
			return err
		}
		if existing >= 0 {
			if change >= 0 {
				p.UnsignedTx.TxOut[existing].Value += p.UnsignedTx.TxOut[change].Value
				p.UnsignedTx.TxOut, p.Outputs = p.UnsignedTx.TxOut[:change], p.Outputs[:change]
			}
			change = existing
		}
		id, d := fundPsbtLockID(), defaultLease
		if len(r.CustomLockId) == 32 {
			id = [32]byte(r.CustomLockId)
		}
		if r.LockExpirationSeconds > 0 {
			d = time.Duration(r.LockExpirationSeconds) * time.Second
		}
		for _, ti := range p.UnsignedTx.TxIn {
			wl.leases[ti.PreviousOutPoint] = &lease{id: id, expires: time.Now().Add(d)}
			out.LockedUtxos = append(out.LockedUtxos, n.leaseRPC(ti.PreviousOutPoint))
		}
		out.ChangeOutputIndex = int32(change)
		out.FundedPsbt, err = encodePSBT(p)
		return err
	})
	return out, err
}

func (n *Node) addrScript(a string) ([]byte, error) {
	addr, err := btcutil.DecodeAddress(a, n.w.chain.params)
	if err != nil {
		return nil, fmt.Errorf("error parsing address %s: %w", a, err)
	}
	return txscript.PayToAddrScript(addr)
}

// SignPsbt implements walletrpc.WalletKitServer.
func (s *walletServer) SignPsbt(_ context.Context, r *walletrpc.SignPsbtRequest) (*walletrpc.SignPsbtResponse, error) {
	out := &walletrpc.SignPsbtResponse{}
	err := s.do(func() error {
		p, err := decodePSBT(r.FundedPsbt)
		if err != nil {
			return err
		}
		if out.SignedInputs, err = s.node.wallet.sign(p); err != nil {
			return err
		}
		out.SignedPsbt, err = encodePSBT(p)
		return err
	})
	return out, err
}

// FinalizePsbt implements walletrpc.WalletKitServer.
func (s *walletServer) FinalizePsbt(_ context.Context, r *walletrpc.FinalizePsbtRequest) (*walletrpc.FinalizePsbtResponse, error) {
	out := &walletrpc.FinalizePsbtResponse{}
	err := s.do(func() error {
		p, err := decodePSBT(r.FundedPsbt)
		if err != nil {
			return err
		}
		if _, err := s.node.wallet.sign(p); err != nil {
			return err
		}
		if err := psbt.MaybeFinalizeAll(p); err != nil {
			return fmt.Errorf("error finalizing PSBT: %w", err)
		}
		if out.SignedPsbt, err = encodePSBT(p); err != nil {
			return err
		}
		tx, err := psbt.Extract(p)
		if err != nil {
			return err
		}
		out.RawFinalTx = encodeTx(tx)
		return nil
	})
	return out, err
}

// PublishTransaction implements walletrpc.WalletKitServer.
func (s *walletServer) PublishTransaction(_ context.Context, r *walletrpc.Transaction) (*walletrpc.PublishResponse, error) {
	err := s.do(func() error {
		tx, err := decodeTx(r.TxHex)
		if err != nil {
			return err
		}
		err = s.node.w.chain.publish(tx, r.Label)
		if errors.Is(err, errKnownTx) {
			return nil
		}
		return err
	})
	return &walletrpc.PublishResponse{}, err
}

// RemoveTransaction implements walletrpc.WalletKitServer. Nobody's wallet here keeps what the mempool does not.
func (s *walletServer) RemoveTransaction(_ context.Context, r *walletrpc.GetTransactionRequest) (*walletrpc.RemoveTransactionResponse, error) {
	return nil, fmt.Errorf("transaction with txid=%v not found in the internal wallet store", r.Txid)
}

// EstimateFee implements walletrpc.WalletKitServer.
func (s *walletServer) EstimateFee(_ context.Context, r *walletrpc.EstimateFeeRequest) (*walletrpc.EstimateFeeResponse, error) {
	out := &walletrpc.EstimateFeeResponse{}
	err := s.do(func() error {
		if r.ConfTarget < 2 {
			return errors.New("confirmation target must be greater than 1")
		}
		out.SatPerKw, out.MinRelayFeeSatPerKw = s.node.w.chain.feeRatePerKW, 253
		return nil
	})
	return out, err
}

// RequiredReserve implements walletrpc.WalletKitServer; like lnd's it ignores private channels.
func (s *walletServer) RequiredReserve(_ context.Context, r *walletrpc.RequiredReserveRequest) (*walletrpc.RequiredReserveResponse, error) {
	out := &walletrpc.RequiredReserveResponse{}
	err := s.do(func() error {
		count := int64(r.AdditionalPublicChannels)
		for _, c := range s.node.w.channels {
			if sd := c.sideOf(s.node); sd != nil && sd.canUse() && !c.private {
				count++
			}
		}
		out.RequiredReserve = min(count*10_000, 100_000)
		return nil
	})
	return out, err
}

// LabelTransaction implements walletrpc.WalletKitServer.
func (s *walletServer) LabelTransaction(_ context.Context, r *walletrpc.LabelTransactionRequest) (*walletrpc.LabelTransactionResponse, error) {
	err := s.do(func() error {
		if len(r.Txid) != 32 || s.node.w.chain.txs[chainhash.Hash(r.Txid)] == nil {
			return errors.New("cannot label transaction not known to wallet")
		}
		s.node.w.chain.txs[chainhash.Hash(r.Txid)].label = r.Label
		return nil
	})
	return &walletrpc.LabelTransactionResponse{Status: "ok"}, err
}

// GetTransaction implements walletrpc.WalletKitServer.
func (s *walletServer) GetTransaction(_ context.Context, r *walletrpc.GetTransactionRequest) (out *lnrpc.Transaction, err error) {
	err = s.do(func() error {
		h, err := chainhash.NewHashFromStr(r.Txid)
		if err != nil {
			return err
		}
		e := s.node.w.chain.txs[*h]
		if e == nil || !s.node.concerns(e) {
			return errors.New("transaction not found")
		}
		out = s.node.txRPC(e)
		return nil
	})
	return out, err
}

// SendOutputs implements walletrpc.WalletKitServer.
func (s *walletServer) SendOutputs(_ context.Context, r *walletrpc.SendOutputsRequest) (*walletrpc.SendOutputsResponse, error) {
	out := &walletrpc.SendOutputsResponse{}
	err := s.do(func() error {
		var outs []*wire.TxOut
		for _, o := range r.Outputs {
			outs = append(outs, wire.NewTxOut(o.Value, o.PkScript))
		}
		minConfs := r.MinConfs
		if r.SpendUnconfirmed {
			minConfs = 0
		}
		tx, err := s.node.wallet.send(outs, max(r.SatPerKw, 253), minConfs, r.Label)
		if err == nil {
			out.RawTx = encodeTx(tx)
		}
		return err
	})
	return out, err
}

// derive makes the key of a locator; family 6 index 0 is the node's identity, as in lnd.
func (n *Node) derive(family, index int32) *btcec.PrivateKey {
	if family == 6 && index == 0 {
		return n.key
	}
	seed := n.w.bytes32(fmt.Sprintf("key %s %d %d", n.name, family, index))
	key, _ := btcec.PrivKeyFromBytes(seed[:])
	return key
}

// DeriveKey implements walletrpc.WalletKitServer.
func (s *walletServer) DeriveKey(_ context.Context, r *signrpc.KeyLocator) (*signrpc.KeyDescriptor, error) {
	key := s.node.derive(r.KeyFamily, r.KeyIndex)
	return &signrpc.KeyDescriptor{RawKeyBytes: key.PubKey().SerializeCompressed(), KeyLoc: r}, nil
}
