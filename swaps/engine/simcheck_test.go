package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/in"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// rest brings everything to its end: nothing fails any more, and blocks come.
func (s *sim) rest() error {
	s.node.change(func() { s.node.flaky = 0 })
	s.stop()
	s.faults.Restart()
	if err := s.start(); err != nil {
		return err
	}
	deadline := time.Now().Add(90 * time.Second)
	for i := 0; ; i++ {
		over, err := s.over()
		if err != nil || over {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("it does not come to its end: " + s.present())
		}
		for _, sw := range s.swaps {
			if sw.begun {
				sw.pays, sw.prepays = false, false
				s.client(sw)
			}
		}
		s.catchesUp()
		s.mine(1+4*(i%2), true)
	}
}

// catchesUp waits until the engine has heard of the tip and does no more about it: on
// the real chain it has minutes. What waits for a client's wallet may go on.
func (s *sim) catchesUp() {
	last, still := "", 0
	for range 2_000 {
		time.Sleep(2 * time.Millisecond)
		outs, err := s.e.outs.Pending(s.ctx)
		ins, err2 := s.e.ins.Pending(s.ctx)
		now := fmt.Sprint(outs, ins, err, err2)
		s.node.mu.Lock()
		height := s.node.chain.height()
		s.node.mu.Unlock()
		if now != last || s.e.moment().Height < height {
			last, still = now, 0
			continue
		}
		if still++; still > 3 && len(outs)+len(ins) == 0 || still > 20 {
			return
		}
	}
}

func (s *sim) present() (text string) {
	outs, _ := s.e.allLive(s.ctx)
	for _, inst := range outs {
		text += fmt.Sprintf("%s %+v; ", inst.State.StateName(), inst.State)
	}
	ins, _ := s.e.liveIns(s.ctx)
	for _, inst := range ins {
		text += fmt.Sprintf("%s %+v; ", inst.State.StateName(), inst.State)
	}
	return text
}

// over holds what must be so once no swap is under way.
func (s *sim) over() (bool, error) {
	outs, err := s.e.allLive(s.ctx)
	if err != nil {
		return false, err
	}
	ins, err := s.e.liveIns(s.ctx)
	if err != nil {
		return false, err
	}
	waits := 0
	for _, inst := range outs {
		switch inst.State.(type) {
		case out.Offered, out.Invoiced:
			// These wait for minutes, not for blocks.
			waits++
			invoices, _ := out.InvoicesOf(inst.State)
			_ = s.e.CancelOut(s.ctx, out.PlanOf(inst.State).Terms.Hash, invoices.PaymentAddr[:], "the end")
		}
	}
	if len(outs)+len(ins) > 0 {
		return false, nil
	}
	for _, pending := range []func(context.Context) ([]string, error){s.e.outs.Pending, s.e.ins.Pending} {
		list, err := pending(s.ctx)
		if err != nil || len(list) > 0 {
			return false, err
		}
	}
	return true, s.check()
}

func (s *sim) check() error {
	var invoiced, paid int64
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	if s.node.bad != nil {
		return s.node.bad
	}
	for _, inv := range s.node.invoices {
		switch inv.State {
		case ln.InvoiceSettled:
			invoiced += int64(inv.AmountMsat)
		case ln.InvoiceAccepted:
			return errors.New("a payment is still held")
		}
	}
	for hash, times := range s.node.paid {
		if times > 1 {
			return errors.New("a client was paid twice")
		}
		paid += int64(s.node.payments[hash].ValueMsat + s.node.payments[hash].FeeMsat)
	}
	if len(s.node.leases) > 0 {
		return fmt.Errorf("coins are still leased: %v", s.node.leases)
	}
	for _, sw := range s.swaps {
		err := s.checkOut(sw)
		if sw.in {
			err = s.checkIn(sw)
		}
		if err != nil {
			return fmt.Errorf("swap %d (%s): %w", sw.preimage[0], sw.end, err)
		}
	}
	for account, want := range map[ledger.Account]int64{ownInvoices: invoiced, ownPayments: -paid, outside: -s.node.outsideSat() * 1000} {
		if have, err := s.balance(account); err != nil || have != want {
			return fmt.Errorf("the books have %d msat in %s, the node's lists say %d (%w)", have, account, want, err)
		}
	}
	for _, sw := range s.swaps {
		if have, err := s.balance(clearing(sw.preimage.Hash())); err != nil || have != 0 {
			return fmt.Errorf("%d msat are left in a swap's clearing account (%w)", have, err)
		}
	}
	return nil
}

// batches counts the transactions in the chain that take several contracts' outputs.
func (s *sim) batches() (count int) {
	for _, block := range s.node.chain.blocks {
		for _, tx := range block {
			contracts := 0
			for _, in := range tx.TxIn {
				if o := s.node.chain.outs[in.PreviousOutPoint]; o != nil && s.node.chain.contracts[string(o.PkScript)] {
					contracts++
				}
			}
			if contracts > 1 {
				count++
			}
		}
	}
	return count
}

func (s *sim) balance(account ledger.Account) (msat int64, err error) {
	err = s.db.Read(s.ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		msat, err = ledger.Balance(ctx, tx, account)
		return err
	})
	return msat, err
}

// spender says who has a contract's output in the best chain.
func (s *sim) spender(sw *simSwap, op ln.Outpoint) htlc.Spend {
	spend := s.node.chain.spent[wire.OutPoint{Hash: chainhash.Hash(op.TxID), Index: op.Index}]
	if spend.tx == nil {
		return ""
	}
	how, _, err := sw.contract.Classify(spend.tx.TxIn[spend.input].Witness)
	if err != nil {
		return "?"
	}
	return how
}

func (s *sim) checkOut(sw *simSwap) error {
	if sw.in {
		return nil
	}
	inst, err := s.e.outs.Get(s.ctx, sw.preimage.Hash().String())
	if errors.Is(err, store.ErrNotFound) {
		sw.end = "out never begun"
		return nil
	}
	if err != nil {
		return err
	}
	sw.end = "out " + inst.State.StateName()
	plan := out.PlanOf(inst.State)
	taken := s.state(plan.Terms.Hash) == ln.InvoiceSettled
	prepaid := s.state(plan.PrepayHash()) == ln.InvoiceSettled
	tx, _ := out.TxOf(inst.State)
	exists := !tx.Outpoint.IsZero() && s.node.chain.where[tx.Outpoint.TxID] > 0
	how := htlc.Spend("")
	if exists {
		how = s.spender(sw, tx.Outpoint)
		sw.end += " " + string(how)
	}
	switch {
	case taken && (!exists || how == htlc.SpendTimeout):
		return errors.New("the client was robbed: it paid and has no output")
	case !taken && exists && how != htlc.SpendTimeout:
		return errors.New("the gateway was robbed: the output is the client's, the payment went back")
	case exists && !prepaid:
		return errors.New("an output without a prepay")
	case prepaid && !exists && !out.PrepayKept(inst.State):
		return errors.New("the prepay was taken for nothing, and nobody knows")
	}
	return nil
}

func (s *sim) state(hash ln.Hash) ln.InvoiceState {
	if inv := s.node.invoices[hash]; inv != nil {
		return inv.State
	}
	return ""
}

func (s *sim) checkIn(sw *simSwap) error {
	inst, err := s.e.ins.Get(s.ctx, sw.preimage.Hash().String())
	if errors.Is(err, store.ErrNotFound) {
		sw.end = "in never begun"
		return nil
	}
	if err != nil {
		return err
	}
	sw.end = "in " + inst.State.StateName()
	paid := s.node.paid[sw.preimage.Hash()] == 1
	if sw.open {
		sw.end = "open " + inst.State.StateName()
		if err := s.checkOpen(sw, inst.State, paid); err != nil {
			return err
		}
	}
	ours := false
	for op, spend := range s.node.chain.spent {
		o := s.node.chain.outs[op]
		if sw.contract == nil || string(o.PkScript) != string(sw.contract.PkScript) {
			continue
		}
		how, _, err := sw.contract.Classify(spend.tx.TxIn[spend.input].Witness)
		if err != nil {
			return err
		}
		ours = ours || how != htlc.SpendTimeout
	}
	switch {
	case s.node.payments[sw.preimage.Hash()].State == ln.PaymentInFlight:
		return errors.New("over, with a payment in flight")
	case paid && !ours && !sw.doubleSpent:
		return fmt.Errorf("the gateway was robbed: it paid and has no deposit: %s", in.ReasonOf(inst.State).Text)
	case paid && !ours && inst.State.StateName() != "lost":
		return errors.New("a loss that nobody is told of")
	case ours && !paid:
		return errors.New("the client was robbed: its deposit was claimed unpaid")
	case paid && sw.wrongAmount:
		return errors.New("another amount was paid for")
	}
	if s, ok := inst.State.(in.Lost); ok && !sw.doubleSpent {
		return fmt.Errorf("lost: %s", s.Reason.Text)
	}
	return nil
}
