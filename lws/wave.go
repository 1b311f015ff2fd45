package lws

import "github.com/sluice-lsp/sluice/internal/ln"

// Room is what a channel to the wallet can take: lnd believes in Most at most, and has
// Least at least.
type Room struct{ Least, Most ln.Msat }

// Wave is how many of these payments, in order, can be handed on in one moment. lnd puts
// each part into any channel of the wallet that it believes to have room for it, by chance,
// and counts nothing that it has not signed for: so what comes in one moment must fit into
// each of them as a whole, or some of it fails at a full channel beside an empty one. At
// least one goes, whether it fits or not: lnd has the last word.
func Wave(payments [][]ln.Msat, rooms []Room) int {
	sum, bound := ln.Msat(0), ln.MaxMsat
	for i, parts := range payments {
		for _, part := range parts {
			sum = min(sum+part, ln.MaxMsat)
			for _, r := range rooms {
				if r.Most >= part {
					bound = min(bound, r.Least)
				}
			}
		}
		if i > 0 && sum > bound {
			return i
		}
	}
	return len(payments)
}
