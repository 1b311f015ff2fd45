package agent

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
)

// lookEvery is how often what is signed is looked at.
const lookEvery = 5 * time.Second

// Run sees through what was signed, and lets go of what an earlier process left
// half done, until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	spends := newSpends()
	watched := make(map[string]bool)
	for ctx.Err() == nil {
		for _, r := range a.List() {
			switch r.Phase {
			case PhaseChosen:
				// Nobody works on it: it was cut off before its review, by the end of a
				// process or of lnd.
				a.attend(ctx, r.Key(), func(r Record) error { return a.giveUp(ctx, r, "cut off before it was ready") })
			case PhaseReady:
				a.attend(ctx, r.Key(), func(r Record) error { return a.renew(ctx, r) })
			case PhaseSigned:
				if !watched[r.Key()] {
					watched[r.Key()] = true
					for _, in := range r.Inputs {
						wg.Go(func() { a.watch(ctx, r.Key(), in.Outpoint, in.PkScript, in.Height, spends) })
					}
				}
				a.attend(ctx, r.Key(), func(r Record) error { return a.settle(ctx, r, spends) })
			case PhaseDone, PhaseGivenUp, PhaseVoid:
			}
		}
		select {
		case <-time.After(lookEvery):
		case <-a.poke:
		case <-ctx.Done():
		}
	}
	return nil
}

// attend works on a record unless somebody else does.
func (a *Agent) attend(ctx context.Context, key string, f func(Record) error) {
	r, release, err := a.take(key)
	if err != nil {
		return
	}
	defer release()
	if err := f(r); err != nil && ctx.Err() == nil {
		a.log.Warn("a joint funding could not be attended to; it is looked at again", zap.String("joint", key), zap.Error(err))
	}
}

// renew keeps the coins, and ends what the LSP has ended.
func (a *Agent) renew(ctx context.Context, r Record) error {
	if err := a.lease(ctx, r); err != nil {
		return err
	}
	l, err := a.lsp(r.LSP)
	if err != nil {
		return err
	}
	over, why := false, ""
	err = a.call(ctx, l, r.Self, func(ctx context.Context, c collabv1.JointFundingServiceClient) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		got, err := c.GetFunding(ctx, &collabv1.GetFundingRequest{FundingId: r.ID})
		over, why = got.GetFunding().GetTerminal(), got.GetFunding().GetReason()
		return err
	})
	if err == nil && over {
		// Nothing was signed, so its word is enough: nobody can publish.
		return a.giveUp(ctx, r, why)
	}
	return err
}

// spends are what the chain says of coins that were signed.
type spends struct {
	mu   sync.Mutex
	seen map[ln.Outpoint]spend
}

type spend struct {
	by     ln.TxID
	height uint32
}

func newSpends() *spends { return &spends{seen: make(map[ln.Outpoint]spend)} }

// watch follows what spends a coin, until nothing can undo it.
func (a *Agent) watch(ctx context.Context, key string, op ln.Outpoint, script []byte, since uint32, s *spends) {
	for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
		err := a.ports.Chain.WatchSpend(ctx, op, script, max(since, 1), func(ev ln.SpendEvent) {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.seen, op)
			if ev.Reorged {
				return
			}
			var tx wire.MsgTx
			if err := tx.Deserialize(bytes.NewReader(ev.RawTx)); err != nil {
				a.log.Error("a spend that lnd reports cannot be read", zap.String("joint", key), zap.Error(err))
				return
			}
			s.seen[op] = spend{by: ln.TxID(tx.TxHash()), height: ev.Height}
		})
		if err == nil {
			return
		}
		// Nobody listens now, and a reorg may undo it: what the chain has is told anew.
		s.mu.Lock()
		delete(s.seen, op)
		s.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// settle decides what became of a signed joint funding: the chain's word only.
func (a *Agent) settle(ctx context.Context, r Record, s *spends) error {
	r, err := a.knowChange(ctx, r)
	if err != nil {
		return err
	}
	info, err := a.ports.Chain.Info(ctx)
	if err != nil {
		return err
	}
	var funded, other spend
	s.mu.Lock()
	for _, in := range r.Inputs {
		if got, ok := s.seen[in.Outpoint]; ok {
			if got.by == r.Channel.TxID {
				funded = got
			} else if other.height == 0 || got.height < other.height {
				other = got
			}
		}
	}
	s.mu.Unlock()
	buried := func(x spend) bool { return ln.Confirmations(x.height, info.BlockHeight) >= r.BuriedConfs }
	switch {
	case buried(funded):
		if r.Hurry != nil {
			// The change was kept for its child.
			if err := a.release(ctx, r); err != nil {
				return err
			}
		}
		r.Phase, r.Alarm, r.State = PhaseDone, "", "buried"
		return a.save(r)
	case buried(other):
		open, err := a.ports.Channels.ListChannels(ctx)
		if err != nil {
			return err
		}
		for _, c := range open {
			if c.Outpoint == r.Channel && len(c.Htlcs) > 0 {
				return fmt.Errorf("channel %s, which can never exist, has %d HTLCs: it is forgotten once they are over", r.Channel, len(c.Htlcs))
			}
		}
		if err := a.ports.Channels.AbandonChannel(ctx, r.Channel); err != nil {
			return err
		}
		if err := a.release(ctx, r); err != nil {
			return err
		}
		r.Phase, r.Alarm, r.Reason = PhaseVoid, "", fmt.Sprintf("transaction %s spent one of its coins", other.by)
		return a.save(r)
	case funded.height > 0 || other.height > 0:
		return nil
	}
	// In no block yet: the coins stay ours, and the LSP has the signature for sure.
	if err := a.lease(ctx, r); err != nil {
		a.log.Debug("a signed coin is not leased anew: it is spent, or being taken back", zap.String("joint", r.Key()), zap.Error(err))
	}
	a.hurryOn(ctx, r, info.BlockHeight)
	_, err = a.deliver(ctx, r)
	return err
}
