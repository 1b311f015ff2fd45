package in

import "github.com/sluice-lsp/sluice/internal/fsm"

// edges is the table of all transitions; a test holds it equal to Step, and
// STATES.md is drawn from it.
func edges() []fsm.Edge {
	return []fsm.Edge{
		{From: "probing", Event: "probe_failed", To: "failed"},
		{From: "probing", Event: "probe_passed", To: "waiting", Effects: []string{"watch_output"}},
		{From: "probing", Event: "start", To: "probing", Effects: []string{"probe"}},
		{From: "probing", Event: "tick", To: "probe_held"},

		{From: "probe_held", Event: "probe_failed", To: "failed"},
		{From: "probe_held", Event: "probe_passed", To: "failed"},

		{From: "waiting", Event: "new_block", To: "failed"},
		{From: "waiting", Event: "new_block", To: "opening", Effects: []string{"open_channel", "watch_output"}},
		{From: "waiting", Event: "new_block", To: "paying", Effects: []string{"pay", "watch_output"}},
		{From: "waiting", Event: "new_block", To: "waiting", Effects: []string{"watch_output"}},
		{From: "waiting", Event: "output_found", To: "failed"},
		{From: "waiting", Event: "output_found", To: "waiting"},
		{From: "waiting", Event: "output_reorged", To: "waiting", Effects: []string{"watch_output"}},
		{From: "waiting", Event: "start", To: "waiting", Effects: []string{"watch_output"}},

		{From: "opening", Event: "channel_not_opened", To: "failed"},
		{From: "opening", Event: "channel_not_opened", To: "waiting"},
		{From: "opening", Event: "channel_usable", To: "waiting", Effects: []string{"ask_tip"}},
		{From: "opening", Event: "new_block", To: "failed", Effects: []string{"abandon_channel"}},
		{From: "opening", Event: "new_block", To: "opening", Effects: []string{"watch_output"}},
		{From: "opening", Event: "output_found", To: "failed", Effects: []string{"abandon_channel"}},
		{From: "opening", Event: "output_found", To: "opening"},
		{From: "opening", Event: "output_reorged", To: "opening", Effects: []string{"watch_output"}},

		{From: "paying", Event: "key_pushed", To: "paying"},
		{From: "paying", Event: "new_block", To: "paying", Effects: []string{"look_for_payment", "watch_output"}},
		{From: "paying", Event: "output_found", To: "paying"},
		{From: "paying", Event: "output_reorged", To: "paying", Effects: []string{"alarm", "watch_output"}},
		{From: "paying", Event: "payment_cut_off", To: "paying", Effects: []string{"track_payment"}},
		{From: "paying", Event: "payment_failed", To: "failed"},
		{From: "paying", Event: "payment_failed", To: "waiting"},
		{From: "paying", Event: "payment_missing", To: "failed"},
		{From: "paying", Event: "payment_not_sent", To: "failed"},
		{From: "paying", Event: "payment_not_sent", To: "waiting"},
		{From: "paying", Event: "payment_succeeded", To: "paid", Effects: []string{"ask_tip", "channel_paid"}},

		{From: "paid", Event: "claim_refused", To: "paid", Effects: []string{"alarm"}},
		{From: "paid", Event: "claim_signed", To: "claiming", Effects: []string{"publish_claim", "watch_spend"}},
		{From: "paid", Event: "key_pushed", To: "paid", Effects: []string{"ask_tip"}},
		{From: "paid", Event: "new_block", To: "lost", Effects: []string{"alarm"}},
		{From: "paid", Event: "new_block", To: "paid", Effects: []string{"sign_claim", "watch_output"}},
		{From: "paid", Event: "output_found", To: "paid"},
		{From: "paid", Event: "output_reorged", To: "paid", Effects: []string{"alarm", "watch_output"}},
		{From: "paid", Event: "output_spent", To: "paid"},
		{From: "paid", Event: "spend_reorged", To: "paid"},
		{From: "paid", Event: "tick", To: "paid", Effects: []string{"ask_tip"}},

		{From: "claiming", Event: "claim_refused", To: "claiming", Effects: []string{"publish_claim"}},
		{From: "claiming", Event: "claim_signed", To: "claiming", Effects: []string{"publish_claim"}},
		{From: "claiming", Event: "key_pushed", To: "claiming"},
		{From: "claiming", Event: "new_block", To: "claimed"},
		{From: "claiming", Event: "new_block", To: "claiming", Effects: []string{"alarm", "publish_claim", "sign_claim"}},
		{From: "claiming", Event: "new_block", To: "lost", Effects: []string{"alarm", "forget_txs"}},
		{From: "claiming", Event: "new_block", To: "paid", Effects: []string{"ask_tip", "watch_output"}},
		{From: "claiming", Event: "output_found", To: "claiming"},
		{From: "claiming", Event: "output_reorged", To: "claiming", Effects: []string{"alarm", "watch_output"}},
		{From: "claiming", Event: "output_spent", To: "claimed", Effects: []string{"forget_txs"}},
		{From: "claiming", Event: "output_spent", To: "claiming", Effects: []string{"alarm"}},
		{From: "claiming", Event: "output_spent", To: "lost", Effects: []string{"alarm", "forget_txs"}},
		{From: "claiming", Event: "spend_reorged", To: "claiming", Effects: []string{"publish_claim", "watch_spend"}},
		{From: "claiming", Event: "tick", To: "claiming"},
	}
}
