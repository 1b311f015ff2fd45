package gate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/lws/tenant/guard"
)

// FileStates has the last state of each channel that was signed for.
const FileStates = "channel.states"

// states keeps the last commitment of each channel that the signer was asked to sign. It
// is what tells an old copy of the node's database from the present one when nobody else
// can (docs/recovery.md), so it is on the disk before the signer is asked.
//
// Each channel has two places in the file, which are written in turn: a crash in the
// middle of one leaves the other.
type states struct {
	file *os.File
	at   map[wire.OutPoint]*place
	// broken: a write failed, and what the file has is not known.
	broken error
}

// place is a channel's in the file.
type place struct {
	first int64
	count uint64
	last  guard.Signed
}

// A record: channel (36), count (8), transaction (32), lock time, sequence (4 each), and
// the CRC-32C of these.
const (
	recordBody = 36 + 8 + 32 + 4 + 4
	recordSize = recordBody + 4
	places     = 2
)

// State is the last commitment of a channel that was signed for, and how many were.
type State struct {
	guard.Signed
	Count uint64
}

func castagnoli(raw []byte) uint32 { return crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli)) }

func record(s guard.Signed, count uint64) []byte {
	raw := make([]byte, 0, recordSize)
	raw = append(raw, s.Channel.Hash[:]...)
	raw = binary.BigEndian.AppendUint32(raw, s.Channel.Index)
	raw = binary.BigEndian.AppendUint64(raw, count)
	raw = append(raw, s.TxID[:]...)
	raw = binary.BigEndian.AppendUint32(raw, s.LockTime)
	raw = binary.BigEndian.AppendUint32(raw, s.Sequence)
	return binary.BigEndian.AppendUint32(raw, castagnoli(raw))
}

// parseRecord reads one; whole is false for one that was not finished.
func parseRecord(raw []byte) (s guard.Signed, count uint64, whole bool) {
	if len(raw) != recordSize || castagnoli(raw[:recordBody]) != binary.BigEndian.Uint32(raw[recordBody:]) {
		return s, 0, false
	}
	s.Channel.Hash = chainhash.Hash(raw[:32])
	s.Channel.Index = binary.BigEndian.Uint32(raw[32:])
	s.TxID = chainhash.Hash(raw[44:76])
	s.LockTime, s.Sequence = binary.BigEndian.Uint32(raw[76:]), binary.BigEndian.Uint32(raw[80:])
	return s, binary.BigEndian.Uint64(raw[36:]), true
}

func openStates(path string) (*states, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	at, err := readStates(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return &states{file: f, at: at}, nil
}

// readStates reads all of them. Places that were begun and not finished are the last ones:
// nothing was signed for them.
func readStates(r io.Reader) (map[wire.OutPoint]*place, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	out := map[wire.OutPoint]*place{}
	const pair = places * recordSize
	for from := 0; from < len(raw); from += pair {
		p := &place{first: int64(from)}
		for i := range places {
			begin := from + i*recordSize
			if begin >= len(raw) {
				break
			}
			s, count, whole := parseRecord(raw[begin:min(begin+recordSize, len(raw))])
			if whole && count > p.count {
				p.last, p.count = s, count
			}
		}
		if p.count == 0 {
			if from+pair < len(raw) {
				return nil, fmt.Errorf("the places at byte %d are damaged: which states were signed is not known. Keep a copy and move the file away; channels of before have no witness then", from)
			}
			continue
		}
		out[p.last.Channel] = p
	}
	return out, nil
}

// note puts a state on the disk.
func (s *states) note(c guard.Signed) error {
	if s.broken != nil {
		return s.broken
	}
	p := s.at[c.Channel]
	if p == nil {
		p = &place{first: int64(len(s.at)) * places * recordSize}
	}
	if p.count > 0 && p.last == c {
		return nil // the same once more
	}
	count := p.count + 1
	_, err := s.file.WriteAt(record(c, count), p.first+int64((count-1)%places)*recordSize) //nolint:gosec // two places
	if err == nil {
		err = s.file.Sync()
	}
	if s.broken = err; err != nil {
		return err
	}
	p.count, p.last = count, c
	s.at[c.Channel] = p
	return nil
}

func (s *states) close() error { return s.file.Close() }

// ReadStates reads a guard's witness, the guard running or not.
func ReadStates(dir string) (map[wire.OutPoint]State, error) {
	f, err := os.Open(join(dir, FileStates))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	all, err := readStates(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", FileStates, err)
	}
	out := make(map[wire.OutPoint]State, len(all))
	for point, p := range all {
		out[point] = State{Signed: p.last, Count: p.count}
	}
	return out, nil
}
