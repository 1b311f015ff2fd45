package app

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// The days of payments on the other database. A connection to a server is outside of
// every bubble, so they take real time, without lnd's latencies: a sample of them is
// drawn each time, and SLUICE_RUNS draws more.

// TestRandomDaysOnPostgres is TestRandomDays there.
func TestRandomDaysOnPostgres(t *testing.T) {
	storetest.Postgres(t) // skips where there is none
	base := drawnSeed(t)
	for i := range max(4, runs(0)/20) {
		s := base + uint64(i) //nolint:gosec // a count
		t.Run(fmt.Sprintf("seed-%d", s), func(t *testing.T) {
			t.Parallel()
			randomDay(t, s, true)
		})
	}
}

// TestCrashesOnPostgres is TestCrashAtEveryCommit there: of drawn payments, at drawn
// commits.
func TestCrashesOnPostgres(t *testing.T) {
	storetest.Postgres(t)
	base := drawnSeed(t)
	rng := rand.New(rand.NewPCG(base, 0x9c))
	kinds := jobs()
	for i := range max(6, runs(0)/20) {
		j := kinds[rng.IntN(len(kinds))]
		// A payment takes some twenty commits; a crash that does not come changes nothing.
		n, point := 1+rng.Int64N(20), storetest.Point(rng.IntN(2))
		t.Run(fmt.Sprintf("%d-%s-%s-%d", i, j.name, point, n), func(t *testing.T) {
			t.Parallel()
			crashRun(t, rigConfig{seed: base, job: j, postgres: true}, n, point)
		})
	}
}

// TestBadDaysOnPostgres is TestBadDays there: each fault of the database, for a drawn
// kind of payment, and drawn ones of the days that are over soon; with and without a
// crash.
func TestBadDaysOnPostgres(t *testing.T) {
	storetest.Postgres(t)
	base := drawnSeed(t)
	rng := rand.New(rand.NewPCG(base, 0xbad))
	var quick, days []badDay
	faults := make(map[string][]badDay)
	for _, b := range badDays() {
		what, _, _ := strings.Cut(b.name, "/")
		switch {
		case strings.HasPrefix(b.name, "the database is "):
			faults[what] = append(faults[what], b)
		case b.within <= soon:
			quick = append(quick, b)
		}
	}
	require.Len(t, faults, 3, "full, locked, gone")
	require.Greater(t, len(quick), 8)
	for _, what := range slices.Sorted(maps.Keys(faults)) {
		days = append(days, faults[what][rng.IntN(len(faults[what]))])
	}
	rng.Shuffle(len(quick), func(i, j int) { quick[i], quick[j] = quick[j], quick[i] })
	days = append(days, quick[:min(len(quick), max(2, runs(0)/20))]...)
	for _, b := range days {
		n, point := 1+rng.Int64N(16), storetest.Point(rng.IntN(2))
		name := strings.ReplaceAll(b.name, " ", "-")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.run(t, rigConfig{seed: base, postgres: true}, 0, 0)
		})
		t.Run(fmt.Sprintf("%s/%s-%d", name, point, n), func(t *testing.T) {
			t.Parallel()
			b.run(t, rigConfig{seed: base, postgres: true}, n, point)
		})
	}
}

// TestOlderCopyPutBackOnPostgres is TestOlderCopyPutBack there, with pg_dump and psql:
// drawn ones of the days that do not end with an offer's expiry.
func TestOlderCopyPutBackOnPostgres(t *testing.T) {
	storetest.Postgres(t)
	base := drawnSeed(t)
	rng := rand.New(rand.NewPCG(base, 0x01d))
	var days []olderCopy
	for _, c := range olderCopies() {
		if c.ends != "expired" {
			days = append(days, c)
		}
	}
	rng.Shuffle(len(days), func(i, j int) { days[i], days[j] = days[j], days[i] })
	for _, c := range days[:min(len(days), max(3, runs(0)/20))] {
		t.Run(strings.ReplaceAll(c.name, " ", "-")+"/"+c.job.name, func(t *testing.T) {
			t.Parallel()
			c.play(t, rigConfig{seed: base, postgres: true}, false)
		})
	}
}
