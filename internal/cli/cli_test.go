package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/ln"
)

func TestAmounts(t *testing.T) {
	require.Equal(t, "0", Group(0))
	require.Equal(t, "999", Group(999))
	require.Equal(t, "1,000", Group(1000))
	require.Equal(t, "18,446,744,073,709,551,615", Group(math.MaxUint64))
	require.Equal(t, "1 sat", MsatAsSat(1000))
	require.Equal(t, "0.001 sat", MsatAsSat(1))
	require.Equal(t, "-1.500 sat", SignedMsatAsSat(-1500))
	require.Equal(t, "-9,223,372,036,854,775.808 sat", SignedMsatAsSat(math.MinInt64))
}

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ms", 999 * time.Millisecond: "999 ms", 1500 * time.Millisecond: "1.50 s", 61 * time.Second: "1 min 1 s",
		25*time.Hour + time.Minute: "25 h 1 min", 49 * time.Hour: "2 d 1 h", -time.Second: "-1.00 s",
	} {
		require.Equal(t, want, Duration(d))
	}
	now := time.UnixMilli(100_000)
	require.Equal(t, "-", Ago(0, now))
	require.Equal(t, "0 s ago", Ago(200_000, now), "a clock that is ahead is not the future")
}

// A cap is never shown as free when something is used, nor exceeded when not.
func TestPercent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		used, limit := rapid.Uint64().Draw(t, "used"), rapid.Uint64Min(1).Draw(t, "limit")
		percent, ok := Percent(used, limit)
		require.True(t, ok)
		require.Equal(t, used == 0, percent == 0)
		require.Equal(t, used > limit, percent > 100)
		require.LessOrEqual(t, percent, uint64(999))
		require.Len(t, Bar(used, limit, 20), 22)
	})
	_, ok := Percent(5, 0)
	require.False(t, ok)
	require.Equal(t, "[#...]", Bar(1, math.MaxUint64, 4))
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"plain", "a\x1b[2Jb", "two\nlines\r\n", "\u202egnp.exe", "\xff\xfe", "\x9b31m", "ü→"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s)
		require.True(t, utf8.ValidString(got))
		for _, r := range got {
			require.False(t, r < 0x20 || r >= 0x7f && r < 0xa0, "control character %U in %q", r, got)
			require.NotEqual(t, '\u202e', r)
		}
		require.Equal(t, got, Clean(got))
	})
}

func TestTableAligns(t *testing.T) {
	table := NewTable("NAME", ">SUM", "NOTE")
	table.Row("é", "1", "")
	table.Row("longer", "1,000", "ends\x1b[0m here", "dropped")
	var b strings.Builder
	require.NoError(t, table.Write(&b))
	require.Equal(t, "NAME      SUM  NOTE\né           1\nlonger  1,000  ends[0m here\n", b.String())
}

func TestWrap(t *testing.T) {
	require.Equal(t, "one two\n  three\n  muchtoolongword\n  x", Wrap("one two three muchtoolongword x", 7, 2))
}

func TestScreenWithoutTerminalPrintsChangesOnly(t *testing.T) {
	var b strings.Builder
	s := NewScreen(&b)
	for _, text := range []string{"a\n", "a\n", "b\n"} {
		require.NoError(t, s.Show(text))
	}
	require.Equal(t, "a\nb\n", b.String())
}

func TestScreenOnTerminalRedraws(t *testing.T) {
	var b strings.Builder
	s := &Screen{w: &b, terminal: true, width: func() int { return 4 }}
	require.NoError(t, s.Show("one\nmuch too long\n"))
	require.NoError(t, s.Show("x\n"))
	require.Equal(t, "\r\x1b[Jone\nmuch\n\x1b[2A\r\x1b[Jx\n", b.String(), "a wrapped line would upset the count of lines to go up")
}

func TestExplain(t *testing.T) {
	target := Target{Program: "lnd", Address: "localhost:10009", AddressFlag: "--lnd", CertFlag: "--lnd-tls-cert", MacaroonFlag: "--lnd-macaroon"}
	refused := status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp: connect: connection refused"`)
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"nobody there":         {refused, "lnd does not answer at localhost:10009"},
		"the adapter's":        {fmt.Errorf("ask: %w (lnd: %s)", ln.ErrUnavailable, status.Convert(refused).Message()), "lnd does not answer at localhost:10009"},
		"no TLS":               {status.Error(codes.Unavailable, "tls: first record does not look like a TLS handshake"), "does not speak TLS"},
		"other certificate":    {status.Error(codes.Unavailable, "authentication handshake failed: tls: failed to verify certificate: x509: unknown authority"), "shows a TLS certificate"},
		"too slow":             {status.FromContextError(context.DeadlineExceeded).Err(), "did not answer in time"},
		"too old":              {status.Error(codes.Unimplemented, "unknown service"), "does not offer this call"},
		"the server's own":     {status.Error(codes.Unavailable, "The database is away: try again in a moment."), "The database is away: try again in a moment."},
		"a wallet locked":      {fmt.Errorf("ask: %w (lnd: wallet locked, unlock it)", ln.ErrUnavailable), "wallet locked, unlock it"},
		"refused":              {status.Error(codes.PermissionDenied, "This call is for the operator"), "lnd refused the macaroon (none): This call is for the operator. Name another with --lnd-macaroon"},
		"not from any server":  {errors.New("odd"), "odd"},
		"steering the display": {status.Error(codes.NotFound, "no \x1b[2Jsuch\nthing"), "no [2Jsuch thing"},
	} {
		t.Run(name, func(t *testing.T) { require.ErrorContains(t, target.Explain(tt.err), tt.want) })
	}
	require.NoError(t, target.Explain(nil))
	// What can never be is a wrong command line; what is so only now is not.
	require.Equal(t, ExitUsage, ExitCode(target.Explain(status.Error(codes.InvalidArgument, "There is no limit of that name."))))
	require.Equal(t, 1, ExitCode(target.Explain(status.Error(codes.NotFound, "There is no such payment."))))
}
