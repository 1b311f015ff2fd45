package engine

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/in"
)

// errNoChannels leaves an effect pending until whoever opens channels is here.
var errNoChannels = errors.New("channels are not opened by this process now: run lsp beside swaps")

// openChannel waits for as long as the channel's confirmations take. A restart
// asks again, under the same name.
func (e *Engine) openChannel(ctx context.Context, id string, f in.OpenChannel) ([]in.Event, error) {
	if e.opt.Channels == nil {
		return nil, errNoChannels
	}
	o := f.Plan.Open
	channel, err := e.opt.Channels.OpenChannel(ctx, ChannelRequest{
		OpeningID: f.OpeningID, PaymentID: o.ID, Client: o.Node, AmountMsat: f.Plan.InvoiceMsat, FeeMsat: o.FeeMsat, Confs: o.Confs,
	})
	if refused, ok := errors.AsType[*NotOpenedError](err); ok {
		e.log.Warn("no channel for a swap in yet", zap.String("swap", id), zap.Bool("begun", refused.Begun), zap.String("reason", refused.Text))
		return []in.Event{in.ChannelNotOpened{Moment: e.moment(), Text: refused.Text, Begun: refused.Begun}}, nil
	}
	if err != nil {
		return nil, err
	}
	return []in.Event{in.ChannelUsable{Moment: e.moment(), ChanID: channel}}, nil
}

func (e *Engine) abandonChannel(ctx context.Context, f in.AbandonChannel) error {
	if e.opt.Channels == nil {
		return errNoChannels
	}
	return e.opt.Channels.AbandonChannel(ctx, f.OpeningID, "the swap in that it was for is over")
}

func (e *Engine) channelPaid(ctx context.Context, id string, f in.ChannelPaid) error {
	if e.opt.Channels == nil {
		return errNoChannels
	}
	inst, err := e.ins.Get(ctx, id)
	if err != nil {
		return err
	}
	return e.opt.Channels.ChannelPaid(ctx, f.PaymentID, in.PlanOf(inst.State).Open.Node)
}

// refusedByPayee: only the payee of a payment says this of it.
func refusedByPayee(failure string) bool { return failure == "INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS" }

// payOver pays over the client's own channel. The wallet counts its final delta
// from the tip: what blocks used up meanwhile is not sent.
func (e *Engine) payOver(ctx context.Context, f in.Pay, tip uint32) ([]in.Event, error) {
	o := f.Plan.Open
	if until := f.ExpiryHeight - min(f.ExpiryHeight, o.FinalCltv); tip > until {
		return []in.Event{in.PaymentNotSent{Moment: e.moment(), Text: fmt.Sprintf("the chain is at height %d, past %d", tip, until)}}, nil
	}
	result, err := e.node.Payments.PayDirect(ctx, ln.DirectPayment{
		Hash: f.Plan.Terms.Hash, PaymentAddr: o.PaymentAddr, AmountMsat: f.Plan.InvoiceMsat, ChanID: f.ChanID, Peer: o.Node, ExpiryHeight: f.ExpiryHeight,
	})
	if err != nil {
		e.log.Warn("the outcome of a swap's payment is not known yet", zap.String("swap", f.Plan.ID()), zap.Error(err))
		return []in.Event{in.PaymentCutOff{Moment: e.moment(), Text: err.Error()}}, nil
	}
	if result.State == ln.PaymentFailed {
		return []in.Event{in.PaymentFailed{Moment: e.moment(), Text: result.Failure, Refused: refusedByPayee(result.Failure)}}, nil
	}
	return e.paymentIn(result), nil
}
