package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

const settingLimits = "limits"

// limitSet is what business is held against: the caps, and the inventory, which is
// what of the wallet's coins is not for channels.
type limitSet struct {
	caps           lsp.Caps
	reservePerChan ln.Sat
	maxReserve     ln.Sat
	keep           ln.Sat
	// trustEach and trustAll are how many unclaimed opens are an attack.
	trustEach, trustAll int
}

func configuredLimits(c Config) limitSet {
	return limitSet{
		caps: c.Caps, reservePerChan: c.ReservePerChan, maxReserve: c.MaxReserveSat, keep: c.KeepSat,
		trustEach: c.Trust.UnclaimedEach, trustAll: c.Trust.Unclaimed,
	}
}

// limitField is one limit under the name that it has in the configuration.
type limitField struct {
	name string
	// most is what it can be at most, least at least.
	least, most uint64
	get         func(*limitSet) uint64
	set         func(*limitSet, uint64)
}

// mostCount fits every integer that counts are kept in.
const mostCount = math.MaxInt32

// mostSat is all that will ever exist, and mostBlocks far above what can be held.
const (
	mostSat    = 21_000_000 * 100_000_000
	mostBlocks = 1 << 60
)

func limitFields() []limitField {
	count := func(name string, at func(*limitSet) *int) limitField {
		return limitField{
			name: name, most: mostCount,
			get: func(l *limitSet) uint64 { return uint64(*at(l)) }, //nolint:gosec // never negative
			set: func(l *limitSet, n uint64) { *at(l) = int(n) },    //nolint:gosec // bounded by most
		}
	}
	sat := func(name string, at func(*limitSet) *ln.Sat) limitField {
		return limitField{name: name, most: mostSat, get: func(l *limitSet) uint64 { return uint64(*at(l)) }, set: func(l *limitSet, n uint64) { *at(l) = ln.Sat(n) }}
	}
	blocks := func(name string, at func(*limitSet) *uint64) limitField {
		return limitField{name: name, most: mostBlocks, get: func(l *limitSet) uint64 { return *at(l) }, set: func(l *limitSet, n uint64) { *at(l) = n }}
	}
	return []limitField{
		count("open_requests_per_client", func(l *limitSet) *int { return &l.caps.Client.OpenRequests }),
		count("open_requests", func(l *limitSet) *int { return &l.caps.All.OpenRequests }),
		sat("unpaid_per_client_sat", func(l *limitSet) *ln.Sat { return &l.caps.Client.UnpaidSat }),
		sat("unpaid_sat", func(l *limitSet) *ln.Sat { return &l.caps.All.UnpaidSat }),
		sat("unconfirmed_sat", func(l *limitSet) *ln.Sat { return &l.caps.All.UnconfirmedSat }),
		sat("held_per_client_sat", func(l *limitSet) *ln.Sat { return &l.caps.Client.HeldSat }),
		sat("held_sat", func(l *limitSet) *ln.Sat { return &l.caps.All.HeldSat }),
		blocks("held_sat_blocks_per_client", func(l *limitSet) *uint64 { return &l.caps.Client.HeldSatBlocks }),
		blocks("held_sat_blocks", func(l *limitSet) *uint64 { return &l.caps.All.HeldSatBlocks }),
		count("held_htlcs_per_client", func(l *limitSet) *int { return &l.caps.Client.HeldHtlcs }),
		count("held_htlcs", func(l *limitSet) *int { return &l.caps.All.HeldHtlcs }),
		{
			name: "held_htlcs_per_channel", most: lsp.ChannelSlots - 1,
			get: func(l *limitSet) uint64 { return uint64(l.caps.IncomingHtlcs) }, //nolint:gosec // never negative
			set: func(l *limitSet, n uint64) { l.caps.IncomingHtlcs = int(n) },    //nolint:gosec // bounded by most
		},
		count("opens_per_hour_per_client", func(l *limitSet) *int { return &l.caps.Client.OpensLastHour }),
		count("opens_per_hour", func(l *limitSet) *int { return &l.caps.All.OpensLastHour }),
		{
			name: "newcomers_percent", least: 1, most: 100,
			get: func(l *limitSet) uint64 { return uint64(l.caps.NewcomersPercent) },
			set: func(l *limitSet, n uint64) { l.caps.NewcomersPercent = uint32(n) }, //nolint:gosec // at most 100
		},
		sat("reserve_per_channel_sat", func(l *limitSet) *ln.Sat { return &l.reservePerChan }),
		sat("max_reserve_sat", func(l *limitSet) *ln.Sat { return &l.maxReserve }),
		sat("keep_sat", func(l *limitSet) *ln.Sat { return &l.keep }),
		count("trust_unclaimed_per_client", func(l *limitSet) *int { return &l.trustEach }),
		count("trust_unclaimed", func(l *limitSet) *int { return &l.trustAll }),
	}
}

// limits are what stands now.
func (e *Engine) limits() limitSet {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := configuredLimits(e.cfg)
	if len(e.limitsSet) == 0 {
		return l
	}
	for _, f := range limitFields() {
		if n, set := e.limitsSet[f.name]; set {
			f.set(&l, n)
		}
	}
	return l
}

// Limit is one limit as it stands.
type Limit struct {
	Name       string
	Value      uint64
	Configured uint64
	// Set says that it was set at run time.
	Set bool
}

// Limits are all, in the order of the configuration.
func (e *Engine) Limits() []Limit {
	now, configured := e.limits(), configuredLimits(e.cfg)
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Limit
	for _, f := range limitFields() {
		_, set := e.limitsSet[f.name]
		out = append(out, Limit{Name: f.name, Value: f.get(&now), Configured: f.get(&configured), Set: set})
	}
	return out
}

// SetLimits sets limits from now on, also after a restart. What was admitted before
// stands.
func (e *Engine) SetLimits(ctx context.Context, values map[string]uint64) error {
	if len(values) == 0 {
		return errkind.New(errkind.Invalid, "name a limit and its value")
	}
	if err := checkLimits(values); err != nil {
		return err
	}
	return e.changeLimits(ctx, func(set map[string]uint64) { maps.Copy(set, values) })
}

// ResetLimits goes back to the configuration, for all where none is named.
func (e *Engine) ResetLimits(ctx context.Context, names []string) error {
	for _, name := range names {
		if _, err := limitNamed(name); err != nil {
			return err
		}
	}
	return e.changeLimits(ctx, func(set map[string]uint64) {
		if len(names) == 0 {
			clear(set)
		}
		for _, name := range names {
			delete(set, name)
		}
	})
}

func limitNamed(name string) (limitField, error) {
	var names []string
	for _, f := range limitFields() {
		if f.name == name {
			return f, nil
		}
		names = append(names, f.name)
	}
	return limitField{}, errkind.Newf(errkind.Invalid, "there is no limit %q: there are %s", ln.Clip(name, 80), strings.Join(names, ", "))
}

func checkLimits(values map[string]uint64) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		f, err := limitNamed(name)
		if err != nil {
			return err
		}
		if n := values[name]; n < f.least || n > f.most {
			return errkind.Newf(errkind.Invalid, "%s must be between %d and %d", name, f.least, f.most)
		}
	}
	return nil
}

func (e *Engine) changeLimits(ctx context.Context, change func(map[string]uint64)) error {
	var set map[string]uint64
	err := e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) (err error) {
		if set, err = readLimits(ctx, tx); err != nil {
			return err
		}
		change(set)
		value, err := json.Marshal(set)
		if err != nil {
			return err
		}
		return lspdb.New(tx).PutSetting(ctx, lspdb.PutSettingParams{Name: settingLimits, Value: value, UpdatedMs: e.opt.Now().UnixMilli()})
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.limitsSet = set
	e.mu.Unlock()
	e.coins.changed()
	e.log.Info("the operator changed limits", zap.Any("set", set))
	return nil
}

func readLimits(ctx context.Context, tx *store.Tx) (map[string]uint64, error) {
	set := map[string]uint64{}
	value, err := lspdb.New(tx).GetSetting(ctx, settingLimits)
	if errors.Is(store.MapError(err), store.ErrNotFound) {
		return set, nil
	}
	if err == nil {
		err = json.Unmarshal(value, &set)
	}
	if err != nil {
		return nil, fmt.Errorf("read the limits: %w", err)
	}
	return set, nil
}

// loadLimits reads what was set at run time; one that cannot be is refused at the
// start, like in the configuration.
func (e *Engine) loadLimits(ctx context.Context) error {
	var set map[string]uint64
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		set, err = readLimits(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	if err := checkLimits(set); err != nil {
		return fmt.Errorf("the limits that were set: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.limitsSet = set
	return nil
}
