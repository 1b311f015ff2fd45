package tenant

import (
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Kind says where a tenant's node runs and where its keys are. The words are
// stored.
type Kind string

// The kinds.
const (
	// Hosted: a watch-only node at the operator, its signer at the tenant.
	Hosted Kind = "hosted"
	// Own: the operator's own node, with its own keys.
	Own Kind = "own"
	// SelfHosted: the tenant runs its whole node and attaches to the gateway.
	SelfHosted Kind = "self_hosted"
)

// Kinds lists them.
func Kinds() []Kind { return []Kind{Hosted, Own, SelfHosted} }

// Status is how a tenant stands. The words are stored.
type Status string

// The standings.
const (
	// Onboarding: registered; its nodes get no service yet.
	Onboarding Status = "onboarding"
	Active     Status = "active"
	// Suspended: nothing is served to it, until the operator lifts it.
	Suspended Status = "suspended"
	// Closed is for good: its macaroons are gone, its name is not given again.
	Closed Status = "closed"
)

// Statuses lists them.
func Statuses() []Status { return []Status{Onboarding, Active, Suspended, Closed} }

// next is which standing may follow which.
func next() map[Status][]Status {
	return map[Status][]Status{
		Onboarding: {Active, Closed}, Active: {Suspended, Closed}, Suspended: {Active, Closed}, Closed: nil,
	}
}

// Role is what a tenant's user may do. The words are stored.
type Role string

// The roles.
const (
	// Admin manages users, macaroons and services, and uses what the node may.
	Admin Role = "admin"
	// Member uses what the node may, and sees the registration.
	Member Role = "member"
	// Viewer sees the registration.
	Viewer Role = "viewer"
)

// Roles lists them.
func Roles() []Role { return []Role{Admin, Member, Viewer} }

// ServiceSelf is the service word of the registration itself: a macaroon without
// it can use the node's services and can neither see nor change the registration.
const ServiceSelf = "tenant"

// Plan is what a group of tenants may have.
type Plan struct {
	Name string
	// Services are what is offered, by their words in macaroons.
	Services []string
	// Nodes, Users and Macaroons are quotas of each tenant.
	Nodes, Users, Macaroons int
}

// Tenant is one registration with everything below it.
type Tenant struct {
	// ID is the name that the operator chose; it never changes.
	ID     string
	Kind   Kind
	Status Status
	// Reason is the operator's word for a standing that is not active.
	Reason string
	Plan   string
	// NodeLogin lets the tenant's nodes log in with their own keys. Of a hosted node
	// the host can do that too, because the signer signs messages for it: so it is
	// off for those unless somebody wants it.
	NodeLogin bool
	Nodes     []Node
	// Claims say where nodes are made, those that are to be added among them.
	Claims    []Claim
	Users     []User
	Declined  []string
	Macaroons []Macaroon
	// Drain is the wish that the hosted node takes no new HTLCs and stops.
	Drain            bool
	Created, Changed time.Time
}

// Node is a Lightning node of a tenant. A key belongs to one tenant at most.
type Node struct {
	Key   ln.PubKey
	Added time.Time
}

// User is somebody below a tenant.
type User struct {
	Name  string
	Role  Role
	Added time.Time
}

// Macaroon is what is known of a macaroon that was issued; the macaroon itself is
// not kept. Who is not listed any more is refused.
type Macaroon struct {
	// ID is that of its root key.
	ID   uint64
	User string
	// Node is whom it acts for at services of nodes; zero for none.
	Node     ln.PubKey
	Services []string
	Made     time.Time
	Expires  time.Time
}

// Offered are the services that the tenant may use: its plan's, less what it
// declined.
func (t Tenant) Offered(p Plan) []string {
	return slices.DeleteFunc(slices.Clone(p.Services), func(s string) bool { return slices.Contains(t.Declined, s) })
}

// User gives a user of the tenant.
func (t Tenant) User(name string) (User, bool) {
	i := slices.IndexFunc(t.Users, func(u User) bool { return u.Name == name })
	if i < 0 {
		return User{}, false
	}
	return t.Users[i], true
}

// Macaroon gives a macaroon of the tenant.
func (t Tenant) Macaroon(id uint64) (Macaroon, bool) {
	i := slices.IndexFunc(t.Macaroons, func(m Macaroon) bool { return m.ID == id })
	if i < 0 {
		return Macaroon{}, false
	}
	return t.Macaroons[i], true
}

// HasNode tells whether a node is the tenant's.
func (t Tenant) HasNode(key ln.PubKey) bool {
	return slices.ContainsFunc(t.Nodes, func(n Node) bool { return n.Key == key })
}

// Statement is the text by which a node says whose it is; the node signs it
// (lncli signmessage). It names the gateway, so that no other operator can use it.
func Statement(gateway ln.PubKey, id string, node ln.PubKey) string {
	return "sluice tenant, version 1: the node " + node.String() + " belongs to the tenant " + id + " of the gateway " + gateway.String()
}

// Bounds of names. They stand in file names, host names and macaroons.
const (
	maxName   = 32
	maxReason = 200
)

// CheckName says whether a text can be a tenant's, plan's or user's name.
func CheckName(what, name string) error {
	ok := name != "" && len(name) <= maxName && name[0] != '-' && !strings.HasSuffix(name, "-")
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	if !ok {
		return errkind.Newf(errkind.Invalid, "A %s's name has 1 to %d lower-case letters, digits and hyphens, and no hyphen at its ends.", what, maxName)
	}
	return nil
}

// Most that a plan can allow; a registration is read as a whole.
const (
	maxNodes     = 100
	maxUsers     = 1000
	maxMacaroons = 1000
	maxServices  = 15
)

// CheckPlan says whether a plan makes sense; known are the services there are.
func CheckPlan(p Plan, known []string) error {
	if err := CheckName("plan", p.Name); err != nil {
		return err
	}
	for i, s := range p.Services {
		if !slices.Contains(known, s) {
			return errkind.Newf(errkind.Invalid, "There is no service %q: choose from %s.", s, strings.Join(known, ", "))
		}
		if slices.Contains(p.Services[:i], s) {
			return errkind.Newf(errkind.Invalid, "The service %q is named twice.", s)
		}
	}
	if len(p.Services) > maxServices || p.Nodes < 0 || p.Nodes > maxNodes || p.Users < 1 || p.Users > maxUsers || p.Macaroons < 1 || p.Macaroons > maxMacaroons {
		return errkind.Newf(errkind.Invalid, "A plan allows up to %d nodes, 1 to %d users and 1 to %d macaroons.", maxNodes, maxUsers, maxMacaroons)
	}
	return nil
}
