package recovery

import (
	"fmt"
	"strings"

	"github.com/sluice-lsp/sluice/backupsvc/vault"
)

// Found is what one provider had to show at a restore.
type Found struct {
	Place, Name string
	// Err says why it did not answer. Damaged says that it answered with
	// something that does not open. With neither, and without a snapshot, it has
	// nothing.
	Err, Damaged string
	Snapshot     *Snapshot
	Witness      *Witness
	// Shown is its log's head over a fresh nonce, where it gives receipts. Suspect
	// says what is wrong with its log by what is known of it: it may have lost
	// anything.
	Shown   *vault.SignedHead
	Suspect string
}

// Snapshot is a thing's version that opened: of the channels, if nothing else
// is said.
type Snapshot struct {
	Ref
	Device   string
	Channels []string
}

// answered says that a provider told what it has; whether that is true is
// another question.
func (f Found) answered() bool { return f.Err == "" && f.Damaged == "" }

// Known gives the newest that the others keep of one of the providers. One
// that is reached at another address now, a stick that is mounted elsewhere, is
// known by where it was when its own witness was written.
func Known(found []Found, of Found) (Mark, bool) {
	var (
		best Mark
		ok   bool
	)
	for _, f := range found {
		if f.Witness == nil || f.Place == of.Place {
			continue
		}
		for _, m := range f.Witness.Marks {
			same := m.Place == of.Place || of.Witness != nil && m.Place == of.Witness.At
			switch {
			case same && ok:
				best = best.join(m)
			case same:
				best, ok = m, true
			}
		}
	}
	return best, ok
}

// Choice is what to restore, and what speaks against it.
type Choice struct {
	// Best is the index of the newest version; -1 without any.
	Best int
	// Against are reasons why a newer one may exist. With any, nothing is
	// restored unless the owner says so.
	Against []string
	// Notes tell of providers that showed less than they acknowledged.
	Notes map[string]string
}

// Choose finds the newest version of a thing, of which each provider's snapshot
// is. require is at how many providers the owner
// says that each version was wanted, 0 if all or unsaid; what the providers keep
// of the lost machine's settings counts as well.
func Choose(found []Found, name string, require int) Choice {
	c := Choice{Best: -1, Notes: map[string]string{}}
	require = wanted(found, require)
	var t tally
	t.away = missing(found)
	for i, f := range found {
		m, _ := Known(found, f)
		had, known := m.Things[name]
		switch {
		case !f.answered():
			t.away++
			continue
		case f.Snapshot == nil && known:
			c.Notes[f.Place] = fmt.Sprintf("has nothing, but acknowledged version %d", had.Number)
		case f.Snapshot != nil && known && had.Newer(f.Snapshot.Ref):
			c.Notes[f.Place] = fmt.Sprintf("shows version %d, but acknowledged version %d", f.Snapshot.Number, had.Number)
		case f.Suspect != "":
			c.Notes[f.Place] = f.Suspect
		}
		if c.Notes[f.Place] != "" {
			t.untrue++
		}
		switch {
		case f.Snapshot == nil:
			t.empty++
		case c.Best < 0 || f.Snapshot.Newer(found[c.Best].Snapshot.Ref):
			c.Best = i
		}
	}
	if c.Best < 0 {
		c.Against = append(c.Against, fmt.Sprintf("no backup was found: %d provider(s) have nothing, %d did not answer with anything that opens", t.empty, t.away))
		return c
	}
	c.Against = against(found, name, found[c.Best].Snapshot.Ref, t, require)
	return c
}

// tally counts providers that a newer version may be at.
type tally struct{ away, untrue, empty int }

// wanted is at how many providers each version was wanted: the least that the
// owner or any witness says. A provider that was away, or that went back, shows
// the witness of its time, when more may have been wanted; and the more were
// wanted, the more must be away before a restore is refused.
func wanted(found []Found, configured int) int {
	least := configured
	for _, f := range found {
		if w := f.Witness; w != nil && w.Require > 0 && (least == 0 || w.Require < least) {
			least = w.Require
		}
	}
	if least == 0 {
		least = len(found)
	}
	return max(least, 1)
}

// missing counts the lost machine's providers that were not even asked.
func missing(found []Found) int {
	of, asked, marked := 0, map[string]bool{}, map[string]bool{}
	for _, f := range found {
		asked[f.Place] = true
		if f.Witness == nil {
			continue
		}
		asked[f.Witness.At] = true
		of = max(of, f.Witness.Of)
		for _, m := range f.Witness.Marks {
			marked[m.Place] = true
		}
	}
	gone := 0
	for place := range marked {
		if !asked[place] {
			gone++
		}
	}
	return max(of-len(found), gone)
}

// against names why a version newer than best may exist.
func against(found []Found, name string, best Ref, t tally, require int) (out []string) {
	named := map[string]bool{}
	for _, f := range found {
		if f.Witness == nil {
			continue
		}
		for _, m := range f.Witness.Marks {
			if had := m.Things[name]; had.Newer(best) && !named[m.Place] {
				named[m.Place] = true
				out = append(out, fmt.Sprintf("%s acknowledged version %d; the newest that could be read is %d", m.Name, had.Number, best.Number))
			}
		}
	}
	// Every version that counted as backed up is at require providers. If so many
	// are away, or do not show what they had, a newer one may be at them alone.
	if n := t.away + t.untrue; n > 0 && n >= require {
		var who []string
		if t.away > 0 {
			who = append(who, fmt.Sprintf("%d provider(s) did not answer with anything that opens", t.away))
		}
		if t.untrue > 0 {
			who = append(who, fmt.Sprintf("%d showed less than acknowledged", t.untrue))
		}
		out = append(out, fmt.Sprintf("%s, and each version was wanted at %d: a newer one may have been there alone", strings.Join(who, ", "), require))
	}
	return out
}
