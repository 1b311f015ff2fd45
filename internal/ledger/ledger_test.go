package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

func entry(key string, lines ...ledger.Line) ledger.Entry {
	return ledger.Entry{Key: key, At: time.UnixMilli(1_700_000_000_000), Reason: "test", Reference: "payment", Lines: lines}
}

func opened(t *testing.T, open func() *store.DB) *store.DB {
	t.Helper()
	db := open()
	require.NoError(t, ledger.Migrate(t.Context(), db))
	return db
}

func post(db *store.DB, entries ...ledger.Entry) error {
	return db.Write(context.Background(), func(ctx context.Context, tx *store.Tx) error {
		for _, e := range entries {
			if err := ledger.Post(ctx, tx, e); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestValidate(t *testing.T) {
	good := ledger.Move("onchain", "chan/ab:0", 5)
	require.NoError(t, entry("k", good...).Validate())
	noTime := entry("k", good...)
	noTime.At = time.Time{}
	noReason := entry("k", good...)
	noReason.Reason = ""
	big := int64(ledger.MaxLineMsat)
	for name, c := range map[string]struct {
		e    ledger.Entry
		want error
	}{
		"no key":     {entry("", good...), ledger.ErrInvalid},
		"no time":    {noTime, ledger.ErrInvalid},
		"no reason":  {noReason, ledger.ErrInvalid},
		"no lines":   {entry("k"), ledger.ErrInvalid},
		"unbalanced": {entry("k", ledger.Line{Account: "a", AmountMsat: 2}, ledger.Line{Account: "b", AmountMsat: -1}), ledger.ErrUnbalanced},
		"zero line":  {entry("k", ledger.Move("a", "b", 0)...), ledger.ErrInvalid},
		"too large":  {entry("k", ledger.Move("a", "b", big+1)...), ledger.ErrInvalid},
		"min int64":  {entry("k", ledger.Move("a", "b", math.MinInt64)...), ledger.ErrInvalid},
		"overflow": {
			entry("k", slices.Repeat([]ledger.Line{{Account: "a", AmountMsat: big}}, 5)...),
			ledger.ErrOverflow,
		},
		// Sums that wrap around to zero must not pass for balanced.
		"underflow":  {entry("k", slices.Repeat([]ledger.Line{{Account: "a", AmountMsat: -big}}, 5)...), ledger.ErrOverflow},
		"bad path":   {entry("k", ledger.Move("a//b", "b", 1)...), ledger.ErrInvalid},
		"bad letter": {entry("k", ledger.Move("a b", "b", 1)...), ledger.ErrInvalid},
		"no path":    {entry("k", ledger.Move("", "b", 1)...), ledger.ErrInvalid},
	} {
		require.ErrorIs(t, c.e.Validate(), c.want, name)
	}
}

func TestPosting(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := opened(t, open)
		first := entry("1", ledger.Line{Account: "chan/x", AmountMsat: 1000}, ledger.Line{Account: "income/opening_fee", AmountMsat: -100},
			ledger.Line{Account: "held/h", AmountMsat: -900})
		require.NoError(t, post(db, first))
		// Again, later and in another order: nothing.
		again := first
		again.At = first.At.Add(time.Hour)
		again.Lines = slices.Clone(first.Lines)
		slices.Reverse(again.Lines)
		require.NoError(t, post(db, again))
		// The same key for anything else is refused, with all that came with it.
		other := first
		other.Reference = "another payment"
		require.ErrorIs(t, post(db, entry("2", ledger.Move("a", "b", 1)...), other), ledger.ErrKeyReused)
		other = first
		other.Lines = ledger.Move("held/h", "chan/x", 1)
		require.ErrorIs(t, post(db, other), ledger.ErrKeyReused)
		require.ErrorIs(t, post(db, entry("3", ledger.Line{Account: "a", AmountMsat: 1}, ledger.Line{Account: "b", AmountMsat: 1})),
			ledger.ErrUnbalanced)
		second := entry("4", ledger.Move("chan/x", "held/h", 900)...)
		second.At = first.At.Add(time.Minute)
		require.NoError(t, post(db, second))

		require.NoError(t, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			balances, err := ledger.Balances(ctx, tx)
			require.NoError(t, err)
			require.Equal(t, map[ledger.Account]int64{"chan/x": 100, "income/opening_fee": -100, "held/h": 0}, balances)
			history, err := ledger.History(ctx, tx, "chan/x")
			require.NoError(t, err)
			require.Len(t, history, 2)
			require.EqualValues(t, []int64{1000, 1000, -900, 100},
				[]int64{history[0].AmountMsat, history[0].BalanceMsat, history[1].AmountMsat, history[1].BalanceMsat})
			entries, err := ledger.Entries(ctx, tx, "payment")
			require.NoError(t, err)
			require.Len(t, entries, 2)
			require.Equal(t, first.Lines, entries[0].Lines)
			require.Equal(t, first.At.UnixMilli(), entries[0].At.UnixMilli(), "the first attempt's time stays")
			return nil
		}))
	})
}

// Random entries, posted in random order, repeated and rolled back at random,
// leave exactly the balances of a plain map.
func TestBooksAgainstModel(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := opened(t, open)
		rapid.Check(t, func(rt *rapid.T) {
			require.NoError(rt, storetest.Empty(t.Context(), db))
			model := make(map[ledger.Account]int64)
			posted := make(map[string]ledger.Entry)
			account := rapid.SampledFrom([]ledger.Account{"onchain", "chan/a:0", "chan/a:1", "held/h", "income/fee", "equity/opening"})
			amount := rapid.Int64Range(-1_000_000_000_000, 1_000_000_000_000).Filter(func(n int64) bool { return n != 0 })
			for range rapid.IntRange(1, 12).Draw(rt, "posts") {
				key := fmt.Sprint(rapid.IntRange(0, 8).Draw(rt, "key"))
				lines := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) ledger.Line {
					return ledger.Line{Account: account.Draw(rt, "account"), AmountMsat: amount.Draw(rt, "amount")}
				}), 1, 4).Draw(rt, "lines")
				var rest int64
				for _, line := range lines {
					rest -= line.AmountMsat
				}
				if rest == 0 {
					continue
				}
				e := entry(key, append(lines, ledger.Line{Account: account.Draw(rt, "last"), AmountMsat: rest})...)
				old, exists := posted[key]
				if exists && rapid.Bool().Draw(rt, "repeat") {
					require.NoError(rt, post(db, old))
					continue
				}
				if rapid.Bool().Draw(rt, "undone") {
					undo := errors.New("undo")
					require.Error(rt, db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
						return errors.Join(ledger.Post(ctx, tx, e), undo)
					}))
					continue
				}
				err := post(db, e)
				if exists {
					if err != nil {
						require.ErrorIs(rt, err, ledger.ErrKeyReused)
					}
					continue
				}
				require.NoError(rt, err)
				posted[key] = e
				for _, line := range e.Lines {
					model[line.Account] += line.AmountMsat
				}
			}
			require.NoError(rt, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				sum, err := ledger.TrialBalance(ctx, tx)
				require.NoError(rt, err)
				require.Zero(rt, sum)
				books, err := ledger.Balances(ctx, tx)
				require.NoError(rt, err)
				require.Equal(rt, model, books)
				for a, want := range model {
					got, err := ledger.Balance(ctx, tx, a)
					require.NoError(rt, err)
					require.Equal(rt, want, got)
					history, err := ledger.History(ctx, tx, a)
					require.NoError(rt, err)
					require.Equal(rt, want, history[len(history)-1].BalanceMsat)
				}
				return nil
			}))
		})
	})
}

// TestLookup: an entry is found with its lines, and one that was never posted
// is not.
func TestLookup(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := opened(t, open)
		first := entry("1", ledger.Move("onchain", "channels/chan/x", 5)...)
		require.NoError(t, post(db, first))
		require.NoError(t, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			got, found, err := ledger.Lookup(ctx, tx, "1")
			require.NoError(t, err)
			require.True(t, found)
			require.Equal(t, first.Lines, got.Lines)
			require.Equal(t, first.Reference, got.Reference)
			_, found, err = ledger.Lookup(ctx, tx, "2")
			require.NoError(t, err)
			require.False(t, found)
			return nil
		}))
	})
}

// TestPostLater: an entry whose answers nobody waits for is posted with those of the
// others that share the transaction, and one whose key exists undoes its own only.
func TestPostLater(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := opened(t, open)
		together := func(e ledger.Entry) error {
			return db.WriteTogether(context.Background(), func(ctx context.Context, tx *store.Tx) error {
				return ledger.PostLater(ctx, tx, e)
			})
		}
		const many = 20
		errs := make(chan error, 2*many)
		for i := range many {
			// Each key twice: one of them is refused, whatever it says.
			for range 2 {
				go func() {
					errs <- together(entry(fmt.Sprint("held/", i), ledger.Move("held/payers", "held/payments", 5)...))
				}()
			}
		}
		refused := 0
		for range 2 * many {
			if err := <-errs; err != nil {
				require.ErrorIs(t, err, ledger.ErrKeyReused)
				refused++
			}
		}
		require.Equal(t, many, refused)
		require.ErrorIs(t, together(entry("x", ledger.Line{Account: "a", AmountMsat: 1}, ledger.Line{Account: "b", AmountMsat: 1})), ledger.ErrUnbalanced)
		require.NoError(t, db.Read(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			balances, err := ledger.Balances(ctx, tx)
			require.NoError(t, err)
			require.Equal(t, map[ledger.Account]int64{"held/payers": -5 * many, "held/payments": 5 * many}, balances)
			return nil
		}))
	})
}
