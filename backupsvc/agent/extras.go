package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluice-lsp/sluice/backupsvc/provider"
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
		for i, f := range found {
			for _, what := range []string{f.Err, f.Damaged, c.Notes[f.Place]} {
				// What is wrong with all of a provider's is told with its channels.
				if what != "" && what != s.Findings[i].Suspect {
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
		obj, contradicts, err := a.fits(ctx, &s.Findings[i], id)
		if contradicts {
			found[i].Suspect = "it serves something else than what its own log ends with"
		}
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

// fits reads something, and says whether it is not what the log ends with.
func (a *Agent) fits(ctx context.Context, f *Finding, id string) (obj provider.Object, contradicts bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	for range readAgain {
		obj, err = f.open.Get(ctx, id)
		if err != nil && !errors.Is(err, errkind.NotFound) || f.Shown == nil {
			return obj, false, err
		}
		if contradicts = f.proof.Contradicts(nil, id, obj.Value); !contradicts {
			return obj, false, err
		}
		// Another device wrote since, perhaps.
		if attested, ok := f.open.(provider.Attested); ok {
			if again, proveErr := attested.Prove(ctx, 0); proveErr == nil {
				f.proof = again
			}
		}
	}
	return obj, contradicts, err
}
