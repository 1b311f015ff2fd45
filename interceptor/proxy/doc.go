// Package proxy lets programs of others share lnd's one HTLC interceptor and its
// channel acceptor. It serves lnd's own routerrpc.Router/HtlcInterceptor and
// lnrpc.Lightning/ChannelAcceptor to any number of them, and passes every other
// method through to lnd with the caller's macaroon, so that a program written for
// lnd works by pointing it here.
//
// It promises:
//   - a program is asked about each forward at most once, and only while no RESUME
//     can have moved it. Replays never reach it; what it has yet to answer is shown
//     to it again when it attaches again;
//   - answers are merged by package ballot; what is more than a plain resume is on
//     record before lnd hears of it;
//   - no program can hold up the others, or the gateway, by hanging, flooding, or
//     answering wrongly: its policy speaks for it after a while, its queue is bounded,
//     and a stream of wrong answers ends;
//   - nobody attaches whose macaroon lnd would not let attach.
package proxy
