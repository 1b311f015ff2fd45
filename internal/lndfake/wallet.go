package lndfake

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"

	"github.com/sluice-lsp/sluice/internal/psbts"
)

// wallet is a node's on-chain wallet: keys for P2WKH and P2TR outputs, leases, and real signatures.
type wallet struct {
	n       *Node
	keys    map[string]*btcec.PrivateKey // by script
	taproot map[string]bool
	next    int
	leases  map[opKey]*lease
	drafts  map[opKey]bool // inputs picked for a channel that is being negotiated
	ghosts  []*mempoolTx   // replaced, and still listed
}

type lease struct {
	id      [32]byte
	expires time.Time
}

func newWallet(n *Node) *wallet {
	return &wallet{
		n: n, keys: map[string]*btcec.PrivateKey{}, taproot: map[string]bool{}, leases: map[opKey]*lease{},
		drafts: map[opKey]bool{},
	}
}

func (wl *wallet) newScript(taproot bool) ([]byte, btcutil.Address, error) {
	wl.next++
	seed := wl.n.w.bytes32(fmt.Sprintf("wallet %s %d", wl.n.name, wl.next))
	key, pub := btcec.PrivKeyFromBytes(seed[:])
	params := wl.n.w.chain.params
	var addr btcutil.Address
	var err error
	if taproot {
		addr, err = btcutil.NewAddressTaproot(schnorr.SerializePubKey(txscript.ComputeTaprootKeyNoScript(pub)), params)
	} else {
		addr, err = btcutil.NewAddressWitnessPubKeyHash(btcutil.Hash160(pub.SerializeCompressed()), params)
	}
	if err != nil {
		return nil, nil, err
	}
	script, err := txscript.PayToAddrScript(addr)
	if err != nil {
		return nil, nil, err
	}
	wl.keys[string(script)], wl.taproot[string(script)] = key, taproot
	wl.n.w.chain.owner[string(script)] = wl.n
	return script, addr, nil
}

// Fund gives the node a confirmed coin that did not exist before.
func (n *Node) Fund(sat int64) (op wire.OutPoint, err error) {
	n.w.do(func() {
		var script []byte
		if script, _, err = n.wallet.newScript(false); err == nil {
			op = n.w.chain.issue(script, sat)
		}
	})
	return op, err
}

func (wl *wallet) leased(op opKey) bool {
	l := wl.leases[op]
	if l == nil {
		return false
	}
	if !time.Now().Before(l.expires) {
		delete(wl.leases, op)
		return false
	}
	return true
}

var errCoins = errors.New("insufficient funds available to construct transaction")

// selectCoins picks the largest coins first until they pay for the outputs and the fee.
func (wl *wallet) selectCoins(outs []*wire.TxOut, feePerKW int64, minConfs int32, fixed []opKey) ([]*coin, int64, error) {
	var need int64
	weight := int64(4*10 + 2 + 4*43)
	for _, o := range outs {
		need += o.Value
		weight += 4 * int64(9+len(o.PkScript))
	}
	chain := wl.n.w.chain
	var picked []*coin
	var sum int64
	take := func(k *coin) {
		picked = append(picked, k)
		sum += k.out.Value
		weight += 4*41 + 109
	}
	enough := func() bool { return sum >= need+weight*feePerKW/1000+1 }
	for _, op := range fixed {
		k := chain.owned[wl.n][op]
		if k == nil {
			return nil, 0, fmt.Errorf("utxo %v not found or already spent", op)
		}
		take(k)
	}
	if len(fixed) == 0 {
		for _, k := range chain.sortedCoins(wl.n) {
			if enough() {
				break
			}
			if wl.leased(k.op) || wl.drafts[k.op] || wl.haunted(k.op) || chain.confirmations(k.op.Hash) < uint32(max(minConfs, 0)) {
				continue
			}
			take(k)
		}
	}
	if !enough() {
		return nil, 0, errCoins
	}
	return picked, sum - need - weight*feePerKW/1000 - 1, nil
}

// build makes an unsigned PSBT for outputs, change last.
func (wl *wallet) build(outs []*wire.TxOut, feePerKW int64, minConfs int32, fixed []opKey) (*psbt.Packet, int, error) {
	coins, change, err := wl.selectCoins(outs, feePerKW, minConfs, fixed)
	if err != nil {
		return nil, 0, err
	}
	tx := wire.NewMsgTx(2)
	for _, k := range coins {
		tx.AddTxIn(&wire.TxIn{PreviousOutPoint: k.op, Sequence: wire.MaxTxInSequenceNum - 2})
	}
	for _, o := range outs {
		tx.AddTxOut(wire.NewTxOut(o.Value, o.PkScript))
	}
	changeIdx := -1
	if change >= 1000 {
		script, _, err := wl.newScript(true)
		if err != nil {
			return nil, 0, err
		}
		changeIdx = len(tx.TxOut)
		tx.AddTxOut(wire.NewTxOut(change, script))
	}
	p, err := psbt.NewFromUnsignedTx(tx)
	if err != nil {
		return nil, 0, err
	}
	for i, k := range coins {
		p.Inputs[i].WitnessUtxo = wire.NewTxOut(k.out.Value, k.out.PkScript)
		p.Inputs[i].SighashType = txscript.SigHashAll
		if wl.taproot[string(k.out.PkScript)] {
			p.Inputs[i].SighashType = txscript.SigHashDefault
		}
	}
	return p, changeIdx, nil
}

// sign signs the inputs that are the wallet's and says which.
func (wl *wallet) sign(p *psbt.Packet) (signed []uint32, err error) {
	fetch := txscript.NewMultiPrevOutFetcher(nil)
	for i := range p.Inputs {
		if u := p.Inputs[i].WitnessUtxo; u != nil {
			fetch.AddPrevOut(p.UnsignedTx.TxIn[i].PreviousOutPoint, u)
			continue
		}
		if k := wl.n.w.chain.coins[p.UnsignedTx.TxIn[i].PreviousOutPoint]; k != nil {
			p.Inputs[i].WitnessUtxo = wire.NewTxOut(k.out.Value, k.out.PkScript)
			fetch.AddPrevOut(k.op, k.out)
			continue
		}
		return nil, fmt.Errorf("input %d of the PSBT has no witness UTXO", i)
	}
	hashes := txscript.NewTxSigHashes(p.UnsignedTx, fetch)
	for i := range p.Inputs {
		in := &p.Inputs[i]
		u := in.WitnessUtxo
		key := wl.keys[string(u.PkScript)]
		if key == nil || len(in.FinalScriptWitness) > 0 {
			continue
		}
		if wl.taproot[string(u.PkScript)] {
			sig, err := txscript.RawTxInTaprootSignature(p.UnsignedTx, hashes, i, u.Value, u.PkScript, nil, txscript.SigHashDefault, key)
			if err != nil {
				return nil, err
			}
			in.TaprootKeySpendSig, in.SighashType = sig, txscript.SigHashDefault
		} else {
			sig, err := txscript.RawTxInWitnessSignature(p.UnsignedTx, hashes, i, u.Value, u.PkScript, txscript.SigHashAll, key)
			if err != nil {
				return nil, err
			}
			in.PartialSigs = []*psbt.PartialSig{{PubKey: key.PubKey().SerializeCompressed(), Signature: sig}}
		}
		signed = append(signed, uint32(i))
	}
	return signed, nil
}

func finalize(p *psbt.Packet) (*wire.MsgTx, error) {
	if err := psbt.MaybeFinalizeAll(p); err != nil {
		return nil, fmt.Errorf("finalize PSBT: %w", err)
	}
	return psbt.Extract(p)
}

// send builds, signs and publishes a payment of the wallet's.
func (wl *wallet) send(outs []*wire.TxOut, feePerKW int64, minConfs int32, label string) (*wire.MsgTx, error) {
	p, _, err := wl.build(outs, feePerKW, minConfs, nil)
	if err != nil {
		return nil, err
	}
	if _, err := wl.sign(p); err != nil {
		return nil, err
	}
	tx, err := finalize(p)
	if err != nil {
		return nil, err
	}
	return tx, wl.n.w.chain.publish(tx, label)
}

func encodePSBT(p *psbt.Packet) ([]byte, error) {
	var b bytes.Buffer
	err := p.Serialize(&b)
	return b.Bytes(), err
}

func decodePSBT(raw []byte) (*psbt.Packet, error) {
	p, err := psbts.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("error parsing PSBT: %w", err)
	}
	return p, nil
}

func outpointRPC(op opKey) *lnrpc.OutPoint {
	return &lnrpc.OutPoint{TxidBytes: append([]byte(nil), op.Hash[:]...), TxidStr: op.Hash.String(), OutputIndex: op.Index}
}

// balances sums the wallet's coins; what is leased counts as locked.
func (wl *wallet) balances() (confirmed, unconfirmed, locked int64) {
	chain := wl.n.w.chain
	for _, k := range chain.sortedCoins(wl.n) {
		switch {
		case wl.haunted(k.op):
		case wl.leased(k.op):
			locked += k.out.Value
		case chain.confirmations(k.op.Hash) > 0:
			confirmed += k.out.Value
		default:
			unconfirmed += k.out.Value
		}
	}
	return confirmed, unconfirmed + wl.ghostSat(), locked
}

func (wl *wallet) utxos(minConfs, maxConfs int32) []*lnrpc.Utxo {
	chain := wl.n.w.chain
	var out []*lnrpc.Utxo
	for _, k := range chain.sortedCoins(wl.n) {
		confs := int32(chain.confirmations(k.op.Hash))
		if wl.leased(k.op) || wl.drafts[k.op] || wl.haunted(k.op) || confs < minConfs || maxConfs > 0 && confs > maxConfs {
			continue
		}
		kind := lnrpc.AddressType_WITNESS_PUBKEY_HASH
		if wl.taproot[string(k.out.PkScript)] {
			kind = lnrpc.AddressType_TAPROOT_PUBKEY
		}
		addr := ""
		if _, as, _, err := txscript.ExtractPkScriptAddrs(k.out.PkScript, chain.params); err == nil && len(as) > 0 {
			addr = as[0].EncodeAddress()
		}
		out = append(out, &lnrpc.Utxo{
			AddressType: kind, Address: addr, AmountSat: k.out.Value, PkScript: fmt.Sprintf("%x", k.out.PkScript),
			Outpoint: outpointRPC(k.op), Confirmations: int64(confs),
		})
	}
	return out
}
