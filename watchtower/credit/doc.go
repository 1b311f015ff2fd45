// Package credit is the state machine of one purchase of credit: a registration
// pays a hold invoice, and its later updates draw on what it paid.
//
// It promises:
//   - the invoice is settled only once the credit is recorded, so that nobody pays
//     for nothing, whenever the process dies;
//   - credit is recorded once for each payment, and taken back only when the node
//     gave the payment back;
//   - money over a channel that may yet be double-spent is not accepted.
//
// What updates cost and when they may draw is package watchtower's.
package credit
