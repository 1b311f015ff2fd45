package credit

import "github.com/sluice-lsp/sluice/internal/fsm"

// edges is the table of all transitions; a test holds it equal to Step, and
// STATES.md is drawn from it.
func edges() []fsm.Edge {
	return []fsm.Edge{
		{From: "planned", Event: "start", To: "planned", Effects: []string{"make_invoice"}},
		{From: "planned", Event: "invoice_made", To: "offered", Effects: []string{"watch_invoice"}},
		{From: "planned", Event: "invoice_refused", To: "over"},

		{From: "offered", Event: "payment_held", To: "credited", Effects: []string{"settle_invoice"}},
		{From: "offered", Event: "payment_held", To: "refusing", Effects: []string{"cancel_invoice"}},
		{From: "offered", Event: "payment_settled", To: "settled"},
		{From: "offered", Event: "payment_released", To: "over"},

		{From: "credited", Event: "payment_held", To: "credited"},
		{From: "credited", Event: "payment_settled", To: "settled"},
		{From: "credited", Event: "payment_released", To: "taken_back"},

		{From: "refusing", Event: "payment_released", To: "over"},

		{From: "settled", Event: "payment_settled", To: "settled"},
		{From: "taken_back", Event: "payment_released", To: "taken_back"},
		{From: "over", Event: "payment_released", To: "over"},
	}
}
