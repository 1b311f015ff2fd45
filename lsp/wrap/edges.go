package wrap

import "github.com/sluice-lsp/sluice/internal/fsm"

// edges is the table of all transitions; a test holds it equal to Step, and
// STATES.md is drawn from it.
func edges() []fsm.Edge {
	return []fsm.Edge{
		{From: "offered", Event: "start", To: "offered", Effects: []string{"make_invoice"}},
		{From: "offered", Event: "invoice_added", To: "invoice_made", Effects: []string{"watch_invoice"}},
		{From: "offered", Event: "invoice_refused", To: "cancelled"},
		{From: "offered", Event: "tick", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "offered", Event: "cancel", To: "cancelling", Effects: []string{"cancel_invoice"}},

		{From: "invoice_made", Event: "set_accepted", To: "accepted", Effects: []string{"check_incoming"}},
		{From: "invoice_made", Event: "set_accepted", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "invoice_made", Event: "invoice_canceled", To: "expired"},
		{From: "invoice_made", Event: "invoice_settled", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "invoice_made", Event: "tick", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "invoice_made", Event: "cancel", To: "cancelling", Effects: []string{"cancel_invoice"}},

		{From: "accepted", Event: "incoming_checked", To: "accepted", Effects: []string{"ask_wallet"}},
		{From: "accepted", Event: "incoming_checked", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "accepted", Event: "wallet_status", To: "accepted", Effects: []string{"wake_wallet"}},
		{From: "accepted", Event: "wallet_status", To: "opening", Effects: []string{"open_channel"}},
		{From: "accepted", Event: "wallet_status", To: "paying", Effects: []string{"pay"}},
		{From: "accepted", Event: "wallet_status", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "accepted", Event: "wallet_online", To: "accepted", Effects: []string{"check_incoming"}},
		{From: "accepted", Event: "invoice_canceled", To: "refunded"},
		{From: "accepted", Event: "invoice_settled", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "accepted", Event: "new_block", To: "accepted", Effects: []string{"ask_wallet"}},
		{From: "accepted", Event: "new_block", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "accepted", Event: "tick", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "accepted", Event: "cancel", To: "cancelling", Effects: []string{"cancel_invoice"}},

		{From: "opening", Event: "opening_usable", To: "paying", Effects: []string{"pay"}},
		{From: "opening", Event: "opening_usable", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "opening", Event: "opening_failed", To: "opening", Effects: []string{"open_channel"}},
		{From: "opening", Event: "opening_failed", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "opening", Event: "invoice_canceled", To: "refunded", Effects: []string{"abandon_opening"}},
		{From: "opening", Event: "invoice_settled", To: "cancelling", Effects: []string{"abandon_opening", "cancel_invoice"}},
		{From: "opening", Event: "new_block", To: "opening"},
		{From: "opening", Event: "new_block", To: "cancelling", Effects: []string{"abandon_opening", "cancel_invoice"}},
		{From: "opening", Event: "tick", To: "cancelling", Effects: []string{"abandon_opening", "cancel_invoice"}},
		{From: "opening", Event: "cancel", To: "cancelling", Effects: []string{"abandon_opening", "cancel_invoice"}},

		{From: "paying", Event: "payment_succeeded", To: "settling", Effects: []string{"release_opening", "settle_invoice"}},
		{From: "paying", Event: "payment_succeeded", To: "lost", Effects: []string{"alarm", "release_opening"}},
		{From: "paying", Event: "payment_failed", To: "paying", Effects: []string{"pay"}},
		{From: "paying", Event: "payment_failed", To: "cancelling", Effects: []string{"abandon_opening", "cancel_invoice"}},
		{From: "paying", Event: "payment_failed", To: "refunded", Effects: []string{"abandon_opening"}},
		{From: "paying", Event: "payment_not_sent", To: "paying", Effects: []string{"pay"}},
		{From: "paying", Event: "payment_not_sent", To: "cancelling", Effects: []string{"abandon_opening", "cancel_invoice"}},
		{From: "paying", Event: "payment_not_sent", To: "refunded", Effects: []string{"abandon_opening"}},
		{From: "paying", Event: "payment_cut_off", To: "payment_unknown", Effects: []string{"track_payment"}},
		{From: "paying", Event: "new_block", To: "paying", Effects: []string{"look_for_payment"}},
		{From: "paying", Event: "payment_missing", To: "cancelling", Effects: []string{"abandon_opening", "cancel_invoice"}},
		{From: "paying", Event: "payment_missing", To: "refunded", Effects: []string{"abandon_opening"}},
		{From: "paying", Event: "invoice_settled", To: "paying"},
		{From: "paying", Event: "invoice_canceled", To: "paying", Effects: []string{"alarm"}},

		{From: "payment_unknown", Event: "payment_succeeded", To: "settling", Effects: []string{"release_opening", "settle_invoice"}},
		{From: "payment_unknown", Event: "payment_succeeded", To: "lost", Effects: []string{"alarm", "release_opening"}},
		{From: "payment_unknown", Event: "payment_failed", To: "paying", Effects: []string{"pay"}},
		{From: "payment_unknown", Event: "payment_failed", To: "cancelling", Effects: []string{"abandon_opening", "cancel_invoice"}},
		{From: "payment_unknown", Event: "payment_failed", To: "refunded", Effects: []string{"abandon_opening"}},
		{From: "payment_unknown", Event: "payment_not_sent", To: "paying", Effects: []string{"pay"}},
		{From: "payment_unknown", Event: "payment_not_sent", To: "cancelling", Effects: []string{"abandon_opening", "cancel_invoice"}},
		{From: "payment_unknown", Event: "payment_not_sent", To: "refunded", Effects: []string{"abandon_opening"}},
		{From: "payment_unknown", Event: "new_block", To: "payment_unknown", Effects: []string{"look_for_payment"}},
		{From: "payment_unknown", Event: "payment_missing", To: "cancelling", Effects: []string{"abandon_opening", "cancel_invoice"}},
		{From: "payment_unknown", Event: "payment_missing", To: "refunded", Effects: []string{"abandon_opening"}},
		{From: "payment_unknown", Event: "invoice_settled", To: "payment_unknown"},
		{From: "payment_unknown", Event: "invoice_canceled", To: "payment_unknown", Effects: []string{"alarm"}},

		{From: "settling", Event: "invoice_settled", To: "settled"},
		{From: "settling", Event: "invoice_canceled", To: "lost", Effects: []string{"alarm"}},
		{From: "settling", Event: "new_block", To: "settling", Effects: []string{"settle_invoice"}},

		{From: "cancelling", Event: "invoice_added", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "cancelling", Event: "set_accepted", To: "cancelling", Effects: []string{"cancel_invoice"}},
		{From: "cancelling", Event: "paid_after_all", To: "settling", Effects: []string{"release_opening", "settle_invoice"}},
		{From: "cancelling", Event: "invoice_settled", To: "cancelling", Effects: []string{"alarm"}},
		{From: "cancelling", Event: "invoice_canceled", To: "refunded"},
		{From: "cancelling", Event: "invoice_canceled", To: "expired"},
		{From: "cancelling", Event: "invoice_canceled", To: "cancelled"},
	}
}
