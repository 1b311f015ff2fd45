package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluice-lsp/sluice/backupsvc/recovery"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Extras reads the wallet's other things of a survey: of each the newest version
// that opens anywhere, judged as that of the channels is. While a newer one of a
// thing is known to exist, or may, it is left out unless the owner says so
// (older). told is what the owner should know.
func (a *Agent) Extras(ctx context.Context, s Survey, older bool) (content map[string][]byte, told []string, err error) {
	names := map[string]bool{}
	for _, f := range s.Findings {
		if f.Witness != nil {
			for _, n := range f.Witness.Names {
				names[n] = true
			}
		}
	}
	content = map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		found, payloads, err := a.copies(ctx, s, name)
		if err != nil {
			return nil, nil, err
		}
		c := recovery.Choose(found, name, s.require)
		for _, f := range found {
			for _, what := range []string{f.Err, f.Damaged, c.Notes[f.Place]} {
				// What is wrong with all of a provider's is told with its channels.
				if what != "" && what != f.Suspect {
					told = append(told, fmt.Sprintf("%s at %s: %s", name, f.Name, what))
				}
			}
		}
		switch {
		case c.Best < 0:
			told = append(told, fmt.Sprintf("%s is not restored: %s", name, strings.Join(c.Against, "; ")))
			continue
		case len(c.Against) > 0 && !older:
			told = append(told, fmt.Sprintf("%s is not restored: %s. --older restores what there is", name, strings.Join(c.Against, "; ")))
			continue
		}
		content[name] = payloads[c.Best]
	}
	return content, told, nil
}

// copies reads what each provider has of a thing.
func (a *Agent) copies(ctx context.Context, s Survey, name string) (found []recovery.Found, payloads [][]byte, err error) {
	id, err := a.cfg.Secret.ID(name)
	if err != nil {
		return nil, nil, err
	}
	found, payloads = s.found(), make([][]byte, len(s.Findings))
	for i, f := range s.Findings {
		found[i].Snapshot, found[i].Damaged = nil, ""
		if f.Err != "" || f.open == nil {
			continue
		}
		call, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
		obj, err := f.open.Get(call, id)
		cancel()
		if errors.Is(err, errkind.NotFound) {
			continue
		}
		if err != nil {
			found[i].Err = errkind.Told(err)
			continue
		}
		h, payload, err := a.cfg.Secret.Open(name, obj.Value)
		if err != nil {
			found[i].Damaged = errkind.Told(err)
			continue
		}
		found[i].Snapshot, payloads[i] = &recovery.Snapshot{Ref: refOf(h.Number, h.MadeMs, obj.Value), Device: h.Device}, payload
	}
	return found, payloads, nil
}
