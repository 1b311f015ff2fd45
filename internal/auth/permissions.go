package auth

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Audience is the set of kinds of callers that a method is for.
type Audience uint8

// Audiences; all but Public combine with |.
const (
	// Public methods need no macaroon; they are limited per address.
	Public Audience = 1 << iota
	// Wallets are nodes that logged in.
	Wallets
	// Operators hold the operator's macaroon.
	Operators
	// Tenants hold a tenant's macaroon. Where it acts for a node it is good for what
	// wallets call, too.
	Tenants
)

// Permission says who may call a method, and as part of which service (the
// word that stands in a macaroon's services caveat).
type Permission struct {
	Service string
	For     Audience
	// Nobody lets in callers without any macaroon as well: the handler finds no
	// identity and decides. They are limited by address, like callers of public
	// methods. A macaroon that is shown is verified as ever.
	Nobody bool
}

// Permissions maps full method names, "/package.Service/Method", to who may
// call them. What is not in it is refused.
type Permissions map[string]Permission

// Merge joins the tables of several services. A method claimed twice, or one
// with no audience, is an error: it would be a hole or a contradiction.
func Merge(tables ...Permissions) (Permissions, error) {
	all := Permissions{}
	for _, table := range tables {
		for method, p := range table {
			if _, twice := all[method]; twice {
				return nil, fmt.Errorf("permissions name %s twice", method)
			}
			if p.For == 0 || p.For&Public != 0 && p.For != Public {
				return nil, fmt.Errorf("permissions of %s: either public, or wallets, tenants and operators", method)
			}
			if p.Nobody && p.For == Public {
				return nil, fmt.Errorf("permissions of %s: a public method needs no leave for nobody", method)
			}
			if p.For != Public && p.Service == "" {
				return nil, fmt.Errorf("permissions of %s name no service", method)
			}
			all[method] = p
		}
	}
	return all, nil
}

func (p Permission) check(id Identity) error {
	allowed := id.Kind == KindOperator && p.For&Operators != 0 || id.Kind == KindWallet && p.For&Wallets != 0 ||
		id.Kind == KindTenant && (p.For&Tenants != 0 || p.For&Wallets != 0 && !id.NodeKey.IsZero())
	switch {
	case !allowed && p.For&Operators != 0:
		return errkind.New(errkind.Denied, "This call is for the gateway's operator: use the operator's macaroon file.")
	case !allowed && p.For&Wallets == 0:
		return errkind.New(errkind.Denied, "This call is for tenants: use a tenant's macaroon.")
	case !allowed && id.Kind == KindTenant:
		return errkind.New(errkind.Denied, "This macaroon acts for no node, or its user may only look: ask an admin of the tenant for another.")
	case !allowed:
		return errkind.New(errkind.Denied, "This call is for wallets: log in with the node's key.")
	case !id.Allows(p.Service):
		return errkind.Newf(errkind.Denied, "This macaroon is not good for the service %q: log in again and ask for it.", p.Service)
	}
	return nil
}
