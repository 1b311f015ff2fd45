package batch

import "github.com/sluice-lsp/sluice/internal/fsm"

// edges is the table of all transitions; a test holds it equal to Step, and
// STATES.md is drawn from it.
func edges() []fsm.Edge {
	return []fsm.Edge{
		{From: "gathering", Event: "member_left", To: "failed"},
		{From: "gathering", Event: "member_left", To: "gathering"},
		{From: "gathering", Event: "member_left", To: "leasing", Effects: []string{"lease_coins"}},
		{From: "gathering", Event: "output_named", To: "gathering"},
		{From: "gathering", Event: "output_named", To: "leasing", Effects: []string{"lease_coins"}},
		{From: "gathering", Event: "start", To: "gathering"},
		{From: "gathering", Event: "tick", To: "failed", Effects: []string{"dismiss"}},
		{From: "gathering", Event: "tick", To: "leasing", Effects: []string{"dismiss", "lease_coins"}},

		{From: "leasing", Event: "coins_leased", To: "handing", Effects: []string{"hand"}},
		{From: "leasing", Event: "coins_refused", To: "failed", Effects: []string{"dismiss", "release_coins"}},
		{From: "leasing", Event: "member_left", To: "failed", Effects: []string{"dismiss", "release_coins"}},

		{From: "handing", Event: "member_left", To: "failed", Effects: []string{"dismiss", "release_coins"}},
		{From: "handing", Event: "member_pending", To: "handing", Effects: []string{"hand"}},
		{From: "handing", Event: "member_pending", To: "signing", Effects: []string{"commit"}},
		{From: "handing", Event: "tick", To: "failed", Effects: []string{"dismiss", "release_coins"}},

		{From: "signing", Event: "commit_refused", To: "failed", Effects: []string{"dismiss", "release_coins"}},
		{From: "signing", Event: "committed", To: "signed"},
		{From: "signing", Event: "member_left", To: "failed", Effects: []string{"dismiss", "release_coins"}},
	}
}
