// Package agent is the wallet's side of backups: it runs beside a wallet's own
// stock lnd and keeps what would be lost with its disk at several providers,
// encrypted, and brings it back.
//
// It promises:
//   - the channel backup is written at the start and at every change of the
//     channels, to every provider by itself: one that hangs delays no other;
//   - it says "backed up" only while as many providers as the owner asked for
//     acknowledged the present version, were seen to have it lately, and are not
//     accused of anything;
//   - what is stored is never replaced unseen: an agent reads before its first
//     write, and a backup that knows channels of which lnd knows nothing stays;
//   - every provider's newest receipt is noted at all the others, so that a
//     wallet restored from its seed alone sees which of them shows less than it
//     acknowledged;
//   - a restore takes the newest version there is, and refuses when a newer one
//     may exist;
//   - secrets stay here: providers see ciphertext under names that are hashes.
//
// Decisions are those of the pure package recovery; encryption is seal's.
package agent
