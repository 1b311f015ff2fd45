package lsp

import (
	"slices"
	"time"
)

// MaxOfferFor bounds how long an offer may be valid: a price that binds us is a
// bet on the chain's fees, and a promise's key is kept for as long.
const MaxOfferFor = 2 * time.Hour

// keyLead is how long a new key waits before it signs, so that every replica
// has read it by then. KeyRefresh is how often a replica must read the keys:
// well within it.
const (
	keyLead    = 5 * time.Minute
	KeyRefresh = time.Minute
)

// keyGrace is added to a key's last promise before the key is deleted, for
// replicas that read late and clocks that differ.
const keyGrace = 10 * time.Minute

// Rotation is what is to be done about the promise keys now.
type Rotation struct {
	// Make says that a new key of this Version is due; it signs from SignsFrom.
	Make      bool
	Version   uint32
	SignsFrom time.Time
	// Drop are the versions under which nothing that was promised can be valid
	// any more.
	Drop []uint32
}

// Rotate decides. A key is due when there is none, or when the newest is older
// than every. The newest is never dropped, so versions grow for ever; they
// follow the clock, so that a database restored from an older copy does not
// give one to a second secret.
func Rotate(keys []PromiseKey, every time.Duration, now time.Time) Rotation {
	keys = inOrder(keys)
	var r Rotation
	if len(keys) == 0 {
		// Nobody has promised anything: nothing to wait for.
		return Rotation{Make: true, Version: version(now), SignsFrom: now}
	}
	newest := keys[len(keys)-1]
	if now.Sub(newest.Made) >= every {
		r.Make, r.Version, r.SignsFrom = true, max(newest.Version+1, version(now)), now.Add(keyLead)
	}
	for i, k := range keys[:len(keys)-1] {
		if !now.Before(keys[i+1].SignsFrom.Add(MaxOfferFor + keyGrace)) {
			r.Drop = append(r.Drop, k.Version)
		}
	}
	return r
}

func version(now time.Time) uint32 {
	const last = 1<<32 - 1
	return uint32(min(max(now.Unix(), 1), last)) //nolint:gosec // bounded here
}

// NewPromiserAt signs with the key whose turn it is now and honours the others.
func NewPromiserAt(keys []PromiseKey, now time.Time) (*Promiser, error) {
	keys = inOrder(keys)
	if len(keys) == 0 {
		return nil, errNoKeys
	}
	// The oldest, if a clock was set back behind all of them.
	signs := 0
	for i, k := range keys {
		if !k.SignsFrom.After(now) {
			signs = i
		}
	}
	return NewPromiser(keys[signs], slices.Delete(slices.Clone(keys), signs, signs+1)...)
}

func inOrder(keys []PromiseKey) []PromiseKey {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b PromiseKey) int { return int(int64(a.Version) - int64(b.Version)) })
	return keys
}
