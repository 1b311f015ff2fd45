package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/lightningnetwork/lnd/watchtower/blob"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

// samples asks some updates back, old acquaintances and new ones. What can be
// shown is that there is one of the right size under a number that was
// acknowledged, and that it is what it was when it was first asked for.
func samples(ctx context.Context, r *Report, picked []Sample, types map[ln.PubKey]blob.Type, record Record, tower towerv1.TowerServiceClient) (seen, wrong []Sample, err error) {
	for _, s := range picked {
		got, err := tower.GetUpdates(ctx, &towerv1.GetUpdatesRequest{SessionId: s.Session[:], Seq: uint32(s.Seq)})
		if errkind.Of(err) == errkind.NotFound {
			got, err = &towerv1.GetUpdatesResponse{}, nil
		}
		if err != nil {
			return seen, wrong, err
		}
		r.Sampled++
		digest, problem := judge(got.GetUpdates(), types[s.Session])
		if before, ok := record.sample(s.Session, s.Seq); problem == "" && ok && before.Digest != digest {
			problem = "is not what it gave back before"
		}
		if problem != "" {
			r.Alarms = append(r.Alarms, fmt.Sprintf("update %d of session %s, which it acknowledged, %s", s.Seq, s.Session.Short(), problem))
			wrong = append(wrong, s)
			continue
		}
		s.Digest = digest
		seen = append(seen, s)
	}
	return seen, wrong, nil
}

// judge looks at what is held under one number.
func judge(held []*towerv1.HeldUpdate, kind blob.Type) (digest ln.Hash, problem string) {
	if len(held) == 0 {
		return digest, "is not there"
	}
	commitment, err := kind.CommitmentType(nil)
	if err != nil {
		return digest, "is of a type that no lnd has"
	}
	kit, err := commitment.EmptyJusticeKit()
	if err != nil {
		return digest, "is of a type that no lnd has"
	}
	var each [][]byte
	for _, h := range held {
		if len(h.GetHint()) != len(blob.BreachHint{}) || len(h.GetBlob()) != blob.Size(kit) {
			return digest, "does not have its size"
		}
		each = append(each, append(slices.Clone(h.GetHint()), h.GetBlob()...))
	}
	slices.SortFunc(each, bytes.Compare)
	return ln.Hash(sha256.Sum256(slices.Concat(each...))), ""
}

// pick draws numbers that were acknowledged: up to half of them from the record,
// the others from all, beside those that are suspected.
func pick(t ln.ClientTower, record Record, suspected []Sample, n int, random io.Reader) (out []Sample, err error) {
	draw := func(below uint64) uint64 {
		var b [8]byte
		if _, readErr := io.ReadFull(random, b[:]); readErr != nil {
			err = fmt.Errorf("draw a sample: %w", readErr)
		}
		return binary.BigEndian.Uint64(b[:]) % below
	}
	add := func(s Sample) {
		if !slices.ContainsFunc(out, func(o Sample) bool { return o.Session == s.Session && o.Seq == s.Seq }) {
			out = append(out, s)
		}
	}
	unknown := func(s Sample) bool {
		return !slices.ContainsFunc(t.Sessions, func(k ln.ClientSession) bool { return k.ID == s.Session && uint32(s.Seq) <= k.Acknowledged })
	}
	for _, s := range slices.DeleteFunc(slices.Clone(suspected), unknown) {
		add(s)
	}
	old := slices.DeleteFunc(slices.Clone(record.Samples), unknown)
	for range n / 2 {
		if len(old) == 0 || err != nil {
			break
		}
		s := old[draw(uint64(len(old)))]
		add(Sample{Session: s.Session, Seq: s.Seq})
	}
	var total uint64
	for _, s := range t.Sessions {
		total += uint64(s.Acknowledged)
	}
	for range n - n/2 {
		if total == 0 || err != nil {
			break
		}
		at := draw(total)
		for _, s := range t.Sessions {
			if at < uint64(s.Acknowledged) {
				add(Sample{Session: s.ID, Seq: uint16(at + 1)}) //nolint:gosec // a session has at most 65,535
				break
			}
			at -= uint64(s.Acknowledged)
		}
	}
	return out, err
}
