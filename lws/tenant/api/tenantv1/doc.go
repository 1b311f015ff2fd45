// Package tenantv1 is the wire form of the registry of tenants: messages and
// stubs generated from tenant.proto, REST routes from tenant.rest.yaml. It
// promises that fields keep their numbers and meaning within version 1.
package tenantv1
