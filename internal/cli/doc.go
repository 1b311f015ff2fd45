// Package cli is what the command lines of this project share: tables,
// amounts and times for people, JSON for programs, errors as sentences, shell
// completion, and a display that refreshes in place.
//
// It promises that whatever comes from a server is printed without control
// characters, so that no text of a stranger's can steer the terminal; that
// nothing is coloured or redrawn unless the output is a terminal; and that
// the JSON form never changes with the width or kind of the output.
package cli
