// Package webhooks is the service behind bLIP-55: it keeps clients' webhooks,
// decides when one is told something, and tells it.
//
// It promises:
//   - a webhook is durable before its client is answered, and is kept for as
//     long as the client has a channel and some days more; a notification is
//     durable before it is sent, and its outcome is in the ledger;
//   - a webhook hears first that it was registered. Everything else is told only
//     while the client is away, to all of its webhooks, and each method once in
//     a while: a client that comes and goes lifts that only so often;
//   - who has nothing to do with the gateway registers nothing;
//   - what a webhook answers, or that it does not, changes nothing for the
//     client: it learns nothing of what the gateway could reach;
//   - URLs go to no log and no answer: they may hold secrets of clients'.
package webhooks
