// Package ln holds the domain's own words for what a Lightning node shows and
// does: amounts with their unit in the type, identifiers, channels, HTLCs,
// invoices, payments, coins and channel opens.
//
// It promises to import nothing but the standard library, to give every
// amount exact integer arithmetic that reports overflow instead of wrapping,
// and to print no secret: a Preimage formats as the prefix of its hash. Both
// the adapter to lnd and every service's domain speak these types, so that no
// service knows lnd's wire format.
package ln
