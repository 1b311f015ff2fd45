package vault_test

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func wide() vault.Quota {
	return vault.Quota{Bytes: 1 << 30, Objects: 1 << 20, ObjectBytes: 1 << 20, DayWrites: 1 << 20, DayBytes: 1 << 30, HistoryBytes: 1 << 30}
}

func signer(t testing.TB) *vault.Signer {
	t.Helper()
	s, err := vault.NewSigner(bytes.Repeat([]byte{7}, 32))
	require.NoError(t, err)
	return s
}

func account(t testing.TB) vault.Account {
	t.Helper()
	id, err := vault.NewIdentity(vault.SchemeSignature, "02ab")
	require.NoError(t, err)
	return vault.NewAccount(signer(t).Key(), id)
}

func item(key string, version int64, value string) vault.Item {
	return vault.Item{Key: key, Version: version, Value: []byte(value)}
}

func global(n int64) *int64 { return &n }

func TestVersions(t *testing.T) {
	at := func(v int64) map[string]vault.Held {
		return map[string]vault.Held{"k": {Version: v, Size: 3, Seq: 5, Created: 2}}
	}
	for _, c := range []struct {
		name  string
		held  map[string]vault.Held
		write vault.Write
		after int64 // 0: conflict
	}{
		{"insert", nil, vault.Write{Puts: []vault.Item{item("k", 0, "v")}}, 1},
		{"insert over something", at(1), vault.Write{Puts: []vault.Item{item("k", 0, "v")}}, 0},
		{"update", at(4), vault.Write{Puts: []vault.Item{item("k", 4, "v")}}, 5},
		{"update of an older one", at(4), vault.Write{Puts: []vault.Item{item("k", 3, "v")}}, 0},
		{"update of a newer one", at(4), vault.Write{Puts: []vault.Item{item("k", 5, "v")}}, 0},
		{"update of nothing", nil, vault.Write{Puts: []vault.Item{item("k", 1, "v")}}, 0},
		{"whatever is there", at(9), vault.Write{Puts: []vault.Item{item("k", -1, "v")}}, 1},
		{"whatever is not there", nil, vault.Write{Puts: []vault.Item{item("k", -1, "v")}}, 1},
		{"delete", at(4), vault.Write{Deletes: []vault.Item{item("k", 4, "")}}, 4},
		{"delete whatever", at(4), vault.Write{Deletes: []vault.Item{item("k", -1, "")}}, 4},
		{"delete of another version", at(4), vault.Write{Deletes: []vault.Item{item("k", 3, "")}}, 0},
		{"delete of nothing", nil, vault.Write{Deletes: []vault.Item{item("k", -1, "")}}, 0},
		{"first global version", nil, vault.Write{GlobalVersion: global(0), Puts: []vault.Item{item("k", 0, "v")}}, 1},
		{"wrong global version", nil, vault.Write{GlobalVersion: global(1), Puts: []vault.Item{item("k", 0, "v")}}, 0},
		{
			"one of two conflicts", at(4),
			vault.Write{Puts: []vault.Item{item("new", 0, "v"), item("k", 3, "v")}},
			0,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan, err := vault.Decide(account(t), c.held, c.write, wide(), noon())
			if c.after == 0 {
				require.ErrorIs(t, err, errkind.Conflict)
				require.ErrorIs(t, err, vault.ErrConflict)
				require.Empty(t, plan.Changes)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.after, plan.Changes[0].Entry.Version)
			require.EqualValues(t, len(plan.Changes), plan.Account.Seq)
		})
	}
}

func TestDeletingTwiceIsNoError(t *testing.T) {
	for _, held := range []map[string]vault.Held{nil, {"k": {Version: 2, Size: 1, Seq: 1, Created: 1}}} {
		w := vault.Write{Deletes: []vault.Item{item("k", 1, "")}, Idempotent: true}
		plan, err := vault.Decide(account(t), held, w, wide(), noon())
		require.NoError(t, err)
		require.Empty(t, plan.Changes)
		require.Equal(t, account(t).Head, plan.Account.Head)
	}
}

func TestInvalid(t *testing.T) {
	many := make([]vault.Item, vault.MaxItems)
	for i := range many {
		many[i] = item(strings.Repeat("k", 10)+string(rune('a'+i)), 0, "")
	}
	require.NoError(t, vault.Write{Puts: many}.Check())
	require.NoError(t, vault.Write{Store: strings.Repeat("é", 120), Puts: []vault.Item{item(strings.Repeat("é", 600), 0, "")}}.Check())
	for name, w := range map[string]vault.Write{
		"1,001 items":      {Puts: many, Deletes: []vault.Item{item("x", 1, "")}},
		"a key twice":      {Puts: []vault.Item{item("k", 0, ""), item("k", 1, "")}},
		"put and delete":   {Puts: []vault.Item{item("k", 0, "")}, Deletes: []vault.Item{item("k", 1, "")}},
		"no key":           {Puts: []vault.Item{item("", 0, "")}},
		"long key":         {Puts: []vault.Item{item(strings.Repeat("k", 601), 0, "")}},
		"not UTF-8":        {Puts: []vault.Item{item("\xff", 0, "")}},
		"long store":       {Store: strings.Repeat("s", 121)},
		"version -2":       {Puts: []vault.Item{item("k", -2, "")}},
		"the last version": {Puts: []vault.Item{item("k", math.MaxInt64, "")}},
		"global -2":        {GlobalVersion: global(-2)},
		"reserved key":     {Puts: []vault.Item{item(vault.GlobalVersionKey, 0, "")}},
		"reserved delete":  {Deletes: []vault.Item{item(vault.GlobalVersionKey, -1, "")}},
	} {
		_, err := vault.Decide(account(t), nil, w, wide(), noon())
		require.ErrorIs(t, err, errkind.Invalid, name)
	}
}

func TestQuotas(t *testing.T) {
	full := account(t)
	full.Usage = vault.Usage{Bytes: 100, Objects: 2, Day: vault.DayOf(noon()), DayWrites: 5, DayBytes: 500}
	held := map[string]vault.Held{"k": {Version: 1, Size: 60, Seq: 1, Created: 1}}
	quota := vault.Quota{Bytes: 100, Objects: 2, ObjectBytes: 80, DayWrites: 10, DayBytes: 1000, HistoryBytes: 1}
	put := func(key string, version int64, size int) vault.Write {
		return vault.Write{Puts: []vault.Item{item(key, version, strings.Repeat("x", size))}}
	}
	for _, c := range []struct {
		name  string
		write vault.Write
		quota func(*vault.Quota)
		ok    bool
	}{
		{"same size", put("k", 1, 60), nil, true},
		{"grows", put("k", 1, 61), nil, false},
		{"another object", put("n", 0, 0), nil, false},
		{"swap one for one", vault.Write{Puts: []vault.Item{item("n", 0, "v")}, Deletes: []vault.Item{item("k", 1, "")}}, nil, true},
		{"value too large", put("k", 1, 81), func(q *vault.Quota) { q.Bytes = 1000 }, false},
		{"last write of the day", put("k", 1, 1), func(q *vault.Quota) { q.DayWrites = 6 }, true},
		{"one write too many", put("k", 1, 1), func(q *vault.Quota) { q.DayWrites = 5 }, false},
		{"bytes of the day", put("k", 1, 60), func(q *vault.Quota) { q.DayBytes = 559 }, false},
		{"a lowered quota lets replace", put("k", 1, 60), func(q *vault.Quota) { q.Bytes, q.Objects = 50, 1 }, true},
		{"and delete", vault.Write{Deletes: []vault.Item{item("k", 1, "")}}, func(q *vault.Quota) { q.Bytes, q.Objects = 50, 1 }, true},
		{"an old view is told first", put("k", 9, 10_000), nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := quota
			if c.quota != nil {
				c.quota(&q)
			}
			_, err := vault.Decide(full, held, c.write, q, noon())
			switch {
			case c.ok:
				require.NoError(t, err)
			case c.name == "an old view is told first":
				require.ErrorIs(t, err, vault.ErrConflict)
			default:
				require.ErrorIs(t, err, errkind.Exhausted)
				require.ErrorIs(t, err, vault.ErrQuota)
				require.NotEmpty(t, errkind.Sentence(err))
			}
		})
	}
	q := quota
	q.DayWrites = 5
	_, err := vault.Decide(full, held, put("k", 1, 1), q, noon().Add(12*time.Hour))
	require.NoError(t, err, "the next day counts anew")
	_, err = vault.Decide(full, held, put("k", 1, 1), q, noon().Add(-24*time.Hour))
	require.ErrorIs(t, err, vault.ErrQuota, "a clock set back does not open the day before")

	own := full
	own.Own = vault.Quota{Bytes: 200}
	_, err = vault.Decide(own, held, put("k", 1, 80), quota, noon())
	require.NoError(t, err, "the operator allowed this identity more")
	own.Blocked = true
	_, err = vault.Decide(own, held, put("k", 1, 1), quota, noon())
	require.ErrorIs(t, err, errkind.Denied)

	require.NoError(t, quota.Check())
	require.Error(t, vault.Quota{}.Check())
}

func TestDays(t *testing.T) {
	require.EqualValues(t, 0, vault.DayOf(time.UnixMilli(0)))
	require.EqualValues(t, 0, vault.DayOf(time.UnixMilli(86_399_999)))
	require.EqualValues(t, 1, vault.DayOf(time.UnixMilli(86_400_000)))
	require.EqualValues(t, -1, vault.DayOf(time.UnixMilli(-1)))
	require.EqualValues(t, -1, vault.DayOf(time.UnixMilli(-86_400_000)))
}

func TestIdentity(t *testing.T) {
	id, err := vault.NewIdentity(vault.SchemeToken, "02ab")
	require.NoError(t, err)
	other, err := vault.NewIdentity(vault.SchemeSignature, "02ab")
	require.NoError(t, err)
	require.NotEqual(t, id, other, "a token cannot name somebody's key")
	require.NotEqual(t, id.Owner(), other.Owner())
	parsed, err := vault.ParseIdentity(string(id))
	require.NoError(t, err)
	require.Equal(t, id, parsed)
	for _, bad := range []string{"", "02ab", "jwt:", "root:x", "jwt:" + strings.Repeat("x", 121), "jwt:a\nb", "jwt:\xff"} {
		_, err := vault.ParseIdentity(bad)
		require.ErrorIs(t, err, errkind.Invalid, bad)
	}
}

func TestRetention(t *testing.T) {
	day := func(d, hour int) int64 {
		return noon().AddDate(0, 0, -d).Add(time.Duration(hour-12) * time.Hour).UnixMilli()
	}
	past := []vault.Past{
		{Seq: 1, AtMs: day(40, 9)},
		{Seq: 2, AtMs: day(3, 9)},
		{Seq: 3, AtMs: day(3, 10)},
		{Seq: 4, AtMs: day(2, 9)},
		{Seq: 5, AtMs: day(0, 1)},
		{Seq: 6, AtMs: day(0, 2)},
		{Seq: 7, AtMs: day(0, 3)},
	}
	for _, c := range []struct {
		name string
		r    vault.Retention
		gone bool
		drop []uint64
	}{
		{"days only", vault.Retention{Days: 30}, false, []uint64{6, 5, 2, 1}},
		{"two versions and days", vault.Retention{Versions: 2, Days: 30}, false, []uint64{5, 2, 1}},
		{"versions only", vault.Retention{Versions: 3}, false, []uint64{4, 3, 2, 1}},
		{"all", vault.Retention{Versions: 100}, false, nil},
		{"deleted: nothing older than the days", vault.Retention{Versions: 100, Days: 30}, true, []uint64{1}},
		{"deleted, without days", vault.Retention{Versions: 100}, true, []uint64{7, 6, 5, 4, 3, 2, 1}},
		{"nothing", vault.Retention{}, false, []uint64{7, 6, 5, 4, 3, 2, 1}},
	} {
		require.Equal(t, c.drop, c.r.Drop(past, c.gone, noon()), c.name)
	}
	sized := []vault.Past{{Seq: 9, Size: 10}, {Seq: 2, Size: 10}, {Seq: 4, Size: 10}}
	require.Empty(t, vault.DropOver(sized, 30))
	require.Equal(t, []uint64{2}, vault.DropOver(sized, 29))
	require.Equal(t, []uint64{2, 4, 9}, vault.DropOver(sized, 0))
}
