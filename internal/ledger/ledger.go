// Package ledger keeps the books: double entry, in whole millisatoshis. It
// promises that every entry sums to zero, is posted once however often it is
// tried, and is durable exactly when the state change that it belongs to is,
// because it is posted in that transaction.
//
// Amounts are signed: debits are positive, credits negative. So what we own
// (channels/…, closing/…, onchain) and what we spent (expense/…) has positive
// balances, and what we earned (income/…, equity/…) negative ones.
package ledger

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

var (
	// ErrUnbalanced says that an entry's lines don't sum to zero.
	ErrUnbalanced = errors.New("the entry's lines do not sum to zero")

	// ErrInvalid says that an entry breaks another rule.
	ErrInvalid = errors.New("invalid ledger entry")

	// ErrKeyReused says that an entry with this key but other lines exists.
	ErrKeyReused = errors.New("a different ledger entry has this key")

	// ErrOverflow says that a sum left the range of int64.
	ErrOverflow = errors.New("ledger sum overflows")
)

// MaxLineMsat bounds one line: 21 million bitcoin in msat.
const MaxLineMsat = 21_000_000 * 100_000_000 * 1000

// Account is a path such as "channels/chan/<outpoint>", "onchain",
// "income/opening_fee", "expense/chain_fee" or "equity/outside".
type Account string

// Line moves an amount in (positive) or out (negative) of an account.
type Line struct {
	Account    Account
	AmountMsat int64
}

// Entry is a group of lines that belong together.
type Entry struct {
	// Key makes posting idempotent: derive it from what happened (the
	// transition's id and number, the txid), never at random.
	Key string

	// At is when it happened.
	At time.Time

	// Reason is a few words for the person who reads the books.
	Reason string

	// Reference ties entries together: a payment id, a txid.
	Reference string

	// Lines sum to zero.
	Lines []Line
}

// Move is the entry body of the commonest case: amountMsat goes from one
// account to another.
func Move(from, to Account, amountMsat int64) []Line {
	return []Line{{Account: to, AmountMsat: amountMsat}, {Account: from, AmountMsat: -amountMsat}}
}

// Validate checks an entry without posting it.
func (e Entry) Validate() error {
	switch {
	case e.Key == "":
		return fmt.Errorf("%w: it has no key", ErrInvalid)
	case e.Reason == "":
		return fmt.Errorf("%w: entry %q has no reason", ErrInvalid, e.Key)
	case e.At.IsZero():
		return fmt.Errorf("%w: entry %q has no time", ErrInvalid, e.Key)
	case len(e.Lines) < 2:
		return fmt.Errorf("%w: entry %q has fewer than two lines", ErrInvalid, e.Key)
	}
	var sum int64
	for _, line := range e.Lines {
		if !validAccount(line.Account) {
			return fmt.Errorf("%w: entry %q: account %q is not a path of letters, digits and ._:-", ErrInvalid, e.Key, line.Account)
		}
		if line.AmountMsat == 0 || line.AmountMsat > MaxLineMsat || line.AmountMsat < -MaxLineMsat {
			return fmt.Errorf("%w: entry %q: amount %d msat on %q", ErrInvalid, e.Key, line.AmountMsat, line.Account)
		}
		var err error
		if sum, err = add(sum, line.AmountMsat); err != nil {
			return fmt.Errorf("entry %q: %w", e.Key, err)
		}
	}
	if sum != 0 {
		return fmt.Errorf("entry %q is off by %d msat: %w", e.Key, sum, ErrUnbalanced)
	}
	return nil
}

func validAccount(a Account) bool {
	if a == "" || len(a) > 255 {
		return false
	}
	for part := range strings.SplitSeq(string(a), "/") {
		if part == "" || strings.ContainsFunc(part, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._:-", r))
		}) {
			return false
		}
	}
	return true
}

func add(a, b int64) (int64, error) {
	if (b > 0 && a > math.MaxInt64-b) || (b < 0 && a < math.MinInt64-b) {
		return 0, fmt.Errorf("%d msat + %d msat: %w", a, b, ErrOverflow)
	}
	return a + b, nil
}

// digest identifies what an entry says, whatever the order of its lines. Time
// is left out: a repeated attempt may carry a later one.
func (e Entry) digest() []byte {
	lines := slices.Clone(e.Lines)
	slices.SortFunc(lines, func(a, b Line) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.AmountMsat, b.AmountMsat))
	})
	h := sha256.New()
	field := func(s string) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	field(e.Reference)
	for _, line := range lines {
		field(string(line.Account))
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(line.AmountMsat))
		h.Write(n[:])
	}
	return h.Sum(nil)
}
