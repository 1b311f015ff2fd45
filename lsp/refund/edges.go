package refund

import "github.com/sluice-lsp/sluice/internal/fsm"

// edges is the table of all transitions; a test holds it equal to Step, and
// STATES.md is drawn from it.
func edges() []fsm.Edge {
	return []fsm.Edge{
		{From: "planned", Event: "coins_gone", To: "void", Effects: []string{"notify_order"}},
		{From: "planned", Event: "signed", To: "sending", Effects: []string{"publish"}},
		{From: "planned", Event: "start", To: "planned", Effects: []string{"build"}},
		{From: "planned", Event: "too_small", To: "kept", Effects: []string{"notify_order"}},

		{From: "sending", Event: "coins_gone", To: "void", Effects: []string{"notify_order"}},
		{From: "sending", Event: "confirmed", To: "returned", Effects: []string{"notify_order"}},
		{From: "sending", Event: "confirmed", To: "sending", Effects: []string{"notify_order"}},
		{From: "sending", Event: "conflicted", To: "sending"},
		{From: "sending", Event: "conflicted", To: "void", Effects: []string{"notify_order"}},
		{From: "sending", Event: "new_block", To: "returned", Effects: []string{"notify_order"}},
		{From: "sending", Event: "new_block", To: "sending", Effects: []string{"build", "publish"}},
		{From: "sending", Event: "publish_failed", To: "sending"},
		{From: "sending", Event: "published", To: "sending", Effects: []string{"notify_order"}},
		{From: "sending", Event: "reorged", To: "sending", Effects: []string{"publish"}},
		{From: "sending", Event: "signed", To: "sending", Effects: []string{"publish"}},
		{From: "sending", Event: "tick", To: "sending", Effects: []string{"build"}},
		{From: "sending", Event: "too_small", To: "sending"},
	}
}
