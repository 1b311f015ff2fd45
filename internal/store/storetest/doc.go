// Package storetest runs tests on both database engines. It promises that each
// test gets an empty database of its own, that PostgreSQL is really run (a test
// fails if it is missing, unless SLUICE_SKIP_POSTGRES=1), and that nothing is
// left behind, neither a process nor a file, however the test process ends.
// Faults makes databases crash, vanish, fill up or lock at chosen points.
package storetest
