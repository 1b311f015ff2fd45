// Package lsps0 is the codec of bLIP-50: JSON-RPC 2.0 in custom messages of
// the Lightning peer connection, and the types that all LSPS share.
//
// It promises:
//   - whatever a peer sends is bounded (bytes, depth, the id's length) before
//     it is parsed, and a name that stands twice is refused: no two readers can
//     see different requests in one message;
//   - names are matched exactly, integers are integers and amounts are decimal
//     strings, as the spec has them; where clients in the field deviate and
//     the meaning is plain, they are understood (null for an absent parameter,
//     datetimes without milliseconds or with +00:00);
//   - what it writes is as the spec asks to the letter: no needless escapes,
//     milliseconds in datetimes, an object in data, `unrecognized` with every
//     -32602, and never more bytes than one message carries;
//   - it is pure: no I/O, no clock, no randomness.
package lsps0
