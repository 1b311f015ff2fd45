package in

import (
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/swaps"
)

// stepOpening waits for the channel, and for nothing else: what happened to the
// output meanwhile is judged again before anything is paid.
func stepOpening(s Opening, v Event) (State, []Effect, error) {
	abandon := AbandonChannel{OpeningID: s.Open.OpeningID(s.Opens + 1)}
	switch v := v.(type) {
	case ChannelUsable:
		s.ChanID = v.ChanID
		return Waiting(s), []Effect{AskTip{}}, nil
	case ChannelNotOpened:
		if v.Begun {
			s.Opens++
		}
		if s.Opens >= s.Open.MaxOpens {
			return failed(s.Plan, s.Output, swaps.ReasonNoChannel, "no channel could be opened for the client (%s): it takes its output back after height %d", clip(v.Text), s.Terms.ExpiryHeight)
		}
		// The next block tries again.
		return Waiting(s), nil, nil
	case OutputFound:
		if v.ConfirmedHeight == 0 || v.Count < 1 {
			return nil, nil, fsm.Illegal(s, v)
		}
		found, reason := s.judge(s.Output, v)
		if reason.Code != "" {
			return Failed{Plan: s.Plan, Output: s.Output, Reason: reason}, []Effect{abandon}, nil
		}
		s.Output = found
		return s, nil, nil
	case OutputReorged:
		s.Output = s.unpaidUndone(v)
		return s, []Effect{watchPaid(s.Plan, s.Output)}, nil
	case NewBlock:
		var effects []Effect
		s.Output, effects = s.follow(s.Output, v.Height)
		if v.Height > s.LastPayHeight() {
			next, _, err := failed(s.Plan, s.Output, swaps.ReasonLate, "at height %d a payment could outlive the swap, which expires at %d: the client takes its output back", v.Height, s.Terms.ExpiryHeight)
			return next, []Effect{abandon}, err
		}
		return s, effects, nil
	}
	return nil, nil, fsm.Illegal(s, v)
}
