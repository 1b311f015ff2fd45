package engine

import (
	"context"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

const (
	// changeWithin is how long a transaction waits for coins that others are about to leave
	// or give back: a gateway with one coin is paid for several wallets at once.
	changeWithin = 10 * time.Second
	// changeGoodFor is how long what is coming is counted on. An open that stands still
	// longer than that may do so for hours.
	changeGoodFor = time.Minute
	// mostWaiting bounds who waits: each keeps one of the places in which effects are
	// carried out, and what it waits for needs one, too.
	mostWaiting = 32
)

// comingChange is what an open that has leased its coins will leave, once it is published,
// or the coins themselves, if it is over and about to give them back (change is zero).
type comingChange struct {
	change ln.Coin
	spent  []ln.Coin
	since  time.Time
}

// comings are the coins that are coming, by open, and who waits for them. Guarded by
// Engine.mu.
type comings struct {
	of map[string]comingChange
	// moves counts what came and went.
	moves uint64
	// waiting is what those who wait will fund, by their lease.
	waiting map[[32]byte]coinsWish
}

func newComings() comings {
	return comings{of: make(map[string]comingChange), waiting: make(map[[32]byte]coinsWish)}
}

func (c *comings) put(openingID string, change comingChange) {
	if was, exists := c.of[openingID]; exists {
		change.since = was.since
	} else {
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
	now := e.opt.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.coming.of {
		if now.Before(c.since.Add(changeGoodFor)) {
			list = append(list, c)
		}
	}
	return list, e.coming.moves
}

// comingOf is the change of an open that is about to be published.
func comingOf(s opening.State) (c comingChange, ok bool) {
	switch s := s.(type) {
	case opening.Leased:
		ok = s.AskAt.IsZero()
	case opening.Signed:
		ok = s.Trouble.IsZero() && s.SpenderHeight == 0
	case opening.Built, opening.Unknown, opening.Pending:
		ok = true
	}
	plan := opening.PlanOf(s)
	coins, _ := opening.CoinsOf(s)
	if !ok || !soonPublished(plan) || coins.Selection.ChangeSat == 0 {
		return c, false
	}
	c = changeOf(plan.ID, coins)
	if u, built := opening.UnsignedOf(s); built {
		c.change.Outpoint = u.ChangeOutpoint
	}
	return c, true
}

// soonPublished leaves out what waits for its payment, or for others of a batch: nobody
// knows when that will be.
func soonPublished(p opening.Plan) bool { return !p.Withhold && p.Batch == "" }

// changeOf is the change under a name that nobody asks for: it has none until it is built.
func changeOf(openingID string, c opening.Coins) comingChange {
	return comingChange{
		change: ln.Coin{Outpoint: ln.Outpoint{TxID: sha256.Sum256([]byte(openingID))}, AmountSat: c.Selection.ChangeSat, PkScript: c.ChangeScript},
		spent:  c.Selection.Inputs,
	}
}

// noteComing keeps what is coming of an open in step with its state. Callers hold e.mu.
func (e *Engine) noteComing(id string, s opening.State) {
	before := e.coming.moves
	c, ok := comingOf(s)
	switch s.(type) {
	case opening.Failed, opening.Rejected:
		// Its coins are free again once lnd has been told.
		c.spent, ok = e.coming.of[id].spent, len(e.coming.of[id].spent) > 0
		e.coming.drop(id)
	}
	c.since = e.opt.Now()
	if ok {
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
func (e *Engine) expectChange(openingID string, coins opening.Coins) {
	if openingID == "" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, live := e.liveOpenings[openingID]; live && coins.Selection.ChangeSat > 0 {
		c := changeOf(openingID, coins)
		c.since = e.opt.Now()
		e.coming.put(openingID, c)
	} else {
		e.coming.drop(openingID)
	}
}

// withComing adds to the coins of the wallet what opens under way will leave within a
// second or so, and gives the depths of all. It is for what is planned: none of what is
// added can be spent yet.
func (e *Engine) withComing(ctx context.Context, coins []ln.Coin, coming []comingChange) ([]ln.Coin, map[ln.Outpoint]int, error) {
	// What lnd lists already, or several want, is counted once.
	counted := make(map[ln.Outpoint]bool, len(coins))
	for _, c := range coins {
		counted[c.Outpoint] = true
	}
	isCounted := func(c ln.Coin) bool { return counted[c.Outpoint] }
	var add []comingChange
	asked := slices.Clone(coins)
	for _, c := range coming {
		if isCounted(c.change) || slices.ContainsFunc(c.spent, isCounted) {
			continue
		}
		for _, spent := range c.spent {
			counted[spent.Outpoint] = true
		}
		add, asked = append(add, c), append(asked, c.spent...)
	}
	depth, err := e.depths(ctx, asked)
	if err != nil {
		return nil, nil, err
	}
	if depth == nil {
		depth = make(map[ln.Outpoint]int, len(add))
	}
	all := slices.Clone(coins)
	for _, c := range add {
		if c.change.AmountSat == 0 {
			all = append(all, c.spent...)
			continue
		}
		deepest := 0
		for _, spent := range c.spent {
			deepest = max(deepest, depth[spent.Outpoint])
		}
		all, depth[c.change.Outpoint] = append(all, c.change), deepest+1
	}
	return all, depth, nil
}

// A coinsQuery is a look at lnd's coins that found too few.
type coinsQuery struct {
	free    []ln.Coin
	request funding.Request
	// coming and moves are comingNow's, from before.
	coming []comingChange
	moves  uint64
	until  time.Time
}

// awaitChange waits a moment, and says whether to look at lnd's coins again: if anything has
// moved since they were asked for, or if what is wanted would be possible with what is coming.
func (e *Engine) awaitChange(ctx context.Context, w coinsWish, q coinsQuery) (again bool, err error) {
	if !e.opt.Now().Before(q.until) {
		return false, nil
	}
	if _, now := e.comingNow(); now == q.moves {
		all, depth, err := e.withComing(ctx, q.free, q.coming)
		if err != nil || len(all) == len(q.free) {
			return false, err
		}
		q.request.Depth = depth
		if _, err = funding.Select(all, q.request); err != nil {
			// It was asked of the free ones before.
			return false, nil //nolint:nilerr // the answer is no
		}
	}
	if !e.lineUpForCoins(w) {
		return false, nil
	}
	return true, pace.Pause(ctx, changeWithin/100)
}

// lineUpForCoins is false when too many wait already. Quotes leave out what those who wait
// will take.
func (e *Engine) lineUpForCoins(w coinsWish) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, waits := e.coming.waiting[w.lease]; !waits {
		if len(e.coming.waiting) >= mostWaiting {
			return false
		}
		e.coming.waiting[w.lease] = w
		e.coins.changed()
	}
	return true
}

func (e *Engine) leaveLineForCoins(w coinsWish) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, waits := e.coming.waiting[w.lease]; waits {
		delete(e.coming.waiting, w.lease)
		e.coins.changed()
	}
}

// awaited is what those who wait for coins will fund.
func (e *Engine) awaited() (sum ln.Sat, channels int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.coming.waiting {
		sum, channels = sum+w.fundingSat, channels+w.channels
	}
	return sum, channels
}
