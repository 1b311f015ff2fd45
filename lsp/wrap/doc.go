// Package wrap is the state machine of "the receiver pays": the wallet's own
// invoice is wrapped in a hold invoice of the gateway with the same hash; once
// the whole set is held, a channel is opened (or one with room found), the
// wallet is paid the amount minus the fee with a fresh onion, and its preimage
// settles the hold.
//
// It promises:
//   - a payment is sent only if it must be resolved a safe margin before the
//     earliest held HTLC could be taken back (law 4), computed from the heights
//     at that moment;
//   - while a payment may be in flight the hold invoice is never cancelled by
//     us: only TrackPaymentV2's terminal word ends that;
//   - the preimage is stored before it is used, and used until the hold
//     invoice is settled;
//   - money that came in over a channel whose own funding is not safe is not
//     accepted (law 12);
//   - at most one channel is opened per payment.
//
// CheckWrap is the wallet's side: what it must see in the wrapped invoice
// before it shows it to anyone.
package wrap
