// Package lsps5 is bLIP-55, webhook registration, as messages and rules: what
// the three methods take and give, the errors that the spec has for refusals,
// which URLs may be called at all, the text of a notification and what is
// signed of it, and when the next one of a method may be sent.
//
// It promises:
//   - a URL that is taken names one host and port, reached by HTTPS, that is not
//     an address of a private network as it stands; where its name leads is
//     checked by whoever calls it, at each call;
//   - a notification's body is the one sequence of bytes that validators that
//     parse it and write it again get;
//   - it is pure: no I/O, no clock, no randomness.
package lsps5
