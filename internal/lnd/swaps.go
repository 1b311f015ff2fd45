package lnd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/chainrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// FundPsbt chooses and leases coins and builds the transaction. What an earlier
// call leased under the same id stays leased: release that first.
func (c *Client) FundPsbt(ctx context.Context, r ln.FundOutput) (ln.FundedPsbt, error) {
	resp, err := c.wallet.FundPsbt(ctx, &walletrpc.FundPsbtRequest{
		Template: &walletrpc.FundPsbtRequest_Raw{Raw: &walletrpc.TxTemplate{Outputs: map[string]uint64{r.Address: uint64(r.AmountSat)}}},
		Fees:     &walletrpc.FundPsbtRequest_SatPerKw{SatPerKw: uint64(r.FeeRate)},
		MinConfs: r.MinConfs, ChangeType: walletrpc.ChangeAddressType_CHANGE_ADDRESS_TYPE_P2TR,
		CustomLockId: r.LeaseID[:], LockExpirationSeconds: uint64(r.LeaseFor / time.Second),
	})
	if err != nil {
		return ln.FundedPsbt{}, mapError("fund a transaction", err)
	}
	return ln.FundedPsbt{Psbt: resp.FundedPsbt, ChangeIndex: resp.ChangeOutputIndex}, nil
}

// FundKeeping chooses and leases coins like FundPsbt, and leaves change for sure: lnd
// takes the output that is the wallet's own as a demand, and adds to it what is over.
func (c *Client) FundKeeping(ctx context.Context, r ln.FundKeeping) ([]byte, error) {
	tx := wire.NewMsgTx(2)
	for _, o := range []struct {
		script []byte
		amount ln.Sat
	}{{r.Script, r.AmountSat}, {r.OwnScript, r.LeastSat}} {
		value, err := o.amount.Int64()
		if err != nil {
			return nil, err
		}
		tx.AddTxOut(wire.NewTxOut(value, o.script))
	}
	own := int32(1)
	if r.LeaseID[0]&1 == 1 {
		// Which output is whose does not show in their order: the id is as good as random.
		own = 0
		tx.TxOut[0], tx.TxOut[1] = tx.TxOut[1], tx.TxOut[0]
	}
	packet, err := psbt.NewFromUnsignedTx(tx)
	if err != nil {
		return nil, fmt.Errorf("a transaction's template: %w", err)
	}
	var template bytes.Buffer
	if err := packet.Serialize(&template); err != nil {
		return nil, fmt.Errorf("a transaction's template: %w", err)
	}
	resp, err := c.wallet.FundPsbt(ctx, &walletrpc.FundPsbtRequest{
		Template: &walletrpc.FundPsbtRequest_CoinSelect{CoinSelect: &walletrpc.PsbtCoinSelect{
			Psbt: template.Bytes(), ChangeOutput: &walletrpc.PsbtCoinSelect_ExistingOutputIndex{ExistingOutputIndex: own},
		}},
		Fees:     &walletrpc.FundPsbtRequest_SatPerKw{SatPerKw: uint64(r.FeeRate)},
		MinConfs: r.MinConfs, CustomLockId: r.LeaseID[:], LockExpirationSeconds: uint64(r.LeaseFor / time.Second),
		// What it may pay is the caller's to judge, by what the swap bears.
		MaxFeeRatio: 1,
	})
	if err != nil {
		return nil, mapError("fund a transaction", err)
	}
	return resp.FundedPsbt, nil
}

// ForgetTx takes an unconfirmed transaction out of the wallet, with what spends it.
func (c *Client) ForgetTx(ctx context.Context, id ln.TxID) error {
	_, err := c.wallet.RemoveTransaction(ctx, &walletrpc.GetTransactionRequest{Txid: id.String()})
	return mapError("forget transaction "+id.String(), err)
}

// untilBuried hands on what lnd tells of the chain. lnd ends such a stream in
// good order once no reorg can undo what it told: that is nil.
func untilBuried[T any](what string, recv func() (T, error), handle func(T)) error {
	for {
		msg, err := recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return mapError(what, err)
		}
		handle(msg)
	}
}

// PayInvoice pays an invoice and waits for the node's terminal word. Any error
// leaves the outcome open: only TrackPayment tells.
func (c *Client) PayInvoice(ctx context.Context, r ln.InvoicePayment) (ln.Payment, error) {
	limit, err := r.FeeLimitMsat.Int64()
	if err != nil {
		return ln.Payment{}, err
	}
	req := &routerrpc.SendPaymentRequest{
		PaymentRequest: r.Bolt11, FeeLimitMsat: limit, CltvLimit: int32(r.CltvLimit), //nolint:gosec // blocks
		TimeoutSeconds: int32(r.Timeout / time.Second), MaxParts: r.MaxParts, NoInflightUpdates: true, //nolint:gosec // seconds
	}
	if !r.LastHop.IsZero() {
		req.LastHopPubkey = r.LastHop[:]
	}
	return c.sendPayment(ctx, "pay an invoice", req)
}

// ProbeRoute sends a payment that nobody can settle. An error leaves open whether lnd
// goes on with it.
func (c *Client) ProbeRoute(ctx context.Context, r ln.RouteProbe) (ln.Payment, error) {
	amount, err := r.AmountMsat.Int64()
	if err != nil {
		return ln.Payment{}, err
	}
	limit, err := r.FeeLimitMsat.Int64()
	if err != nil {
		return ln.Payment{}, err
	}
	req := &routerrpc.SendPaymentRequest{
		Dest: r.Target[:], AmtMsat: amount, PaymentHash: r.Hash[:], PaymentAddr: r.PaymentAddr[:], FinalCltvDelta: int32(r.FinalCltvDelta), //nolint:gosec // blocks
		FeeLimitMsat: limit, CltvLimit: int32(r.CltvLimit), TimeoutSeconds: int32(r.Timeout / time.Second), MaxParts: r.MaxParts, NoInflightUpdates: true, //nolint:gosec // blocks and seconds
		// What every payee of invoices has, whether the graph knows it or not.
		DestFeatures: []lnrpc.FeatureBit{lnrpc.FeatureBit_TLV_ONION_OPT, lnrpc.FeatureBit_PAYMENT_ADDR_OPT, lnrpc.FeatureBit_MPP_OPT},
	}
	if !r.LastHop.IsZero() {
		req.LastHopPubkey = r.LastHop[:]
	}
	for _, route := range r.Hints {
		hops := &lnrpc.RouteHint{}
		for _, h := range route {
			hops.HopHints = append(hops.HopHints, hopToRPC(h))
		}
		req.RouteHints = append(req.RouteHints, hops)
	}
	return c.sendPayment(ctx, "probe a route", req)
}

// WatchConf tells when a transaction with this output script is in a block, and
// when it is no more; a zero id means any transaction that pays the script. nil
// says that nothing more will be told.
func (c *Client) WatchConf(ctx context.Context, id ln.TxID, script []byte, since uint32, handle func(ln.ConfEvent)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.chain.RegisterConfirmationsNtfn(ctx, &chainrpc.ConfRequest{Txid: id[:], Script: script, NumConfs: 1, HeightHint: since})
	if err != nil {
		return mapError("watch a transaction", err)
	}
	return untilBuried("confirmations", stream.Recv, func(ev *chainrpc.ConfEvent) {
		if conf := ev.GetConf(); conf != nil {
			handle(ln.ConfEvent{Height: conf.BlockHeight, RawTx: conf.RawTx})
		} else {
			handle(ln.ConfEvent{Reorged: true})
		}
	})
}

// WatchSpend tells which transaction in a block spends an output, and when none
// does any more. nil says that nothing more will be told.
func (c *Client) WatchSpend(ctx context.Context, op ln.Outpoint, script []byte, since uint32, handle func(ln.SpendEvent)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.chain.RegisterSpendNtfn(ctx, &chainrpc.SpendRequest{
		Outpoint: &chainrpc.Outpoint{Hash: op.TxID[:], Index: op.Index}, Script: script, HeightHint: since,
	})
	if err != nil {
		return mapError("watch an output", err)
	}
	return untilBuried("spends", stream.Recv, func(ev *chainrpc.SpendEvent) {
		if spend := ev.GetSpend(); spend != nil {
			handle(ln.SpendEvent{Height: spend.SpendingHeight, RawTx: spend.RawSpendingTx, InputIndex: spend.SpendingInputIndex})
		} else {
			handle(ln.SpendEvent{Reorged: true})
		}
	})
}
