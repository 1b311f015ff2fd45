package auth

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Caveats are first-party conditions of the form "name value". The issuer
// writes kind first; a holder may append more to weaken a macaroon before
// handing it on (shorter expiry, fewer services, named methods), never to
// widen it, because every later caveat can only narrow what stands.
const (
	caveatKind     = "kind"
	caveatNode     = "node"
	caveatTenant   = "tenant"
	caveatServices = "services"
	caveatExpires  = "expires"
	caveatMethods  = "methods"
)

const (
	maxServices       = 16
	maxServiceNameLen = 32
)

// claims is what a chain of caveats says.
type claims struct {
	identity Identity
	// methods restricts the calls; nil means no restriction.
	methods []string
}

func renderCaveats(id Identity) []string {
	out := []string{caveatKind + " " + string(id.Kind)}
	if id.Kind == KindTenant {
		// Its node, user and role are the registry's to say, at each call.
		out = append(out, caveatTenant+" "+id.Tenant)
	} else if !id.NodeKey.IsZero() {
		out = append(out, caveatNode+" "+id.NodeKey.String())
	}
	if id.Services != nil {
		out = append(out, caveatServices+" "+strings.Join(id.Services, ","))
	}
	if !id.Expires.IsZero() {
		out = append(out, caveatExpires+" "+strconv.FormatInt(id.Expires.Unix(), 10))
	}
	return out
}

// parseCaveats reads verified conditions in order. An unknown or malformed
// one refuses the macaroon: a condition that is not understood cannot be met.
func parseCaveats(conditions []string) (claims, error) {
	var c claims
	for i, condition := range conditions {
		name, value, _ := strings.Cut(condition, " ")
		if i == 0 && name != caveatKind {
			return claims{}, fmt.Errorf("first caveat is %q, want %q", name, caveatKind)
		}
		if err := c.narrow(name, value); err != nil {
			return claims{}, fmt.Errorf("caveat %q: %w", name, err)
		}
	}
	switch {
	case c.identity.Kind == "":
		return claims{}, fmt.Errorf("no caveat says whose it is")
	case c.identity.Kind == KindWallet && (c.identity.NodeKey.IsZero() || c.identity.Services == nil || c.identity.Expires.IsZero()):
		return claims{}, fmt.Errorf("a wallet's macaroon needs the caveats node, services and expires")
	case c.identity.Kind == KindTenant && (c.identity.Tenant == "" || c.identity.Services == nil || c.identity.Expires.IsZero()):
		return claims{}, fmt.Errorf("a tenant's macaroon needs the caveats tenant, services and expires")
	}
	return c, nil
}

func (c *claims) narrow(name, value string) error {
	switch name {
	case caveatKind:
		kind := Kind(value)
		if kind != KindOperator && kind != KindWallet && kind != KindTenant {
			return fmt.Errorf("unknown kind")
		}
		if c.identity.Kind != "" && c.identity.Kind != kind {
			return fmt.Errorf("contradicts an earlier one")
		}
		c.identity.Kind = kind
	case caveatNode:
		key, err := ln.ParsePubKey(value)
		if err != nil {
			return err
		}
		if c.identity.Kind != KindWallet || !c.identity.NodeKey.IsZero() && c.identity.NodeKey != key {
			return fmt.Errorf("contradicts an earlier one")
		}
		c.identity.NodeKey = key
	case caveatTenant:
		if value == "" || c.identity.Kind != KindTenant || c.identity.Tenant != "" && c.identity.Tenant != value {
			return fmt.Errorf("contradicts an earlier one")
		}
		c.identity.Tenant = value
	case caveatServices:
		services, err := parseServices(value)
		if err != nil {
			return err
		}
		c.identity.Services = intersect(c.identity.Services, services)
	case caveatExpires:
		unix, err := strconv.ParseInt(value, 10, 64)
		if err != nil || unix <= 0 {
			return fmt.Errorf("want unix seconds")
		}
		if at := time.Unix(unix, 0).UTC(); c.identity.Expires.IsZero() || at.Before(c.identity.Expires) {
			c.identity.Expires = at
		}
	case caveatMethods:
		c.methods = intersect(c.methods, strings.Split(value, ","))
	default:
		return fmt.Errorf("not known here")
	}
	return nil
}

// intersect keeps what is in both; a nil left side stands for everything. The
// result is never nil, since nil would stand for everything again.
func intersect(have, narrower []string) []string {
	out := []string{}
	for _, s := range narrower {
		if (have == nil || slices.Contains(have, s)) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// parseServices reads "a,b"; the empty text is no service.
func parseServices(text string) ([]string, error) {
	if text == "" {
		return []string{}, nil
	}
	services := strings.Split(text, ",")
	return services, checkServices(services)
}

func checkServices(services []string) error {
	if len(services) > maxServices {
		return fmt.Errorf("more than %d services", maxServices)
	}
	for _, s := range services {
		if s == "" || len(s) > maxServiceNameLen {
			return fmt.Errorf("a service's name has 1 to %d characters", maxServiceNameLen)
		}
		for _, r := range s {
			if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
				return fmt.Errorf("a service's name has lower-case letters, digits, - and _")
			}
		}
	}
	return nil
}
