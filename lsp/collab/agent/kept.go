package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// Only what is signed is kept. A copy is older than what it is of: a record that was not
// signed then may be by now, and whoever took it for unsigned would give up a channel that
// the LSP can publish. Of a signed one the chain says what became of it, however old it is.

// Backup is what a wallet restored from its seed needs of the joint fundings in a data
// directory; nil while there never was one.
func Backup(dataDir string) ([]byte, error) {
	dir := filepath.Join(dataDir, Dir)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	list, err := (&records{dir: dir}).all()
	if err != nil || len(list) == 0 {
		return nil, err
	}
	signed := []Record{}
	for _, r := range list {
		if r.Phase == PhaseSigned {
			signed = append(signed, r)
		}
	}
	return json.MarshalIndent(signed, "", " ")
}

// Restore puts the records of a backup into a data directory, and gives the keys of those
// that it put. One that is there stays. No agent may run on the directory.
func Restore(dataDir string, backup []byte) (keys []string, err error) {
	var list []Record
	if err := json.Unmarshal(backup, &list); err != nil {
		return nil, errkind.Wrap(errkind.Invalid, err, "the backup of joint fundings cannot be read")
	}
	s, err := openRecords(filepath.Join(dataDir, Dir))
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		if r.Phase != PhaseSigned || r.Channel.IsZero() || len(r.Inputs) == 0 {
			return keys, errkind.Newf(errkind.Invalid, "the backup has the joint funding %s, which is not a signed one", r.Key())
		}
		_, err := os.Stat(filepath.Join(s.dir, r.Key()+recordSuffix))
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrNotExist) {
			return keys, fmt.Errorf("joint funding %s: %w", r.Key(), err)
		}
		r.Restored = true
		if err := s.put(r); err != nil {
			return keys, err
		}
		keys = append(keys, r.Key())
	}
	return keys, nil
}

// knowFor is how many change addresses a restored wallet derives to find that of a funding.
const knowFor = 500

// knowChange has a wallet that was made anew from its seed derive the address of its
// change. It found the addresses that were on the chain by then, and this one was not: it
// would not see the change, nor what it takes back.
func (a *Agent) knowChange(ctx context.Context, r Record) (Record, error) {
	if !r.Restored || r.ChangeKnown || r.Elsewhere {
		return r, nil
	}
	info, err := a.ports.Chain.Info(ctx)
	if err != nil {
		return r, err
	}
	for range knowFor {
		address, err := a.ports.Chain.NewChangeAddress(ctx)
		if err != nil {
			return r, err
		}
		script, err := funding.ScriptOf(address, info.Network)
		if err != nil {
			return r, err
		}
		if bytes.Equal(script, r.ChangeScript) {
			r.ChangeKnown = true
			return r, a.save(r)
		}
	}
	// The wallet is beyond it: it knew the address, or it is found by a rescan only.
	a.log.Warn("the address of a joint funding's change is not among the next ones of the restored wallet: if the change is not in the wallet once it is confirmed, start lnd once with --reset-wallet-transactions", zap.String("joint", r.Key()))
	r.ChangeKnown = true
	return r, a.save(r)
}
