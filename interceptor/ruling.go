package interceptor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// ProgramsHandler is whose rows the HTLCs are that programs of others decided
// about or hold.
const ProgramsHandler = "programs"

// Ruling is what programs of others say about a forward that no handler claims.
type Ruling struct {
	// Action is Resume, Fail, Settle, or ActionHold.
	Action Action
	// Preimage is set for Settle.
	Preimage ln.Preimage
	// Send is what a Resume changes.
	Send Sending
	// Ballot, of a Hold, is who still has to answer. It is stored with the row.
	Ballot string
	Reason string
}

// ActionHold, of a Ruling, records the HTLC as held until there is another.
const ActionHold Action = "hold"

// Sending is what a resumed HTLC is forwarded with, where that is not as its
// onion asks. The zero value changes nothing.
type Sending struct {
	// Msat, when not 0, is the amount: never more than the onion asks.
	Msat    ln.Msat
	Records WireRecords
}

// IsZero reports that nothing is changed.
func (s Sending) IsZero() bool { return s == Sending{} }

// Within reports that the amount takes nothing from the gateway.
func (s Sending) Within(incoming, outgoing ln.Msat) bool { return s.Msat <= min(incoming, outgoing) }

// WireRecords are custom records for update_add_htlc, encoded one way only: by
// rising type, each as 8 bytes of type, 4 bytes of length, and the value.
type WireRecords string

const (
	// minRecord is where BOLT 1 begins custom records.
	minRecord = 65536
	// maxRecords bounds what is stored and sent for one HTLC, in bytes.
	maxRecords = 4096
)

// NewWireRecords encodes records.
func NewWireRecords(records map[uint64][]byte) WireRecords {
	var out []byte
	for _, kind := range slices.Sorted(maps.Keys(records)) {
		out = binary.BigEndian.AppendUint64(out, kind)
		out = binary.BigEndian.AppendUint32(out, uint32(len(records[kind]))) //nolint:gosec // Validate bounds it
		out = append(out, records[kind]...)
	}
	return WireRecords(out)
}

// Map decodes the records.
func (w WireRecords) Map() (map[uint64][]byte, error) {
	out := make(map[uint64][]byte)
	last := uint64(0)
	for rest := []byte(w); len(rest) > 0; {
		if len(rest) < 12 {
			return nil, errors.New("custom records end early")
		}
		kind, size := binary.BigEndian.Uint64(rest), binary.BigEndian.Uint32(rest[8:])
		if rest = rest[12:]; uint64(size) > uint64(len(rest)) {
			return nil, errors.New("custom records end early")
		}
		if len(out) > 0 && kind <= last {
			return nil, errors.New("custom records are not in order")
		}
		out[kind], rest, last = rest[:size:size], rest[size:], kind
	}
	return out, nil
}

// Validate checks what lnd checks, and the size.
func (w WireRecords) Validate() error {
	if len(w) > maxRecords {
		return fmt.Errorf("custom records of %d bytes, more than %d", len(w), maxRecords)
	}
	records, err := w.Map()
	if err != nil {
		return err
	}
	for kind := range records {
		if kind < minRecord {
			return fmt.Errorf("custom record of type %d: types begin at %d", kind, minRecord)
		}
	}
	return nil
}
