package hosting

import (
	"slices"
	"time"
)

// State is how a node stands. The words are logged.
type State string

// The states.
const (
	Running  State = "running"
	Starting State = "starting"
	Waiting  State = "waiting"
	Draining State = "draining"
	Drained  State = "drained"
)

// Action is what is done now.
type Action string

// The actions. Each may be done twice.
const (
	Start Action = "start"
	// Disable tells the node's peers that its channels take nothing.
	Disable Action = "disable"
	// Enable takes that back.
	Enable Action = "enable"
	Stop   Action = "stop"
)

// Facts are what was seen.
type Facts struct {
	Now time.Time
	// Up says that the node's lnd answers, Serving that it serves every call.
	Up, Serving bool
	SignerUp    bool
	// HTLCs are those that the node's channels have; -1 if that is not known.
	HTLCs int
	// Drain is the wish that it stops.
	Drain bool
	// Elsewhere says that the node's key was claimed for another place.
	Elsewhere bool
}

// Backoff bounds the wait before a start: First, and twice as long each time, up to Most;
// after Healthy in service it begins with First again.
type Backoff struct{ First, Most, Healthy time.Duration }

// Node is what is remembered of one.
type Node struct {
	State State
	// Since is when it came into this state.
	Since time.Time
	// Attempts are the starts since it served for long.
	Attempts int
	// Due is when it may be started next; zero: it was not seen to be down.
	Due time.Time
	// Served is since when it serves; zero: it does not.
	Served time.Time
	// Starts are those of the last day.
	Starts []time.Time
	// Told says that its peers were told that its channels take nothing.
	Told bool
}

// Next decides.
func (n Node) Next(f Facts, b Backoff) (Node, []Action) {
	n.Starts = slices.DeleteFunc(slices.Clone(n.Starts), func(at time.Time) bool { return !at.After(f.Now.Add(-day)) })
	if !f.Serving {
		n.Served = time.Time{}
	} else if n.Served.IsZero() {
		n.Served = f.Now
	}
	switch {
	case f.Elsewhere:
		return n.leave(f)
	case f.Drain:
		return n.drain(f)
	case f.Serving:
		return n.serve(f, b)
	case f.Up:
		return n.become(Starting, f.Now), nil
	}
	return n.wait(f, b)
}

func (n Node) become(s State, at time.Time) Node {
	if n.State != s {
		n.State, n.Since = s, at
	}
	return n
}

func (n Node) serve(f Facts, b Backoff) (Node, []Action) {
	n = n.become(Running, f.Now)
	n.Due = time.Time{}
	if f.Now.Sub(n.Served) >= b.Healthy {
		n.Attempts = 0
	}
	if n.Told {
		n.Told = false
		return n, []Action{Enable}
	}
	return n, nil
}

// wait is for a node that is down and should not be.
func (n Node) wait(f Facts, b Backoff) (Node, []Action) {
	n = n.become(Waiting, f.Now)
	if n.Due.IsZero() {
		n.Due = f.Now.Add(b.after(n.Attempts))
	}
	// Without its signer it would end again at once.
	if f.Now.Before(n.Due) || !f.SignerUp {
		return n, nil
	}
	n.Attempts++
	n.Starts = append(n.Starts, f.Now)
	n.Due = f.Now.Add(b.after(n.Attempts))
	return n, []Action{Start}
}

func (b Backoff) after(attempts int) time.Duration {
	wait := b.First
	for range attempts {
		if wait = 2 * wait; wait >= b.Most {
			return b.Most
		}
	}
	return wait
}

func (n Node) drain(f Facts) (Node, []Action) {
	switch {
	case !f.Up:
		n.Due, n.Attempts = time.Time{}, 0
		return n.become(Drained, f.Now), nil
	case !f.Serving:
		return n.become(Draining, f.Now), nil
	}
	n = n.become(Draining, f.Now)
	var do []Action
	if !n.Told {
		n.Told = true
		do = append(do, Disable)
	}
	if f.HTLCs == 0 {
		do = append(do, Stop)
	}
	return n, do
}

// leave is for a node that was moved to another place. Two nodes of one key lose their
// channels' money: it is not started again, and stopped whatever is under way.
func (n Node) leave(f Facts) (Node, []Action) {
	n.Due, n.Attempts, n.Told = time.Time{}, 0, false
	if !f.Up {
		return n.become(Drained, f.Now), nil
	}
	return n.become(Draining, f.Now), []Action{Stop}
}

const day = 24 * time.Hour

// maxSamples bounds what is kept of one signer.
const maxSamples = 6000

// Sample is one look at a signer.
type Sample struct {
	At time.Time
	// Took are its calls, by method; empty if it did not answer.
	Took map[string]time.Duration
	Up   bool
}

// Signer is what was seen of one.
type Signer struct{ samples []Sample }

// Add takes a look in, and lets go of what is older than a day.
func (s *Signer) Add(x Sample) {
	s.samples = append(s.samples, x)
	from := 0
	for from < len(s.samples) && (len(s.samples)-from > maxSamples || !s.samples[from].At.After(x.At.Add(-day))) {
		from++
	}
	s.samples = s.samples[from:]
}

// Latency is what one method took.
type Latency struct {
	Call     string
	P50, P99 time.Duration
	Samples  int
}

// Summary sums up the looks of a day.
type Summary struct {
	Up bool
	// Permille of the looks were answered.
	Permille  int
	Latencies []Latency
}

// Summary is that of the looks that are kept.
func (s *Signer) Summary() (out Summary) {
	if len(s.samples) == 0 {
		return out
	}
	took := map[string][]time.Duration{}
	up := 0
	for _, x := range s.samples {
		if x.Up {
			up++
		}
		for call, d := range x.Took {
			took[call] = append(took[call], d)
		}
	}
	out.Up, out.Permille = s.samples[len(s.samples)-1].Up, up*1000/len(s.samples)
	for call, list := range took {
		slices.Sort(list)
		out.Latencies = append(out.Latencies, Latency{Call: call, P50: quantile(list, 50), P99: quantile(list, 99), Samples: len(list)})
	}
	slices.SortFunc(out.Latencies, func(a, b Latency) int {
		if a.Call < b.Call {
			return -1
		}
		return 1
	})
	return out
}

// quantile is the least value that percent of a sorted list are not above.
func quantile(sorted []time.Duration, percent int) time.Duration {
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}
