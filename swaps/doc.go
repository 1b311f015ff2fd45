// Package swaps moves bitcoin between Lightning and the chain for stock Loop
// clients: the words that all rooms of the service share.
//
// It promises that what is shared is plain data: times and heights come with
// every event, secrets print as the prefix of their hash, and a reason is a
// stable code with a sentence for the person who reads it.
package swaps
