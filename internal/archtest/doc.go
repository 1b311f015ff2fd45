// Package archtest holds the rules of the house (docs/architecture.md) as
// tests over the source: who may import what, and why; no package-level state;
// small interfaces; files that one can read in one sitting.
//
// It promises that each rule says its reason when it fails, that every
// exception is named in the table with a reason of its own, and that an
// exception nobody needs any more fails too.
package archtest
