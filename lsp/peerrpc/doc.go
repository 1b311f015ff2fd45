// Package peerrpc serves LSPS requests over the Lightning peer connection:
// lsps0's messages in and out of lnd, and nothing about what they mean.
//
// It promises:
//   - a peer gets a message from us only in answer to one of its own, on the
//     same connection: a peer that never spoke LSPS never does, and no answer
//     crosses a reconnect;
//   - one answer per request, by its id, in whatever order they are ready: a
//     slow method or a slow peer holds up nobody else;
//   - what a peer can make us do and remember is bounded by itself and together
//     with all others: requests in flight, requests and bytes per second, peers
//     remembered. A peer that uses up its own share leaves the others theirs;
//   - a peer that has disconnected is forgotten, but for what it used up of its
//     share, so that connecting again does not renew it.
package peerrpc
