package lsp_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

func TestRotate(t *testing.T) {
	const every = 30 * 24 * time.Hour
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key := func(n uint32, made, signs time.Duration) lsp.PromiseKey {
		return lsp.PromiseKey{Version: n, Secret: [32]byte{byte(n)}, Made: now.Add(made), SignsFrom: now.Add(signs)}
	}
	require.Equal(t, lsp.Rotation{Make: true, Version: uint32(now.Unix()), SignsFrom: now}, lsp.Rotate(nil, every, now))
	require.Zero(t, lsp.Rotate([]lsp.PromiseKey{key(7, -every+1, -every+1)}, every, now))
	due := lsp.Rotate([]lsp.PromiseKey{key(7, -every, -every)}, every, now)
	require.Equal(t, lsp.Rotation{Make: true, Version: uint32(now.Unix()), SignsFrom: now.Add(5 * time.Minute)}, due)

	// Two keys made within a second, or a clock set back, still get two versions.
	ahead := lsp.Rotate([]lsp.PromiseKey{key(1<<31, -every, -every)}, every, now)
	require.EqualValues(t, 1<<31+1, ahead.Version)

	// The one before the newest is kept until what it promised last has expired.
	keep := lsp.MaxOfferFor + 10*time.Minute
	pair := []lsp.PromiseKey{key(9, -time.Hour, -keep+1), key(8, -every, -every)}
	require.Empty(t, lsp.Rotate(pair, every, now).Drop)
	pair[0].SignsFrom = now.Add(-keep)
	require.Equal(t, []uint32{8}, lsp.Rotate(pair, every, now).Drop)
	require.Empty(t, lsp.Rotate(pair[:1], every, now.Add(1000*every)).Drop, "the newest stays")
}

// A gateway that rotates whenever it looks, however rarely, and replicas that
// read the keys late: every promise that has not expired is honoured by all of
// them, and keys don't pile up.
func TestNoPromiseOutlivesItsKey(t *testing.T) {
	client := ln.PubKey{2, 1}
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		every := time.Duration(rapid.IntRange(24, 72).Draw(t, "every")) * time.Hour
		var keys []lsp.PromiseKey
		read := make([][]lsp.PromiseKey, 3)
		readAt := make([]time.Time, 3)
		var promised []lsp.OpeningFeeParams
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.OneOf(rapid.IntRange(0, 10), rapid.IntRange(0, 5000)).Draw(t, "minutes")) * time.Minute)
			r := lsp.Rotate(keys, every, now)
			var kept []lsp.PromiseKey
			for _, k := range keys {
				drop := false
				for _, v := range r.Drop {
					drop = drop || v == k.Version
				}
				if !drop {
					kept = append(kept, k)
				}
			}
			keys = kept
			if r.Make {
				keys = append(keys, lsp.PromiseKey{Version: r.Version, Secret: [32]byte{byte(len(promised)), 1}, Made: now, SignsFrom: r.SignsFrom})
			}
			require.LessOrEqual(t, len(keys), 2)
			for i := range read {
				if read[i] == nil || now.Sub(readAt[i]) > lsp.KeyRefresh || rapid.Bool().Draw(t, "reads") {
					read[i], readAt[i] = keys, now
				}
			}
			by := rapid.IntRange(0, 2).Draw(t, "by")
			p, err := lsp.NewPromiserAt(read[by], now)
			require.NoError(t, err)
			promised = append(promised, p.Promise(client, lsp.OpeningFeeParams{ValidUntil: now.Add(lsp.MaxOfferFor)}))
			for _, o := range promised {
				if o.Valid(now) != nil {
					continue
				}
				for i := range read {
					p, err := lsp.NewPromiserAt(read[i], readAt[i])
					require.NoError(t, err)
					require.NoError(t, p.Verify(client, o))
				}
			}
		}
	})
}

func TestUnknownKeys(t *testing.T) {
	_, err := lsp.NewPromiserAt(nil, time.Now())
	require.Error(t, err)
	require.Contains(t, errkind.Sentence(lsp.ErrPromiseOldKey), "expired or is unknown")
}
