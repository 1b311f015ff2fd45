package lndsuite

// Row is one row of the facts and the cases that hold it, on the fake and on real nodes.
type Row struct {
	Section string
	Says    string
	Cases   []string
}

// Rows lists every row of sections A, D, F and H of the facts about on-demand channels, and of the table about
// replayed HTLCs. Latencies are no rows: the fake takes them as its settings, and the benchmarks measure them.
func Rows() []Row {
	return []Row{
		{"A", "recipe: intercept, zero-conf open, alias at the gateway only, RESUME", []string{"A/single_part"}},
		{"A", "recipe with two parts", []string{"A/two_part_mpp"}},
		{"A", "no channel acceptor at the wallet: channel rejected", []string{"A/no_acceptor_rejects"}},
		{"A", "an acceptor without zero_conf: internal error", []string{"A/acceptor_without_zero_conf"}},
		{"A", "chan_id is the alias and stays so after confirmation", []string{"A/chan_id_stays_the_alias"}},
		{"A", "scid_alias=false, private: works", []string{"A/scid_alias_false"}},
		{"A", "private=false, scid_alias=false: works", []string{"A/public_no_alias"}},
		{"A", "private=false, scid_alias=true: refused", []string{"A/public_with_scid_alias"}},
		{"A", "default policy: TEMPORARY_NODE_FAILURE", []string{"A/default_policy"}},
		{"A", "hint delta 40: fails, 80 blocks expected", []string{"A/hint_delta_40"}},
		{"A", "RESUME with no alias: UNKNOWN_NEXT_PEER, the payer stops", []string{"A/resume_without_alias"}},
		{"A", "FAIL: TEMPORARY_CHANNEL_FAILURE, the payer splits and retries", []string{"A/fail_makes_payer_split"}},
		{"A", "TEMPORARY_NODE_FAILURE poisons the payer until ResetMissionControl", []string{"A/node_failure_poisons_the_payer"}},
		{"A", "after UNKNOWN_NEXT_PEER the next payment finds no route (law 6)", []string{"A/unknown_next_peer_closes_the_route"}},
		{"A", "after a probe's TEMPORARY_CHANNEL_FAILURE a payment succeeds (law 6)", []string{"A/temporary_failure_leaves_the_route"}},
		{"A", "SIMPLE_TAPROOT works", []string{"A/simple_taproot"}},
		{"A", "capacity: N+3,000 fails, N+4,000 works", []string{"A/capacity_too_low", "A/capacity_just_so"}},
		{"A5", "the opening fee in the route hint, plain RESUME", []string{"A/fee_in_route_hint"}},
		{"A5", "the same with two parts", []string{"A/fee_in_route_hint_mpp"}},
		{"A10", "the funding transaction is published after the preimage", []string{"A/publish_after_the_preimage"}},
		{"A10", "on failure the gateway abandons; the wallet still lists the channel", []string{"A/abandon_unpublished"}},

		{"D", "wrap, accept, open, pay, settle; the HTLC expires at h+183", []string{"D/wrapped_hold_invoice"}},
		{"D", "ACCEPTED fires when the set is complete", []string{"D/mpp_accepted_when_complete"}},
		{"D", "SendPaymentV2 needs the edge, SendToRouteV2 does not", []string{"D/send_payment_needs_the_edge", "D/wrapped_hold_invoice"}},
		{"D", "open failure: CancelInvoice, INCORRECT_PAYMENT_DETAILS, no retry", []string{"D/cancel_is_final_for_the_payer"}},
		{"D", "kill -9 of the gateway while ACCEPTED: still ACCEPTED, then completed", []string{"D/accepted_survives_a_kill"}},
		{"D", "kill -9 in the moment of ACCEPTED: still ACCEPTED; the HTLC is failed as a replay, or is there to stay", []string{"D/kill_while_accepting"}},
		{"D", "lnd cancels an accepted one holdexpirydelta before expiry (law 4)", []string{"D/accepted_is_canceled_before_expiry"}},
		{"D", "giving up the SendToRouteV2 call does not give up the HTLC", []string{"D/giving_up_the_call_keeps_the_htlc"}},

		{"F", "the stream dies: released at once by default", []string{"F/stream_dies_default"}},
		{"F", "the stream dies: retained and replayed with requireinterceptor", []string{"F/stream_dies_required"}},
		{"F", "kill -9, sidecar back early", []string{"F/kill_sidecar_back_default", "F/kill_sidecar_back"}},
		{"F", "kill -9, sidecar late: lost by default, held with requireinterceptor", []string{"F/kill_sidecar_late_default", "F/kill_sidecar_late_required"}},
		{"F", "a new HTLC without a sidecar", []string{"F/new_htlc_no_sidecar_default", "F/new_htlc_no_sidecar_required"}},
		{"F", "fresh onion paid, gateway killed before SETTLE, both modes", []string{"F/fresh_onion_paid_then_killed", "F/fresh_onion_paid_then_killed_default"}},
		{"F", "what was resumed is offered again; to resume it again is harmless", []string{"F/resumed_is_offered_again_after_restart", "F/resumed_is_offered_again_after_flap"}},
		{"F", "to fail it loses the amount", []string{"F/failing_a_resumed_one_loses"}},
		{"F", "held HTLCs survive a flap, no re-offer, same key", []string{"F/held_survives_flap_without_reoffer"}},
		{"F", "an unknown key ends the stream, which releases the others by default", []string{"F/unknown_key_ends_the_stream", "F/unknown_key_releases_the_held_default"}},
		{"F", "one interceptor only", []string{"F/one_interceptor_only"}},
		{"F", "it sees all forwards, the wallet's sends too", []string{"F/sees_the_wallets_sends"}},
		{"F", "auto_fail_height = in_expiry - 19; the incoming channel survives", []string{"F/auto_fail_height"}},

		{"H", "X works unconfirmed, after 1 and 7 confirmations", []string{"H/alias_over_confirmations"}},
		{"H", "X works after a restart of the gateway, unconfirmed and confirmed", []string{"H/alias_after_gateway_restart"}},
		{"H", "X works after a restart of the wallet", []string{"H/alias_after_wallet_restart"}},
		{"H", "ListAliases keeps it; again: already exists", []string{"H/alias_again_already_exists"}},
		{"H", "an alias of another channel of the peer's works, and can be moved", []string{
			"H/alias_of_another_channel_of_the_peer", "H/alias_of_a_closed_channel_moves", "H/alias_moves_from_an_open_channel",
		}},
		{"H", "policy race by a reconnection, until a later one", []string{"H/policy_race"}},
		{"H", "policy race by a restart of the gateway", []string{"H/policy_race_by_a_restart"}},
		{"H", "fixed by waiting for the own policy", []string{"H/policy_race_waited_for"}},
		{"H", "fixed by UpdateChannelPolicy with create_missing_edge", []string{"H/policy_race_updated"}},
		{"H", "fixed by default fees of zero", []string{"H/policy_race_default_fees_zero"}},
		{"H", "a close with HTLCs under way is refused; with no_wait it is answered at once, and waits for them", []string{"H/close_with_htlcs"}},
		{"H", "no hint before the channel_update came", []string{"H/no_hint_before_the_update"}},
		// lnd 0.21.0 was seen to leave the wallet without a hint after a drop in that window. 0.21.2 does not.
		{"H", "after a drop in that window the hint comes with the reconnection", []string{"H/hint_after_a_flap", "H/hint_after_a_drop"}},

		{"replays", "intercepted, unanswered: first offer, flaps, kill -9, orderly restart", []string{"replays/unanswered"}},
		{"replays", "resumed, committed: flaps, kill -9, orderly restart", []string{"replays/resumed_and_committed"}},
		{"replays", "resumed, before the batch tick", []string{"replays/resumed_in_the_window"}},
		{"replays", "resumed, signed, wallet frozen; after kill -9", []string{"replays/signed_wallet_frozen"}},
		{"replays", "resumed, no revocation window", []string{"replays/no_revocation_window"}},
		{"replays", "the same, wallet reconnecting", []string{"replays/no_revocation_window_reconnecting"}},
		{"replays", "the same, after kill -9 (never committed)", []string{"replays/no_revocation_window_killed", "replays/no_revocation_window_killed_and_failed"}},
		{"replays", "MPP, part 1 resumed: parts 2 and 3", []string{"replays/mpp_first_part_resumed"}},
		{"replays", "outgoing channel force-closing; after kill -9", []string{"replays/outgoing_force_closing"}},
		{"replays", "incoming channel force-closed: an on-chain offer", []string{"replays/incoming_force_closed"}},
		{"replays", "phantom: absent, and offered again even when failed", []string{"replays/phantom_absent_from_list_channels"}},
		{"replays", "verdict 1: lost by failing in the window", []string{"replays/loss_in_the_window"}},
		{"replays", "verdict 3: lost by resuming a phantom", []string{"replays/loss_by_resuming_a_phantom"}},
		{"replays", "crash between RESUME and commitment: never forwarded, RESUME fails it", []string{"replays/crash_between_resume_and_commitment"}},
		{"replays", "a failure's event comes before its commitment, and is not final", []string{
			"replays/fail_event_before_commitment", "replays/link_fail_event_before_commitment",
		}},
		{"replays", "what lnd failed by itself is not offered again before it signs that", []string{"replays/failed_by_lnd_itself"}},
		{"replays", "RESUME again with the wallet offline is harmless", []string{"replays/resume_again_wallet_offline"}},
		{"replays", "on-chain offers: RESUME kills the stream", []string{"replays/on_chain_answers_kill_the_stream"}},
	}
}
