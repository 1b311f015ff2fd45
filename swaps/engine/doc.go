// Package engine runs the gateway's side of swaps: it feeds the pure machine of
// swaps/out with what lnd and the chain report, and carries out what it asks for.
//
// It promises:
//   - it decides nothing about money: every decision is a stored transition, and
//     only stored effects reach lnd;
//   - whatever it keeps in memory (the rates of quotes, which invoices and
//     outputs are followed) is rebuilt from the database and from lnd after a start;
//   - books are posted in the transaction of the transition that they record;
//   - keys of swaps exist in memory during one call and are never stored.
package engine
