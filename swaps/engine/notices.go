package engine

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// Notice is something that a client with a token should know of a swap out.
type Notice struct {
	Hash ln.Hash
	// Stuck is set when the output is confirmed and not taken although its expiry
	// comes near: the client sweeps it by itself then. Otherwise the swap is not over.
	Stuck *StuckOutput
}

// StuckOutput is what a client needs to take it.
type StuckOutput struct {
	Outpoint ln.Outpoint
	Address  string
	Rate     ln.FeeRateSatPerKW
}

// stuckBlocks before the expiry an output that nobody took counts as stuck. Stock
// clients reveal no preimage in the last 20.
const stuckBlocks = stockNoReveal + 24

// noticesEvery is how often it is looked for what is stuck.
const noticesEvery = 15 * time.Second

// Notices tells a token's client of its swaps out that are not over, once, and of
// outputs that are stuck, at each block, until ctx ends. To hear it twice costs
// the client nothing.
func (e *Engine) Notices(ctx context.Context, token string, tell func(Notice) error) error {
	told := map[ln.Hash]uint32{}
	first := true
	ticker := time.NewTicker(noticesEvery)
	defer ticker.Stop()
	for {
		live, err := e.allLive(ctx)
		if err != nil {
			return err
		}
		m := e.moment()
		for _, inst := range live {
			p := out.PlanOf(inst.State)
			l, ok := out.LiveOf(inst.State)
			if p.Token != token || !ok {
				continue
			}
			notices, err := e.noticesOf(inst.State, p, l, m.Height, first)
			if err != nil {
				return err
			}
			for _, n := range notices {
				if n.Stuck != nil {
					if told[n.Hash] == m.Height {
						continue
					}
					told[n.Hash] = m.Height
				}
				if err := tell(n); err != nil {
					return err
				}
			}
		}
		first = false
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		case <-e.ctx.Done():
			return errStopping
		}
	}
}

func (e *Engine) noticesOf(s out.State, p out.Plan, l out.Live, tip uint32, first bool) ([]Notice, error) {
	var notices []Notice
	if first && !out.Final(s) {
		notices = append(notices, Notice{Hash: p.Terms.Hash})
	}
	_, published := s.(out.Published)
	if !published || l.ConfirmedHeight == 0 || l.Spent != "" || tip+stuckBlocks < p.Terms.ExpiryHeight || tip >= p.Terms.ExpiryHeight {
		return notices, nil
	}
	contract, err := htlc.New(p.Terms)
	if err != nil {
		return nil, err
	}
	address, err := contract.Address(e.opt.Params)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	rate := e.urgent
	e.mu.Unlock()
	return append(notices, Notice{Hash: p.Terms.Hash, Stuck: &StuckOutput{Outpoint: l.Outpoint, Address: address, Rate: max(rate, e.cfg.Floor)}}), nil
}
