package recovery

import (
	"fmt"

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
	// Shown is its log's head over a fresh nonce, where it gives receipts.
	Shown *vault.SignedHead
}

// Snapshot is a channel backup that opened.
type Snapshot struct {
	Ref
	Device   string
	Channels []string
}

// answered says that a provider told what it has; whether that is true is
// another question.
func (f Found) answered() bool { return f.Err == "" && f.Damaged == "" }

// Known gives the newest mark of a place that the other providers keep.
func Known(found []Found, place string) (Mark, bool) {
	var (
		best Mark
		ok   bool
	)
	for _, f := range found {
		if f.Witness == nil || f.Place == place {
			continue
		}
		for _, m := range f.Witness.Marks {
			if m.Place == place && (!ok || m.newer(best)) {
				best, ok = m, true
			}
		}
	}
	return best, ok
}

// Choice is what to restore, and what speaks against it.
type Choice struct {
	// Best is the index of the newest snapshot; -1 without any.
	Best int
	// Against are reasons why a newer one may exist. With any, nothing is
	// restored unless the owner says so.
	Against []string
	// Notes tell of providers that showed less than they acknowledged.
	Notes map[string]string
}

// Choose finds the newest snapshot. require is at how many providers each
// version was wanted by this machine's configuration; what the providers keep
// of the lost machine's goes before it.
func Choose(found []Found, require int) Choice {
	c := Choice{Best: -1, Notes: map[string]string{}}
	of := len(found)
	for _, f := range found {
		if f.Witness != nil && f.Witness.Require > 0 {
			require, of = f.Witness.Require, max(of, f.Witness.Of)
			break
		}
	}
	silent, empty := of-len(found), 0
	for i, f := range found {
		switch {
		case !f.answered():
			silent++
		case f.Snapshot == nil:
			empty++
		case c.Best < 0 || f.Snapshot.Newer(found[c.Best].Snapshot.Ref):
			c.Best = i
		}
	}
	for _, f := range found {
		m, ok := Known(found, f.Place)
		if !ok || !f.answered() {
			continue
		}
		switch {
		case f.Snapshot == nil:
			c.Notes[f.Place] = fmt.Sprintf("has nothing, but acknowledged version %d", m.Channels.Number)
		case m.Channels.Newer(f.Snapshot.Ref):
			c.Notes[f.Place] = fmt.Sprintf("shows version %d, but acknowledged version %d", f.Snapshot.Number, m.Channels.Number)
		}
	}
	if c.Best < 0 {
		c.Against = append(c.Against, fmt.Sprintf("no backup was found: %d provider(s) have nothing, %d did not answer with anything that opens", empty, silent))
		return c
	}
	c.Against = against(found, found[c.Best].Snapshot.Ref, silent, require)
	return c
}

// against names why a version newer than best may exist.
func against(found []Found, best Ref, silent, require int) (out []string) {
	named := map[string]bool{}
	for _, f := range found {
		if f.Witness == nil {
			continue
		}
		for _, m := range f.Witness.Marks {
			if m.Channels.Newer(best) && !named[m.Place] {
				named[m.Place] = true
				out = append(out, fmt.Sprintf("%s acknowledged version %d; the newest that could be read is %d", m.Name, m.Channels.Number, best.Number))
			}
		}
	}
	// Every version that counted as backed up is at require providers. If so
	// many are silent, a newer one may be at them alone.
	if silent > 0 && silent >= max(require, 1) {
		out = append(out, fmt.Sprintf("%d provider(s) did not answer with anything that opens, and each version was wanted at %d: a newer one may be there alone", silent, max(require, 1)))
	}
	return out
}
