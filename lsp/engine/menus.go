package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// TokenMenu is what channels cost who names a token.
type TokenMenu struct {
	Token string
	Items []lsp.OpeningFeeParams
}

// MaxToken bounds a token, in bytes.
const MaxToken = 200

// maxMenus bounds the tokens that are set at run time.
const maxMenus = 1000

const settingMenus = "menus"

// menus are the menus that stand: those of the configuration, and those that
// were set at run time in their place. Every process with the lease reads the
// latter when it begins.
type menus struct {
	configured map[string][]lsp.OpeningFeeParams

	mu  sync.Mutex
	set map[string]setMenu
}

// setMenu is what was set at run time for a token; it is stored as JSON.
type setMenu struct {
	Items []storedItem `json:"items,omitempty"`
	// Withdrawn: a token of the configuration means nothing.
	Withdrawn bool `json:"withdrawn,omitempty"`
	// UntilMs is when a token ends; 0 never.
	UntilMs int64 `json:"until_ms,omitempty"`
	SetMs   int64 `json:"set_ms"`
}

type storedItem struct {
	MinFeeMsat           ln.Msat `json:"min_fee_msat"`
	ProportionalPPM      uint32  `json:"proportional_ppm"`
	MinLifetimeBlocks    uint32  `json:"min_lifetime_blocks"`
	MaxClientToSelfDelay uint32  `json:"max_client_to_self_delay"`
	MinPaymentSizeMsat   ln.Msat `json:"min_payment_size_msat"`
	MaxPaymentSizeMsat   ln.Msat `json:"max_payment_size_msat"`
}

func configuredMenus(c Config) map[string][]lsp.OpeningFeeParams {
	out := map[string][]lsp.OpeningFeeParams{"": c.Menu}
	for _, t := range c.Tokens {
		out[t.Token] = t.Items
	}
	return out
}

// checkTokens refuses what bLIP-52 does for the menu of every token.
func checkTokens(tokens []TokenMenu) error {
	seen := map[string]bool{}
	for i, t := range tokens {
		if err := checkToken(t.Token); err != nil {
			return fmt.Errorf("token %d: %w", i+1, err)
		}
		if seen[t.Token] {
			return fmt.Errorf("token %q stands twice", t.Token)
		}
		seen[t.Token] = true
		if err := checkMenu(t.Items); err != nil {
			return fmt.Errorf("token %q: %w", t.Token, err)
		}
	}
	return nil
}

func checkToken(token string) error {
	if token == "" || len(token) > MaxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errkind.Newf(errkind.Invalid, "a token has 1 to %d characters of printable ASCII, without spaces", MaxToken)
	}
	return nil
}

func checkMenu(items []lsp.OpeningFeeParams) error {
	if len(items) == 0 {
		return errkind.New(errkind.Invalid, "a menu has at least one item: to offer nothing, stop new business")
	}
	return lsp.CheckMenu(items)
}

// of is the menu of a token.
func (m *menus) of(token string, now time.Time) ([]lsp.OpeningFeeParams, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	set, ok := m.set[token]
	switch {
	case ok && (set.Withdrawn || set.UntilMs > 0 && set.UntilMs <= now.UnixMilli()):
		return nil, lsps2.ErrToken
	case ok:
		return slices.Clone(set.params()), nil
	}
	if items, ok := m.configured[token]; ok {
		return slices.Clone(items), nil
	}
	return nil, lsps2.ErrToken
}

// longestLifetime is the longest that any menu promises a channel to stay.
func (m *menus) longestLifetime() (blocks uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, items := range m.configured {
		for _, item := range items {
			blocks = max(blocks, item.MinLifetimeBlocks)
		}
	}
	for _, set := range m.set {
		for _, item := range set.Items {
			blocks = max(blocks, item.MinLifetimeBlocks)
		}
	}
	return blocks
}

func (s setMenu) params() []lsp.OpeningFeeParams {
	out := make([]lsp.OpeningFeeParams, 0, len(s.Items))
	for _, i := range s.Items {
		out = append(out, lsp.OpeningFeeParams{
			MinFeeMsat: i.MinFeeMsat, ProportionalPPM: i.ProportionalPPM, MinLifetimeBlocks: i.MinLifetimeBlocks,
			MaxClientToSelfDelay: i.MaxClientToSelfDelay, MinPaymentSizeMsat: i.MinPaymentSizeMsat, MaxPaymentSizeMsat: i.MaxPaymentSizeMsat,
		})
	}
	return out
}

func storedItems(items []lsp.OpeningFeeParams) []storedItem {
	out := make([]storedItem, 0, len(items))
	for _, i := range items {
		out = append(out, storedItem{
			MinFeeMsat: i.MinFeeMsat, ProportionalPPM: i.ProportionalPPM, MinLifetimeBlocks: i.MinLifetimeBlocks,
			MaxClientToSelfDelay: i.MaxClientToSelfDelay, MinPaymentSizeMsat: i.MinPaymentSizeMsat, MaxPaymentSizeMsat: i.MaxPaymentSizeMsat,
		})
	}
	return out
}

// loadMenus reads what was set at run time. What the spec forbids is refused at
// the start, like in the configuration.
func (e *Engine) loadMenus(ctx context.Context) error {
	var set map[string]setMenu
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		set, err = readMenus(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	for token, m := range set {
		if m.Withdrawn {
			continue
		}
		if err := checkMenu(m.params()); err != nil {
			return fmt.Errorf("the menu that was set for the token %q: %w", token, err)
		}
	}
	e.menus.mu.Lock()
	defer e.menus.mu.Unlock()
	e.menus.set = set
	return nil
}

func readMenus(ctx context.Context, tx *store.Tx) (map[string]setMenu, error) {
	set := map[string]setMenu{}
	value, err := lspdb.New(tx).GetSetting(ctx, settingMenus)
	if errors.Is(store.MapError(err), store.ErrNotFound) {
		return set, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the menus: %w", err)
	}
	if err := json.Unmarshal(value, &set); err != nil {
		return nil, fmt.Errorf("read the menus: %w", err)
	}
	return set, nil
}

// change stores what is set at run time, before it counts.
func (e *Engine) change(ctx context.Context, what, token string, f func(set map[string]setMenu) error) error {
	var set map[string]setMenu
	err := e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) (err error) {
		if set, err = readMenus(ctx, tx); err != nil {
			return err
		}
		if err := f(set); err != nil {
			return err
		}
		value, err := json.Marshal(set)
		if err != nil {
			return err
		}
		return lspdb.New(tx).PutSetting(ctx, lspdb.PutSettingParams{Name: settingMenus, Value: value, UpdatedMs: e.opt.Now().UnixMilli()})
	})
	if err != nil {
		return err
	}
	e.menus.mu.Lock()
	e.menus.set = set
	e.menus.mu.Unlock()
	e.log.Info("a menu was changed", zap.String("change", what), zap.String("token", token))
	return nil
}

// SetMenu sets the menu of a token, or for everybody, from now on. What was
// promised before stands. The zero time is no end.
func (e *Engine) SetMenu(ctx context.Context, token string, items []lsp.OpeningFeeParams, until time.Time) error {
	if token != "" {
		if err := checkToken(token); err != nil {
			return err
		}
	} else if !until.IsZero() {
		return errkind.New(errkind.Invalid, "the menu for everybody has no end: set another one when it is time")
	}
	if err := checkMenu(items); err != nil {
		return err
	}
	now := e.opt.Now()
	if !until.IsZero() && !until.After(now) {
		return errkind.New(errkind.Invalid, "that time is over")
	}
	entry := setMenu{Items: storedItems(items), SetMs: now.UnixMilli()}
	if !until.IsZero() {
		entry.UntilMs = until.UnixMilli()
	}
	return e.change(ctx, "set", token, func(set map[string]setMenu) error {
		if _, there := set[token]; !there && len(set) >= maxMenus {
			return errkind.Newf(errkind.Exhausted, "there are %d menus: withdraw or reset others first", maxMenus)
		}
		set[token] = entry
		return nil
	})
}

// WithdrawToken makes a token mean nothing.
func (e *Engine) WithdrawToken(ctx context.Context, token string) error {
	if err := checkToken(token); err != nil {
		return err
	}
	_, configured := e.menus.configured[token]
	return e.change(ctx, "withdraw", token, func(set map[string]setMenu) error {
		_, there := set[token]
		switch {
		case configured:
			set[token] = setMenu{Withdrawn: true, SetMs: e.opt.Now().UnixMilli()}
		case there:
			delete(set, token)
		default:
			return errkind.New(errkind.NotFound, "there is no such token")
		}
		return nil
	})
}

// ResetMenu goes back to what the configuration has for a token, which may be
// nothing.
func (e *Engine) ResetMenu(ctx context.Context, token string) error {
	return e.change(ctx, "reset", token, func(set map[string]setMenu) error {
		if _, there := set[token]; !there {
			return errkind.New(errkind.NotFound, "nothing was set for it: what the configuration has stands")
		}
		delete(set, token)
		return nil
	})
}

// MenuStatus is one menu, as operators see it: as written, and at today's fees.
type MenuStatus struct {
	Token string
	// Configured is what the file has; Set says that it was changed since.
	Configured, Set, Withdrawn bool
	Until, SetAt               time.Time
	Items, Offered             []lsp.OpeningFeeParams
	// Refusal says why nothing is offered.
	Refusal string
}

// Menus lists all, that for everybody first.
func (e *Engine) Menus() []MenuStatus {
	now, rate := e.opt.Now(), e.fees.current()
	e.menus.mu.Lock()
	set := maps.Clone(e.menus.set)
	e.menus.mu.Unlock()
	names := map[string]bool{}
	for token := range e.menus.configured {
		names[token] = true
	}
	for token := range set {
		names[token] = true
	}
	out := make([]MenuStatus, 0, len(names))
	for _, token := range slices.Sorted(maps.Keys(names)) {
		m := MenuStatus{Token: token}
		m.Items, m.Configured = e.menus.configured[token], e.menus.configured[token] != nil
		if s, ok := set[token]; ok {
			m.Set, m.Withdrawn, m.SetAt = true, s.Withdrawn, time.UnixMilli(s.SetMs)
			if !s.Withdrawn {
				m.Items = s.params()
			}
			if s.UntilMs > 0 {
				m.Until = time.UnixMilli(s.UntilMs)
			}
		}
		base, err := e.menus.of(token, now)
		if err == nil {
			m.Offered, err = e.prices(rate, base)
		}
		if err != nil {
			m.Refusal = errkind.Sentence(err)
		}
		out = append(out, m)
	}
	return out
}
