package ln

import "time"

// Moment is when an event happened: every event of every machine carries the
// time and the best block height known to the gateway then, so that a machine
// needs neither clock nor chain.
type Moment struct {
	At time.Time `json:"at"`
	// Height is 0 when it was not known.
	Height uint32 `json:"height,omitempty"`
}

// EventTime gives the event's time to the engine.
func (m Moment) EventTime() time.Time { return m.At }
