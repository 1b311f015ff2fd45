// Package app wires Sluice's services together into one daemon: it is the only
// place that knows all of them.
//
// It promises that services meet only through the ports that each declares,
// that a service runs only while this process owns the database lease, and
// that an orderly stop fails nothing that is held.
package app
