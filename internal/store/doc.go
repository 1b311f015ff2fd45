// Package store is the plumbing under every package that keeps tables. It
// promises that one set of migrations and queries behaves the same on SQLite
// (one machine, the default) and on PostgreSQL (several replicas):
//
//   - a transaction is serializable and durable when Write returns nil, and is
//     retried when the database asks for it;
//   - failures arrive as one of a few errors that code can act on: ErrNotFound,
//     ErrUnique, ErrConflict, ErrUnavailable, ErrOutcomeUnknown;
//   - a Lease says which replica owns a piece of work, with a fencing epoch that
//     a transaction can check, so that two owners can never both decide;
//   - Notify and Listen wake up waiting code, also in other replicas;
//   - a restored older database is recognised by a file outside of it.
package store
