package jit

import "github.com/sluice-lsp/sluice/internal/fsm"

// edges is the table of all transitions; a test holds it equal to Step, and
// STATES.md is drawn from it.
func edges() []fsm.Edge {
	return []fsm.Edge{
		{From: "offered", Event: "start", To: "offered"},
		{From: "offered", Event: "part_arrived", To: "offered", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "offered", Event: "part_arrived", To: "collecting", Effects: []string{"ask_wallet"}},
		{From: "offered", Event: "part_arrived", To: "expired", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "offered", Event: "opening_usable", To: "offered"},
		{From: "offered", Event: "opening_failed", To: "offered"},
		{From: "offered", Event: "tick", To: "expired", Effects: []string{"abandon_opening"}},
		{From: "offered", Event: "cancel", To: "cancelled", Effects: []string{"abandon_opening"}},

		{From: "collecting", Event: "part_arrived", To: "offered", Effects: []string{"refuse_parts"}},
		{From: "collecting", Event: "part_arrived", To: "collecting", Effects: []string{"ask_wallet", "refuse_parts"}},
		{From: "collecting", Event: "part_arrived", To: "expired", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "collecting", Event: "part_gone", To: "offered", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "collecting", Event: "part_gone", To: "collecting"},
		{From: "collecting", Event: "wallet_status", To: "offered", Effects: []string{"refuse_parts"}},
		{From: "collecting", Event: "wallet_status", To: "collecting", Effects: []string{"wake_wallet"}},
		{From: "collecting", Event: "wallet_status", To: "opening", Effects: []string{"open_channel"}},
		{From: "collecting", Event: "wallet_status", To: "mapping", Effects: []string{"abandon_opening", "map_channel"}},
		{From: "collecting", Event: "wallet_status", To: "refunded", Effects: []string{"refuse_parts"}},
		{From: "collecting", Event: "wallet_online", To: "collecting", Effects: []string{"ask_wallet"}},
		{From: "collecting", Event: "opening_usable", To: "collecting", Effects: []string{"ask_wallet"}},
		{From: "collecting", Event: "opening_failed", To: "collecting"},
		{From: "collecting", Event: "new_block", To: "offered", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "collecting", Event: "new_block", To: "collecting", Effects: []string{"ask_wallet"}},
		{From: "collecting", Event: "tick", To: "offered", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "collecting", Event: "tick", To: "expired", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "collecting", Event: "cancel", To: "cancelled", Effects: []string{"abandon_opening", "refuse_parts"}},

		{From: "opening", Event: "part_arrived", To: "opening", Effects: []string{"refuse_parts"}},
		{From: "opening", Event: "part_gone", To: "offered", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "opening", Event: "opening_usable", To: "mapping", Effects: []string{"map_channel"}},
		{From: "opening", Event: "opening_failed", To: "offered", Effects: []string{"refuse_parts"}},
		{From: "opening", Event: "opening_failed", To: "opening", Effects: []string{"open_channel"}},
		{From: "opening", Event: "opening_failed", To: "refunded", Effects: []string{"refuse_parts"}},
		{From: "opening", Event: "new_block", To: "offered", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "opening", Event: "new_block", To: "opening"},
		{From: "opening", Event: "tick", To: "offered", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "opening", Event: "cancel", To: "cancelled", Effects: []string{"abandon_opening", "refuse_parts"}},

		{From: "mapping", Event: "part_arrived", To: "mapping", Effects: []string{"refuse_parts"}},
		{From: "mapping", Event: "part_gone", To: "offered", Effects: []string{"refuse_parts"}},
		{From: "mapping", Event: "mapped", To: "resuming", Effects: []string{"resume_parts", "watch_parts"}},
		{From: "mapping", Event: "map_failed", To: "offered", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "mapping", Event: "new_block", To: "offered", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "mapping", Event: "new_block", To: "mapping"},
		{From: "mapping", Event: "tick", To: "offered", Effects: []string{"abandon_opening", "refuse_parts"}},
		{From: "mapping", Event: "cancel", To: "cancelled", Effects: []string{"abandon_opening", "refuse_parts"}},

		{From: "resuming", Event: "part_arrived", To: "resuming", Effects: []string{"refuse_parts", "resume_parts", "watch_parts"}},
		{From: "resuming", Event: "part_gone", To: "offered"},
		{From: "resuming", Event: "part_gone", To: "collecting", Effects: []string{"ask_wallet", "refuse_parts"}},
		{From: "resuming", Event: "part_gone", To: "resuming", Effects: []string{"resume_parts", "watch_parts"}},
		{From: "resuming", Event: "part_gone", To: "paid", Effects: []string{"refuse_parts", "release_scid"}},
		{From: "resuming", Event: "part_gone", To: "refunded", Effects: []string{"refuse_parts"}},
		{From: "resuming", Event: "parts_resumed", To: "forwarded"},
		{From: "resuming", Event: "part_settled", To: "resuming"},
		{From: "resuming", Event: "part_settled", To: "paid", Effects: []string{"refuse_parts", "release_scid"}},
		{From: "resuming", Event: "part_failed", To: "offered"},
		{From: "resuming", Event: "part_failed", To: "collecting", Effects: []string{"ask_wallet", "refuse_parts"}},
		{From: "resuming", Event: "part_failed", To: "resuming", Effects: []string{"resume_parts", "watch_parts"}},
		{From: "resuming", Event: "part_failed", To: "paid", Effects: []string{"refuse_parts", "release_scid"}},
		{From: "resuming", Event: "part_failed", To: "refunded", Effects: []string{"refuse_parts"}},
		{From: "resuming", Event: "new_block", To: "resuming", Effects: []string{"refuse_parts"}},
		{From: "resuming", Event: "tick", To: "resuming", Effects: []string{"refuse_parts"}},

		{From: "forwarded", Event: "part_arrived", To: "forwarded", Effects: []string{"refuse_parts", "resume_parts", "watch_parts"}},
		{From: "forwarded", Event: "part_gone", To: "offered"},
		{From: "forwarded", Event: "part_gone", To: "collecting", Effects: []string{"ask_wallet", "refuse_parts"}},
		{From: "forwarded", Event: "part_gone", To: "forwarded", Effects: []string{"resume_parts", "watch_parts"}},
		{From: "forwarded", Event: "part_gone", To: "paid", Effects: []string{"refuse_parts", "release_scid"}},
		{From: "forwarded", Event: "part_gone", To: "refunded", Effects: []string{"refuse_parts"}},
		{From: "forwarded", Event: "part_settled", To: "forwarded"},
		{From: "forwarded", Event: "part_settled", To: "paid", Effects: []string{"refuse_parts", "release_scid"}},
		{From: "forwarded", Event: "part_failed", To: "offered"},
		{From: "forwarded", Event: "part_failed", To: "collecting", Effects: []string{"ask_wallet", "refuse_parts"}},
		{From: "forwarded", Event: "part_failed", To: "forwarded", Effects: []string{"resume_parts", "watch_parts"}},
		{From: "forwarded", Event: "part_failed", To: "paid", Effects: []string{"refuse_parts", "release_scid"}},
		{From: "forwarded", Event: "part_failed", To: "refunded", Effects: []string{"refuse_parts"}},
		{From: "forwarded", Event: "new_block", To: "forwarded", Effects: []string{"refuse_parts"}},
		{From: "forwarded", Event: "tick", To: "forwarded", Effects: []string{"refuse_parts"}},

		{From: "paid", Event: "part_arrived", To: "paid", Effects: []string{"refuse_parts"}},

		{From: "refunded", Event: "part_arrived", To: "refunded", Effects: []string{"refuse_parts"}},

		{From: "expired", Event: "part_arrived", To: "expired", Effects: []string{"refuse_parts"}},

		{From: "cancelled", Event: "part_arrived", To: "cancelled", Effects: []string{"refuse_parts"}},
	}
}
