package ballot

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// OpenAnswer is what one program says about a channel that a peer proposes.
type OpenAnswer struct {
	Program string
	Verdict ln.AcceptVerdict
}

// MergeOpen narrows what the gateway's own policy takes by what programs say. All
// must accept. None can widen it: zero-conf is granted by the policy alone, because
// lnd lets any acceptor grant it. Confirmations are the most that anybody wants.
// Whatever else is set must not contradict, as lnd has it.
func MergeOpen(policy ln.AcceptVerdict, answers []OpenAnswer) ln.AcceptVerdict {
	out := policy
	if !out.Accept {
		return out
	}
	refuse := func(format string, args ...any) ln.AcceptVerdict {
		return ln.AcceptVerdict{Refusal: fmt.Sprintf(format, args...)}
	}
	for _, a := range answers {
		v := a.Verdict
		if !v.Accept {
			if v.Refusal == "" {
				return refuse("this node does not take the channel")
			}
			return refuse("%s", v.Refusal)
		}
		if out.ZeroConf && v.MinDepth > 0 {
			return refuse("this node wants %d confirmations; propose the channel without zero-conf", v.MinDepth)
		}
		out.MinDepth = max(out.MinDepth, v.MinDepth)
		agree := same(&out.CsvDelay, v.CsvDelay) && same(&out.ReserveSat, v.ReserveSat) &&
			same(&out.InFlightMaxMsat, v.InFlightMaxMsat) && same(&out.MaxHtlcs, v.MaxHtlcs) &&
			same(&out.MinHtlcInMsat, v.MinHtlcInMsat) && same(&out.UpfrontShutdown, v.UpfrontShutdown)
		if !agree {
			return refuse("this node's programs want different terms for the channel")
		}
	}
	return out
}

// same takes a value where none was set; false when another one was.
func same[T comparable](have *T, v T) bool {
	var none T
	if v == none || v == *have {
		return true
	}
	if *have != none {
		return false
	}
	*have = v
	return true
}
