package collab

import "github.com/sluice-lsp/sluice/internal/fsm"

// edges is the table of all transitions; a test holds it equal to Step, and
// STATES.md is drawn from it.
func edges() []fsm.Edge {
	return []fsm.Edge{
		{From: "checking", Event: "abort", To: "failed"},
		{From: "checking", Event: "input_spent", To: "failed"},
		{From: "checking", Event: "inputs_checked", To: "choosing", Effects: []string{"lease_coins", "watch_inputs"}},
		{From: "checking", Event: "inputs_refused", To: "failed"},
		{From: "checking", Event: "start", To: "checking", Effects: []string{"check_inputs"}},
		{From: "checking", Event: "tick", To: "failed"},

		{From: "choosing", Event: "abort", To: "failed", Effects: []string{"release_coins"}},
		{From: "choosing", Event: "coins_leased", To: "negotiating", Effects: []string{"negotiate"}},
		{From: "choosing", Event: "coins_leased", To: "failed", Effects: []string{"release_coins"}},
		{From: "choosing", Event: "coins_refused", To: "failed", Effects: []string{"release_coins"}},
		{From: "choosing", Event: "input_spent", To: "failed", Effects: []string{"release_coins"}},
		{From: "choosing", Event: "tick", To: "failed", Effects: []string{"release_coins"}},

		{From: "negotiating", Event: "abort", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},
		{From: "negotiating", Event: "funding_built", To: "built", Effects: []string{"verify"}},
		{From: "negotiating", Event: "input_spent", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},
		{From: "negotiating", Event: "negotiation_ended", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},
		{From: "negotiating", Event: "tick", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},

		{From: "built", Event: "abort", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},
		{From: "built", Event: "funding_pending", To: "ready"},
		{From: "built", Event: "input_spent", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},
		{From: "built", Event: "negotiation_ended", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},
		{From: "built", Event: "tick", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},

		{From: "ready", Event: "abort", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},
		{From: "ready", Event: "input_spent", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},
		{From: "ready", Event: "tick", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},
		{From: "ready", Event: "wallet_signed", To: "countersigning", Effects: []string{"sign"}},

		{From: "countersigning", Event: "abort", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},
		{From: "countersigning", Event: "funding_signed", To: "signed", Effects: []string{"publish", "watch_inputs"}},
		{From: "countersigning", Event: "input_spent", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},
		{From: "countersigning", Event: "signing_failed", To: "failed", Effects: []string{"abandon_channel", "release_coins"}},
		{From: "countersigning", Event: "wallet_signed", To: "countersigning"},

		{From: "signed", Event: "funding_published", To: "published"},
		{From: "signed", Event: "input_spent", To: "signed"},
		{From: "signed", Event: "input_spent", To: "confirmed"},
		{From: "signed", Event: "new_block", To: "signed", Effects: []string{"publish"}},
		{From: "signed", Event: "new_block", To: "conflicted", Effects: []string{"abandon_channel", "forget_tx", "release_coins"}},
		{From: "signed", Event: "publish_failed", To: "signed"},
		{From: "signed", Event: "spend_reorged", To: "signed"},
		{From: "signed", Event: "wallet_signed", To: "signed"},

		{From: "published", Event: "funding_published", To: "published"},
		{From: "published", Event: "input_spent", To: "published"},
		{From: "published", Event: "input_spent", To: "confirmed"},
		{From: "published", Event: "new_block", To: "published", Effects: []string{"bump_fee", "publish"}},
		{From: "published", Event: "new_block", To: "conflicted", Effects: []string{"abandon_channel", "forget_tx", "release_coins"}},
		{From: "published", Event: "publish_failed", To: "published"},
		{From: "published", Event: "spend_reorged", To: "published"},
		{From: "published", Event: "wallet_signed", To: "published"},

		{From: "confirmed", Event: "funding_published", To: "confirmed"},
		{From: "confirmed", Event: "input_spent", To: "published"},
		{From: "confirmed", Event: "input_spent", To: "confirmed"},
		{From: "confirmed", Event: "new_block", To: "confirmed"},
		{From: "confirmed", Event: "new_block", To: "buried", Effects: []string{"release_coins"}},
		{From: "confirmed", Event: "new_block", To: "conflicted", Effects: []string{"abandon_channel", "forget_tx", "release_coins"}},
		{From: "confirmed", Event: "spend_reorged", To: "published", Effects: []string{"publish"}},
		{From: "confirmed", Event: "spend_reorged", To: "confirmed"},
		{From: "confirmed", Event: "wallet_signed", To: "confirmed"},
	}
}
