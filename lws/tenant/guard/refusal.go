package guard

import "fmt"

// Rule names why something is refused, in the log and in metrics.
type Rule string

// The rules. The words stand in the guard's log.
const (
	RulePaused      Rule = "paused"
	RuleUnknown     Rule = "unknown"
	RuleForm        Rule = "form"
	RuleKey         Rule = "key"
	RuleScript      Rule = "script"
	RuleSigHash     Rule = "sighash"
	RuleAddressTx   Rule = "address_sat_per_tx"
	RuleAddressDay  Rule = "address_sat_per_day"
	RuleChannelTx   Rule = "channel_sat_per_tx"
	RuleChannelDay  Rule = "channel_sat_per_day"
	RuleFeeTx       Rule = "fee_sat_per_tx"
	RuleFeeDay      Rule = "fee_sat_per_day"
	RuleMessage     Rule = "message"
	RuleText        Rule = "text"
	RuleSharedKey   Rule = "shared_key"
	RuleMuSig2      Rule = "musig2"
	RuleUnavailable Rule = "unavailable"
)

// Refusal is why a request does not reach the signer.
type Refusal struct {
	Rule Rule
	Said string
}

func (r Refusal) Error() string { return "the guard refuses (" + string(r.Rule) + "): " + r.Said }

func refuse(rule Rule, format string, args ...any) error {
	return Refusal{Rule: rule, Said: fmt.Sprintf(format, args...)}
}
