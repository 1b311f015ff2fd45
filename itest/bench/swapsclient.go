package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/btcsuite/btcd/btcec/v2/schnorr/musig2"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	looprpc "github.com/lightninglabs/loop/swapserverrpc"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"golang.org/x/crypto/ripemd160" //nolint:gosec,staticcheck // the contract's OP_HASH160
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

func (d *swapDesk) decode(bolt11 string) (ln.Bolt11, error) {
	return lnd.DecodeBolt11("regtest", bolt11)
}

// newRaw draws a private key of the client's.
func newRaw() (raw [32]byte, err error) {
	_, err = rand.Read(raw[:])
	return raw, err
}

// pay begins a payment that ends when the gateway takes it or gives it back.
func (s *swapBench) pay(ctx context.Context, bolt11 string) {
	go func() {
		_, err := s.client.Send(ctx, &routerrpc.SendPaymentRequest{PaymentRequest: bolt11, MaxParts: 1, TimeoutSeconds: 60, FeeLimitMsat: 1_000})
		if err != nil && ctx.Err() == nil {
			s.say("a payment was cut off: %v", err)
		}
	}()
}

// clientRoot is the root of a contract's scripts, as a client computes it.
func clientRoot(t htlc.Terms) ([32]byte, error) {
	sender, err := btcec.ParsePubKey(t.Sender[:])
	if err != nil {
		return [32]byte{}, err
	}
	receiver, err := btcec.ParsePubKey(t.Receiver[:])
	if err != nil {
		return [32]byte{}, err
	}
	h := ripemd160.New() //nolint:gosec // what OP_HASH160 makes of the preimage
	_, _ = h.Write(t.Hash[:])
	success, err := txscript.NewScriptBuilder().
		AddData(schnorr.SerializePubKey(receiver)).AddOp(txscript.OP_CHECKSIGVERIFY).
		AddOp(txscript.OP_SIZE).AddInt64(32).AddOp(txscript.OP_EQUALVERIFY).
		AddOp(txscript.OP_HASH160).AddData(h.Sum(nil)).AddOp(txscript.OP_EQUALVERIFY).
		AddInt64(1).AddOp(txscript.OP_CHECKSEQUENCEVERIFY).Script()
	if err != nil {
		return [32]byte{}, err
	}
	timeout, err := txscript.NewScriptBuilder().
		AddData(schnorr.SerializePubKey(sender)).AddOp(txscript.OP_CHECKSIGVERIFY).
		AddInt64(int64(t.ExpiryHeight)).AddOp(txscript.OP_CHECKLOCKTIMEVERIFY).Script()
	if err != nil {
		return [32]byte{}, err
	}
	tree := txscript.AssembleTaprootScriptTree(txscript.NewBaseTapLeaf(success), txscript.NewBaseTapLeaf(timeout))
	return tree.RootNode.TapHash(), nil
}

// sweep has the client take outputs with the gateway's signatures, all in one
// transaction, as stock clients do.
func (s *swapBench) sweep(ctx context.Context, all []*outSwap, outpoints []ln.Outpoint) (*wire.MsgTx, error) {
	tx := wire.NewMsgTx(2)
	prevouts := map[wire.OutPoint]*wire.TxOut{}
	var described []*looprpc.PrevoutInfo
	for i, o := range all {
		if _, err := s.desk.client.LoopOutPushPreimage(ctx, &looprpc.ServerLoopOutPushPreimageRequest{
			ProtocolVersion: looprpc.ProtocolVersion_MUSIG2, Preimage: o.preimage[:],
		}); err != nil {
			return nil, fmt.Errorf("push a preimage: %w", err)
		}
		contract, err := htlc.New(o.terms)
		if err != nil {
			return nil, err
		}
		point := wire.OutPoint{Hash: chainhash.Hash(outpoints[i].TxID), Index: outpoints[i].Index}
		prevouts[point] = wire.NewTxOut(swapSat, contract.PkScript)
		tx.AddTxIn(wire.NewTxIn(&point, nil, nil))
		described = append(described, &looprpc.PrevoutInfo{Value: swapSat, PkScript: contract.PkScript, TxidBytes: point.Hash[:], OutputIndex: point.Index})
	}
	script := append([]byte{txscript.OP_1, txscript.OP_DATA_32}, bytes.Repeat([]byte{5}, 32)...)
	tx.AddTxOut(wire.NewTxOut(int64(len(all))*swapSat-20_000, script))
	packet, err := psbt.NewFromUnsignedTx(tx)
	if err != nil {
		return nil, err
	}
	var raw bytes.Buffer
	if err := packet.Serialize(&raw); err != nil {
		return nil, err
	}
	fetcher := txscript.NewMultiPrevOutFetcher(prevouts)
	hashes := txscript.NewTxSigHashes(tx, fetcher)
	for i, o := range all {
		hash, err := txscript.CalcTaprootSignatureHash(hashes, txscript.SigHashDefault, tx, i, fetcher)
		if err != nil {
			return nil, err
		}
		sig, err := s.cosigned(ctx, o, [32]byte(hash), raw.Bytes(), described)
		if err != nil {
			return nil, err
		}
		tx.TxIn[i].Witness = wire.TxWitness{sig.Serialize()}
	}
	return tx, s.Miner().Publish(ctx, tx)
}

// cosigned makes the client's half of a signature and asks for the other.
func (s *swapBench) cosigned(ctx context.Context, o *outSwap, hash [32]byte, packet []byte, prevouts []*looprpc.PrevoutInfo) (*schnorr.Signature, error) {
	root, err := clientRoot(o.terms)
	if err != nil {
		return nil, err
	}
	sender, err := btcec.ParsePubKey(o.terms.Sender[:])
	if err != nil {
		return nil, err
	}
	private := o.private
	keys := []*btcec.PublicKey{sender, private.PubKey()}
	nonces, err := musig2.GenNonces(musig2.WithPublicKey(private.PubKey()))
	if err != nil {
		return nil, err
	}
	got, err := s.desk.client.MuSig2SignSweep(ctx, &looprpc.MuSig2SignSweepReq{
		ProtocolVersion: looprpc.ProtocolVersion_MUSIG2, SwapHash: o.hash[:], PaymentAddress: o.paymentAddr[:], Nonce: nonces.PubNonce[:],
		SweepTxPsbt: packet, PrevoutInfo: prevouts,
	})
	if err != nil {
		return nil, fmt.Errorf("ask for a signature: %w", err)
	}
	combined, err := musig2.AggregateNonces([][66]byte{nonces.PubNonce, [66]byte(got.Nonce)})
	if err != nil {
		return nil, err
	}
	half, err := musig2.Sign(nonces.SecNonce, private, combined, keys, hash, musig2.WithSortedKeys(), musig2.WithTaprootSignTweak(root[:]))
	if err != nil {
		return nil, err
	}
	var theirs btcec.ModNScalar
	if theirs.SetByteSlice(got.PartialSignature) {
		return nil, errors.New("the gateway's half is no scalar")
	}
	other := musig2.NewPartialSignature(&theirs, half.R)
	return musig2.CombineSigs(half.R, []*musig2.PartialSignature{half, &other}, musig2.WithTaprootTweakedCombine(hash, keys, root[:], true)), nil
}

// inSwap is a swap in as its client has it.
type inSwap struct {
	secret
	internal [32]byte
	terms    htlc.Terms
	address  string
}

// swapIn plays swaps in that are deposited to in one transaction, and returns the
// claim that they share.
func (s *swapBench) swapIn(ctx context.Context) (*wire.MsgTx, error) {
	all := make([]*inSwap, swapsIn)
	group, groupCtx := errgroup.WithContext(ctx)
	for i := range all {
		group.Go(func() (err error) {
			all[i], err = s.beginIn(groupCtx)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	outputs := map[string]int64{}
	for _, in := range all {
		outputs[in.address] = swapSat
	}
	sent, err := s.client.LN.SendMany(ctx, &lnrpc.SendManyRequest{AddrToAmount: outputs, SatPerVbyte: 2})
	if err != nil {
		return nil, fmt.Errorf("deposit: %w", err)
	}
	id, err := chainhash.NewHashFromStr(sent.Txid)
	if err != nil {
		return nil, err
	}
	if err := s.Miner().WaitTxInMempool(ctx, *id); err != nil {
		return nil, err
	}
	deposit, _, err := s.Miner().Tx(ctx, *id)
	if err != nil {
		return nil, err
	}
	if err := s.Mine(ctx, 1); err != nil {
		return nil, err
	}
	for _, in := range all {
		if err := devnet.WaitFor(ctx, "a swap in to be paid", func(ctx context.Context) (bool, error) {
			v, _, err := s.desk.engine.Show(ctx, in.hash)
			return err == nil && v.State == "paid", err
		}); err != nil {
			return nil, err
		}
		if _, err := s.desk.client.PushKey(ctx, &looprpc.ServerPushKeyReq{
			ProtocolVersion: looprpc.ProtocolVersion_MUSIG2, SwapHash: in.hash[:], InternalPrivkey: in.internal[:],
		}); err != nil {
			return nil, fmt.Errorf("push a key: %w", err)
		}
	}
	if err := s.Mine(ctx, 6); err != nil {
		return nil, err
	}
	contract, err := htlc.New(all[0].terms)
	if err != nil {
		return nil, err
	}
	for i, o := range deposit.TxOut {
		if bytes.Equal(o.PkScript, contract.PkScript) {
			claim, err := s.spendOf(ctx, ln.Outpoint{TxID: ln.TxID(*id), Index: uint32(i)}) //nolint:gosec // an index
			if err == nil && len(claim.TxIn) != swapsIn {
				err = fmt.Errorf("the claim takes %d deposits, not %d", len(claim.TxIn), swapsIn)
			}
			return claim, err
		}
	}
	return nil, errors.New("the deposit does not pay the swap's address")
}

// beginIn begins one: its invoice, and a probe that the client gives back.
func (s *swapBench) beginIn(ctx context.Context) (*inSwap, error) {
	sec, err := newSecret()
	if err != nil {
		return nil, err
	}
	in := &inSwap{secret: sec}
	if in.internal, err = newRaw(); err != nil {
		return nil, err
	}
	internal, err := htlc.KeyFromShared(in.internal)
	if err != nil {
		return nil, err
	}
	raw, err := newRaw()
	if err != nil {
		return nil, err
	}
	key, err := htlc.KeyFromShared(raw)
	if err != nil {
		return nil, err
	}
	quote, err := s.desk.client.LoopInQuote(ctx, &looprpc.ServerLoopInQuoteRequest{Amt: swapSat, ProtocolVersion: looprpc.ProtocolVersion_MUSIG2})
	if err != nil {
		return nil, fmt.Errorf("quote: %w", err)
	}
	amount := swapSat - quote.SwapFee
	invoice, err := s.client.LN.AddInvoice(ctx, &lnrpc.Invoice{RPreimage: in.preimage[:], Value: amount, Expiry: 3_600})
	if err != nil {
		return nil, err
	}
	probe := sha256.Sum256(in.hash[:])
	probe[0] ^= 1
	held, err := s.client.Invoices.AddHoldInvoice(ctx, &invoicesrpc.AddHoldInvoiceRequest{Hash: probe[:], Value: amount, Expiry: 3_600})
	if err != nil {
		return nil, err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go s.giveBack(watching, probe)
	sender, senderInternal := key.PubKey(), internal.PubKey()
	got, err := s.desk.client.NewLoopInSwap(ctx, &looprpc.ServerLoopInRequest{
		SenderKey: sender[:], SenderInternalPubkey: senderInternal[:], SwapHash: in.hash[:], Amt: swapSat, SwapInvoice: invoice.PaymentRequest,
		ProbeInvoice: held.PaymentRequest, ProtocolVersion: looprpc.ProtocolVersion_MUSIG2, UserAgent: "bench",
	})
	if err != nil {
		return nil, fmt.Errorf("begin a swap in: %w", err)
	}
	in.terms = htlc.Terms{Hash: in.hash, ExpiryHeight: uint32(got.Expiry), Sender: sender, SenderInternal: senderInternal} //nolint:gosec // a height
	if in.terms.Receiver, err = ln.PubKeyFromBytes(got.ReceiverKey); err != nil {
		return nil, err
	}
	if in.terms.ReceiverInternal, err = ln.PubKeyFromBytes(got.ReceiverInternalPubkey); err != nil {
		return nil, err
	}
	contract, err := htlc.New(in.terms)
	if err != nil {
		return nil, err
	}
	in.address, err = contract.Address(&chaincfg.RegressionNetParams)
	return in, err
}

// giveBack cancels the probe once it is there.
func (s *swapBench) giveBack(ctx context.Context, hash [32]byte) {
	stream, err := s.client.Invoices.SubscribeSingleInvoice(ctx, &invoicesrpc.SubscribeSingleInvoiceRequest{RHash: hash[:]})
	for err == nil {
		var inv *lnrpc.Invoice
		if inv, err = stream.Recv(); err == nil && inv.State == lnrpc.Invoice_ACCEPTED {
			_, err = s.client.Invoices.CancelInvoice(context.WithoutCancel(ctx), &invoicesrpc.CancelInvoiceMsg{PaymentHash: hash[:]})
			break
		}
	}
	if err != nil && ctx.Err() == nil {
		s.say("a probe was not given back: %v", err)
	}
}
