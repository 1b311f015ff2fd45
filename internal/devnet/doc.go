// Package devnet runs a real Lightning network on one machine: btcd in
// regtest mode, any number of unpatched lnds, PostgreSQL, and whatever other
// programs a test wants to supervise beside them.
//
// It promises:
//   - nothing outlives its network: every process is in a group of its own that
//     Close kills, and on Linux the kernel kills it when this process dies in
//     any other way; [Net.Close] reports what is left, processes and files;
//   - two networks never collide: ports come from a block that the network
//     holds for its lifetime, below the range of outgoing connections;
//   - waiting means waiting for a condition with a deadline, and an error says
//     which condition was awaited and how the process's log ends;
//   - faults are first-class: kill -9, freeze, restart with other flags, cut,
//     stalled and slow links, reorganised chains, changing fee rates.
//
// It is a harness: it imports lnrpc freely, and no service may import it.
package devnet
