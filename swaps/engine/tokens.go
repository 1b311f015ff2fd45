package engine

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps/l402"
	swapsstore "github.com/sluice-lsp/sluice/swaps/store"
)

// TokenConfig is how tokens (L402) are sold. The zero value sells none.
type TokenConfig struct {
	Enabled bool
	// Required: nothing is done for clients without one.
	Required bool
	PriceSat ln.Sat
	// PerMinute and Burst bound the calls of one token.
	PerMinute, Burst int
}

// Tokens sells tokens and limits who has one.
type Tokens struct {
	e      *Engine
	minter *l402.Minter
	// asked bounds the invoices of people who never pay.
	asked *rate.Limiter

	mu     sync.Mutex
	limits map[l402.ID]*rate.Limiter
}

// maxTracked bounds the tokens whose calls are counted at a time; beyond it all
// are counted anew, which forgives a burst and nothing more.
const maxTracked = 10_000

// tokenFor is how long a token's invoice can be paid.
const tokenFor = time.Hour

// loadTokens reads the secret, or draws it at the first start.
func (e *Engine) loadTokens(ctx context.Context) error {
	if !e.cfg.Tokens.Enabled {
		return nil
	}
	var fresh, secret [32]byte
	if _, err := io.ReadFull(e.opt.Random, fresh[:]); err != nil {
		return fmt.Errorf("draw the secret of tokens: %w", err)
	}
	err := e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) (err error) {
		secret, err = swapsstore.Secret(ctx, tx, "l402", fresh, e.opt.Now())
		return err
	})
	if err != nil {
		return err
	}
	e.tokens = &Tokens{
		e: e, minter: l402.New(secret), asked: rate.NewLimiter(rate.Every(2*time.Second), 60), limits: map[l402.ID]*rate.Limiter{},
	}
	return nil
}

// Tokens are nil where none are sold.
func (e *Engine) Tokens() *Tokens { return e.tokens }

// Required says that nothing is done for clients without a token.
func (t *Tokens) Required() bool { return t.e.cfg.Tokens.Required }

// Sell makes a token and its invoice. lnd settles it by itself: what a payer over an
// unconfirmed channel could take back is the price of one token.
func (t *Tokens) Sell(ctx context.Context) (challenge string, err error) {
	if !t.asked.Allow() {
		return "", errkind.New(errkind.Exhausted, "too many tokens are being asked for: try again in a minute")
	}
	var id l402.ID
	if _, err := io.ReadFull(t.e.opt.Random, id[:]); err != nil {
		return "", fmt.Errorf("draw a token: %w", err)
	}
	price, err := t.e.cfg.Tokens.PriceSat.Msat()
	if err != nil {
		return "", err
	}
	bolt11, _, err := t.e.node.Sales.AddInvoice(ctx, ln.InvoiceRequest{
		Preimage: t.minter.Preimage(id), AmountMsat: price, Memo: "sluice swaps: token", Expiry: tokenFor,
	})
	if err != nil {
		return "", err
	}
	mac, err := t.minter.Mint(id)
	if err != nil {
		return "", err
	}
	return l402.Challenge(mac, bolt11), nil
}

// Admit verifies a token and counts a call of its owner.
func (t *Tokens) Admit(macaroonHex string) (l402.ID, error) {
	id, err := t.minter.Verify(macaroonHex)
	if err != nil {
		return id, errkind.Wrap(errkind.Unauthenticated, err, "this token (L402) is not of this server, or was not paid for: remove it from loopd's directory to buy another")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	limit := t.limits[id]
	if limit == nil {
		if len(t.limits) >= maxTracked {
			clear(t.limits)
		}
		c := t.e.cfg.Tokens
		limit = rate.NewLimiter(rate.Limit(c.PerMinute)/60, c.Burst)
		t.limits[id] = limit
	}
	if !limit.AllowN(t.e.opt.Now(), 1) {
		return id, errkind.New(errkind.Exhausted, "too many calls with this token: wait a minute and call less often")
	}
	return id, nil
}
