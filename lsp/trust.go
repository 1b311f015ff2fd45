package lsp

import "time"

// TrustMode says when a gateway withholds the funding of channels on demand
// until their payment is claimed, so that their clients must trust it to publish
// (bLIP-52, client_trusts_lsp).
type TrustMode string

// The modes. TrustAuto is what the gateway does by itself: under attack.
const (
	TrustNever  TrustMode = "never"
	TrustAuto   TrustMode = "under_attack"
	TrustAlways TrustMode = "always"
)

// Known reports that the text is one of the modes.
func (m TrustMode) Known() bool { return m == TrustNever || m == TrustAuto || m == TrustAlways }

// TrustPolicy decides of whom that is wanted.
//
// An attack is made of opens that nobody pays for: each costs the gateway a chain
// fee, and ties up coins until the channel is closed. It is counted in opens, begun
// within Window, whose channel was negotiated and whose payment was not claimed:
// they failed, were given up, or stand unpaid for longer than a payment takes. Of
// a client with too many of its own trust is wanted; with too many in all, of every
// client that has not paid for a channel yet.
type TrustPolicy struct {
	Mode TrustMode
	// UnclaimedEach of one client, or Unclaimed in all, are an attack; 0: never.
	UnclaimedEach, Unclaimed int
	Window                   time.Duration
}

// Unclaimed are the opens that count, as they stand.
type Unclaimed struct{ Client, All int }

// Attacked says that all who have not paid yet are to be trusted less.
func (p TrustPolicy) Attacked(u Unclaimed) bool { return p.Unclaimed > 0 && u.All >= p.Unclaimed }

// Wants says whether the funding of a client's channel is withheld. own is what the
// operator set for this client, empty if nothing.
func (p TrustPolicy) Wants(own TrustMode, newcomer bool, u Unclaimed) bool {
	if own == "" {
		own = p.Mode
	}
	switch own {
	case TrustAlways:
		return true
	case TrustAuto:
		return p.UnclaimedEach > 0 && u.Client >= p.UnclaimedEach || newcomer && p.Attacked(u)
	case TrustNever:
	}
	return false
}
