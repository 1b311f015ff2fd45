// Package tenant is the pure domain of tenants: who is registered, with which
// nodes, users and macaroons, under which plan, and what each may do now.
//
// It promises that a change is either refused with a reason that its caller can
// act on, or gives a tenant within its plan's quotas; that whatever a tenant does
// not need is not granted; and that the log of changes is a chain of hashes in
// which an altered, removed, moved or added entry shows. Where the keys of a
// tenant's node are is a word of the registration and decides nothing else here.
package tenant
