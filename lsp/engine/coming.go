package engine

import (
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// changeWithin is how long an open waits for the change of others that are about to be
// published: a gateway with one coin is paid for several wallets at once.
const changeWithin = 10 * time.Second

// comingChange is what an open that has leased its coins will leave, once it is published.
type comingChange struct {
	coin  ln.Coin
	spent []ln.Coin
}

// comings are the changes that are coming, by open. Guarded by Engine.mu.
type comings struct {
	of map[string]comingChange
	// moves counts what came and went.
	moves uint64
}

func (c *comings) put(openingID string, change comingChange) {
	if _, was := c.of[openingID]; !was {
		c.moves++
	}
	c.of[openingID] = change
}

func (c *comings) drop(openingID string) {
	if _, was := c.of[openingID]; was {
		delete(c.of, openingID)
		c.moves++
	}
}

// comingNow is what is coming, and how much had moved by then. It is asked for before lnd's
// coins are: what is published in between is in both.
func (e *Engine) comingNow() (list []comingChange, moves uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Values(e.coming.of)), e.coming.moves
}

// comingOf is the change of an open that is about to be published.
func comingOf(s opening.State) (c comingChange, ok bool) {
	switch s.(type) {
	case opening.Leased, opening.Built, opening.Unknown, opening.Pending, opening.Signed:
	default:
		return c, false
	}
	plan := opening.PlanOf(s)
	coins, _ := opening.CoinsOf(s)
	if !soonPublished(plan) || coins.Selection.ChangeSat == 0 {
		return c, false
	}
	c = changeOf(plan.ID, coins)
	if u, built := opening.UnsignedOf(s); built {
		c.coin.Outpoint = u.ChangeOutpoint
	}
	return c, true
}

// soonPublished leaves out what waits for its payment, or for others of a batch: nobody
// knows when that will be.
func soonPublished(p opening.Plan) bool { return !p.Withhold && p.Batch == "" }

// changeOf is the change under a name that nobody asks for: it has none until it is built.
func changeOf(openingID string, c opening.Coins) comingChange {
	return comingChange{
		coin:  ln.Coin{Outpoint: ln.Outpoint{TxID: sha256.Sum256([]byte(openingID))}, AmountSat: c.Selection.ChangeSat, PkScript: c.ChangeScript},
		spent: c.Selection.Inputs,
	}
}

// noteComing keeps the change of an open in step with its state. Callers hold e.mu.
func (e *Engine) noteComing(id string, s opening.State) {
	before := e.coming.moves
	if c, ok := comingOf(s); ok {
		e.coming.put(id, c)
	} else {
		e.coming.drop(id)
	}
	if e.coming.moves != before {
		e.coins.changed()
	}
}

// expectChange notes the change of coins that are about to be leased: from then on lnd lists
// neither them nor it. Without a selection nothing is expected any more.
func (e *Engine) expectChange(openingID string, c opening.Coins) {
	if openingID == "" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, live := e.liveOpenings[openingID]; live && c.Selection.ChangeSat > 0 {
		e.coming.put(openingID, changeOf(openingID, c))
	} else {
		e.coming.drop(openingID)
	}
}

// withComing adds to the coins of the wallet what opens under way will leave within a
// second or so, and gives the depths of all. It is for what is planned: none of what is
// added can be spent yet.
func (e *Engine) withComing(ctx context.Context, coins []ln.Coin, coming []comingChange) ([]ln.Coin, map[ln.Outpoint]int, error) {
	coming = slices.DeleteFunc(coming, func(c comingChange) bool {
		return slices.ContainsFunc(coins, func(l ln.Coin) bool { return l.Outpoint == c.coin.Outpoint })
	})
	all, asked := slices.Clone(coins), slices.Clone(coins)
	for _, c := range coming {
		asked = append(asked, c.spent...)
	}
	depth, err := e.depths(ctx, asked)
	if err != nil {
		return nil, nil, err
	}
	if depth == nil {
		depth = make(map[ln.Outpoint]int, len(coming))
	}
	for _, c := range coming {
		deepest := 0
		for _, spent := range c.spent {
			deepest = max(deepest, depth[spent.Outpoint])
		}
		all, depth[c.coin.Outpoint] = append(all, c.coin), deepest+1
	}
	return all, depth, nil
}

// awaitChange says whether to look at lnd's coins again where the free ones do not allow a
// selection: at once if anything has moved since they were asked for, and after a moment if it
// would be possible with the change of opens that are about to be published.
func (e *Engine) awaitChange(ctx context.Context, free []ln.Coin, r funding.Request, until time.Time, before []comingChange, moves uint64) (again bool, err error) {
	if !e.opt.Now().Before(until) {
		return false, nil
	}
	if _, now := e.comingNow(); now != moves {
		return true, nil
	}
	if len(before) == 0 {
		return false, nil
	}
	all, depth, err := e.withComing(ctx, free, before)
	if err != nil {
		return false, err
	}
	r.Depth = depth
	if _, err = funding.Select(all, r); err != nil {
		// It was asked of the free ones before.
		return false, nil //nolint:nilerr // the answer is no
	}
	return true, pace.Pause(ctx, changeWithin/100)
}
