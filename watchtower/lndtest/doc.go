// Package lndtest has lnd's own test suite of tower databases run on ours, as it
// stands in the lnd that this module requires: nothing of it is copied here.
//
// lnd's suite runs on lnd's databases and on a mock. The test reads it where Go
// keeps modules, puts our database in the mock's place, and has it compiled as a
// package of this module that exists during the test only (go test -overlay).
package lndtest
