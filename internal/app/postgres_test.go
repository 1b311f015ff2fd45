package app

import (
	"fmt"
	"math/rand/v2"
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
	for i := range max(8, runs(0)/20) {
		j := kinds[rng.IntN(len(kinds))]
		// A payment takes some twenty commits; a crash that does not come changes nothing.
		n, point := 1+rng.Int64N(20), storetest.Point(rng.IntN(2))
		t.Run(fmt.Sprintf("%d-%s-%s-%d", i, j.name, point, n), func(t *testing.T) {
			t.Parallel()
			crashRun(t, rigConfig{seed: base, job: j, postgres: true}, n, point)
		})
	}
}

// TestBadDaysOnPostgres is TestBadDays there: drawn ones of those that are over soon,
// and all faults of the database, each as it is and with a crash.
func TestBadDaysOnPostgres(t *testing.T) {
	storetest.Postgres(t)
	base := drawnSeed(t)
	rng := rand.New(rand.NewPCG(base, 0xbad))
	var quick, faults []badDay
	for _, b := range badDays() {
		switch {
		case strings.HasPrefix(b.name, "the database is "):
			faults = append(faults, b)
		case b.within <= soon:
			quick = append(quick, b)
		}
	}
	require.Len(t, faults, 6)
	require.Greater(t, len(quick), 8)
	rng.Shuffle(len(quick), func(i, j int) { quick[i], quick[j] = quick[j], quick[i] })
	for _, b := range append(faults, quick[:min(len(quick), max(4, runs(0)/20))]...) {
		n, point := 1+rng.Int64N(16), storetest.Point(rng.IntN(2))
		t.Run(strings.ReplaceAll(b.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			b.run(t, rigConfig{seed: base, postgres: true}, 0, 0)
		})
		t.Run(fmt.Sprintf("%s/%s-%d", strings.ReplaceAll(b.name, " ", "-"), point, n), func(t *testing.T) {
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
