package tenant

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Note is what the log says of a change, besides who and when. It holds no secret:
// every operator reads it.
type Note struct {
	Action string
	Detail map[string]string
}

// Unchanged says that there is nothing to log.
func (n Note) Unchanged() bool { return n.Action == "" }

// Command is one change of a tenant that exists. The set is closed.
type Command interface {
	// apply changes t, which is a copy of the caller's own.
	apply(t *Tenant, p Plan, at time.Time) (Note, error)
}

// Apply decides a change: the tenant as it is afterwards and what the log says, or
// the reason why not. p is the tenant's plan, for ChangePlan the new one. Nothing is
// stored nor logged of a command that changes nothing: its note is Unchanged.
func Apply(t Tenant, p Plan, c Command, at time.Time) (Tenant, Note, error) {
	if _, closing := c.(SetStatus); t.Status == Closed && !closing {
		return Tenant{}, Note{}, errkind.New(errkind.Conflict, "This tenant is closed, for good: register a new one.")
	}
	t = t.clone()
	note, err := c.apply(&t, p, at)
	if err != nil {
		return Tenant{}, Note{}, err
	}
	if !note.Unchanged() {
		t.Changed = at
	}
	return t, note, nil
}

func (t Tenant) clone() Tenant {
	t.Nodes, t.Claims, t.Users = slices.Clone(t.Nodes), slices.Clone(t.Claims), slices.Clone(t.Users)
	t.Declined, t.Macaroons = slices.Clone(t.Declined), slices.Clone(t.Macaroons)
	return t
}

// Register makes a new tenant.
func Register(id string, kind Kind, plan string, at time.Time) (Tenant, Note, error) {
	if err := CheckName("tenant", id); err != nil {
		return Tenant{}, Note{}, err
	}
	if !slices.Contains(Kinds(), kind) {
		return Tenant{}, Note{}, errkind.New(errkind.Invalid, "Say where its node and keys are: hosted, own or self_hosted.")
	}
	return Tenant{ID: id, Kind: kind, Status: Onboarding, Plan: plan, NodeLogin: kind != Hosted, Created: at, Changed: at},
		Note{"register", map[string]string{"kind": string(kind), "plan": plan}}, nil
}

// SetStatus changes how the tenant stands.
type SetStatus struct {
	To     Status
	Reason string
}

func (c SetStatus) apply(t *Tenant, _ Plan, _ time.Time) (Note, error) {
	switch {
	case !slices.Contains(next()[t.Status], c.To):
		return Note{}, errkind.Newf(errkind.Conflict, "The tenant is %s and cannot become %q.", t.Status, c.To)
	case c.To == Active && len(t.Nodes) == 0:
		return Note{}, errkind.New(errkind.Conflict, "The tenant has no node yet: add one first.")
	case c.To != Active && strings.TrimSpace(c.Reason) == "":
		return Note{}, errkind.New(errkind.Invalid, "Say why: the tenant reads it.")
	case len(c.Reason) > maxReason:
		return Note{}, errkind.Newf(errkind.Invalid, "A reason has at most %d bytes.", maxReason)
	}
	note := Note{"status", map[string]string{"from": string(t.Status), "to": string(c.To), "reason": c.Reason}}
	t.Status, t.Reason = c.To, c.Reason
	if c.To == Active {
		t.Reason = ""
	}
	if c.To == Closed {
		t.Macaroons, t.Claims = nil, nil
	}
	return note, nil
}

// ChangePlan puts the tenant under another plan. What it has beyond the plan's
// quotas stays; it gets no more of it.
type ChangePlan struct{}

func (ChangePlan) apply(t *Tenant, p Plan, _ time.Time) (Note, error) {
	note := Note{"plan", map[string]string{"from": t.Plan, "to": p.Name}}
	t.Plan = p.Name
	return note, nil
}

// SetNodeLogin lets nodes log in with their own keys, or not.
type SetNodeLogin struct{ Allowed bool }

func (c SetNodeLogin) apply(t *Tenant, _ Plan, _ time.Time) (Note, error) {
	t.NodeLogin = c.Allowed
	return Note{"node_login", map[string]string{"allowed": strconv.FormatBool(c.Allowed)}}, nil
}

// AddNode adds a node whose statement was verified.
type AddNode struct{ Key ln.PubKey }

func (c AddNode) apply(t *Tenant, p Plan, at time.Time) (Note, error) {
	if t.HasNode(c.Key) {
		return Note{}, errkind.New(errkind.Conflict, "The node is this tenant's already.")
	}
	if err := t.roomFor(c.Key, p); err != nil {
		return Note{}, err
	}
	t.Nodes = append(t.Nodes, Node{Key: c.Key, Added: at})
	return Note{"node.add", map[string]string{"node": c.Key.String()}}, nil
}

// RemoveNode takes a node from the tenant, with its claim and the macaroons that act
// for it.
type RemoveNode struct{ Key ln.PubKey }

func (c RemoveNode) apply(t *Tenant, _ Plan, _ time.Time) (Note, error) {
	_, claimed := t.Claim(c.Key)
	switch {
	case !t.HasNode(c.Key) && !claimed:
		return Note{}, errkind.New(errkind.NotFound, "The tenant has no such node.")
	case t.HasNode(c.Key) && t.Status != Onboarding && len(t.Nodes) == 1:
		return Note{}, errkind.New(errkind.Conflict, "It is the tenant's last node: suspend or close the tenant instead.")
	}
	t.Nodes = slices.DeleteFunc(t.Nodes, func(n Node) bool { return n.Key == c.Key })
	t.Claims = slices.DeleteFunc(t.Claims, func(x Claim) bool { return x.Node == c.Key })
	t.Macaroons = slices.DeleteFunc(t.Macaroons, func(m Macaroon) bool { return m.Node == c.Key })
	return Note{"node.remove", map[string]string{"node": c.Key.String()}}, nil
}

// AddUser adds somebody below the tenant.
type AddUser struct {
	Name string
	Role Role
}

func (c AddUser) apply(t *Tenant, p Plan, at time.Time) (Note, error) {
	if err := CheckName("user", c.Name); err != nil {
		return Note{}, err
	}
	if err := checkRole(c.Role); err != nil {
		return Note{}, err
	}
	if _, there := t.User(c.Name); there {
		return Note{}, errkind.New(errkind.Conflict, "There is a user of this name: change its role, or choose another name.")
	}
	if len(t.Users) >= p.Users {
		return Note{}, errkind.Newf(errkind.Exhausted, "The plan %q allows %d user(s): remove one, or ask for another plan.", p.Name, p.Users)
	}
	t.Users = append(t.Users, User{Name: c.Name, Role: c.Role, Added: at})
	return Note{"user.add", map[string]string{"user": c.Name, "role": string(c.Role)}}, nil
}

func checkRole(r Role) error {
	if !slices.Contains(Roles(), r) {
		return errkind.New(errkind.Invalid, "A role is admin, member or viewer.")
	}
	return nil
}

// SetRole changes what a user may do, with the macaroons that it has.
type SetRole struct {
	Name string
	Role Role
}

func (c SetRole) apply(t *Tenant, _ Plan, _ time.Time) (Note, error) {
	if err := checkRole(c.Role); err != nil {
		return Note{}, err
	}
	for i := range t.Users {
		if t.Users[i].Name == c.Name {
			note := Note{"user.role", map[string]string{"user": c.Name, "from": string(t.Users[i].Role), "to": string(c.Role)}}
			t.Users[i].Role = c.Role
			return note, nil
		}
	}
	return Note{}, noUser()
}

func noUser() error { return errkind.New(errkind.NotFound, "The tenant has no such user.") }

// RemoveUser removes a user with its macaroons.
type RemoveUser struct{ Name string }

func (c RemoveUser) apply(t *Tenant, _ Plan, _ time.Time) (Note, error) {
	if _, there := t.User(c.Name); !there {
		return Note{}, noUser()
	}
	t.Users = slices.DeleteFunc(t.Users, func(u User) bool { return u.Name == c.Name })
	t.Macaroons = slices.DeleteFunc(t.Macaroons, func(m Macaroon) bool { return m.User == c.Name })
	return Note{"user.remove", map[string]string{"user": c.Name}}, nil
}

// SetService declines a service of the plan, or accepts it again.
type SetService struct {
	Service  string
	Accepted bool
}

func (c SetService) apply(t *Tenant, p Plan, _ time.Time) (Note, error) {
	if !slices.Contains(p.Services, c.Service) {
		return Note{}, errkind.Newf(errkind.NotFound, "The plan %q does not offer %q.", p.Name, ln.Clip(c.Service, 64))
	}
	t.Declined = slices.DeleteFunc(t.Declined, func(s string) bool { return s == c.Service })
	if !c.Accepted {
		t.Declined = append(t.Declined, c.Service)
	}
	return Note{"service", map[string]string{"service": c.Service, "accepted": strconv.FormatBool(c.Accepted)}}, nil
}

// SetDrain has the hosted node stop safely, or run again.
type SetDrain struct {
	Drain  bool
	Reason string
}

func (c SetDrain) apply(t *Tenant, _ Plan, _ time.Time) (Note, error) {
	if t.Kind != Hosted {
		return Note{}, errkind.New(errkind.Conflict, "The tenant's node is not hosted here: its owner stops it.")
	}
	if len(c.Reason) > maxReason {
		return Note{}, errkind.Newf(errkind.Invalid, "A reason has at most %d bytes.", maxReason)
	}
	t.Drain = c.Drain
	return Note{"node.drain", map[string]string{"drain": strconv.FormatBool(c.Drain), "reason": c.Reason}}, nil
}

// MaxLife is how long a macaroon may last.
const MaxLife = 400 * 24 * time.Hour

// Issue gives a user a macaroon. With Instead it replaces that one, which may be
// the caller's own: the quota is not needed twice, and nobody is left without.
type Issue struct {
	Macaroon Macaroon
	Instead  uint64
}

// CheckServices wants services of the plan, each once.
func CheckServices(services []string, p Plan) error {
	for i, s := range services {
		if s != ServiceSelf && !slices.Contains(p.Services, s) || slices.Contains(services[:i], s) {
			return errkind.Newf(errkind.Invalid, "Name services of the plan, each once: %s.", strings.Join(append([]string{ServiceSelf}, p.Services...), ", "))
		}
	}
	return nil
}

func (c Issue) apply(t *Tenant, p Plan, at time.Time) (Note, error) {
	m := c.Macaroon
	t.Macaroons = slices.DeleteFunc(t.Macaroons, func(m Macaroon) bool { return !at.Before(m.Expires) })
	note := Note{"macaroon.issue", map[string]string{"macaroon": FormatID(m.ID), "user": m.User, "services": strings.Join(m.Services, ","), "expires": m.Expires.UTC().Format(time.RFC3339)}}
	if c.Instead != 0 {
		if _, there := t.Macaroon(c.Instead); !there {
			return Note{}, noMacaroon()
		}
		t.Macaroons = slices.DeleteFunc(t.Macaroons, func(m Macaroon) bool { return m.ID == c.Instead })
		note.Action, note.Detail["instead"] = "macaroon.rotate", FormatID(c.Instead)
	}
	if _, there := t.User(m.User); !there {
		return Note{}, noUser()
	}
	if !m.Node.IsZero() {
		if !t.HasNode(m.Node) {
			return Note{}, errkind.New(errkind.NotFound, "The tenant has no such node.")
		}
		note.Detail["node"] = m.Node.String()
	}
	if err := CheckServices(m.Services, p); err != nil {
		return Note{}, err
	}
	switch {
	case len(m.Services) == 0:
		return Note{}, errkind.New(errkind.Invalid, "Name at least one service that the macaroon is good for.")
	case !m.Expires.After(at) || m.Expires.After(at.Add(MaxLife)):
		return Note{}, errkind.Newf(errkind.Invalid, "A macaroon lasts for at most %d days: rotate it before its end.", int(MaxLife/(24*time.Hour)))
	case len(t.Macaroons) >= p.Macaroons:
		return Note{}, errkind.Newf(errkind.Exhausted, "The plan %q allows %d macaroon(s): revoke one first.", p.Name, p.Macaroons)
	}
	m.Made = at
	t.Macaroons = append(t.Macaroons, m)
	return note, nil
}

// Revoke ends a macaroon.
type Revoke struct{ ID uint64 }

func (c Revoke) apply(t *Tenant, _ Plan, _ time.Time) (Note, error) {
	m, there := t.Macaroon(c.ID)
	if !there {
		return Note{}, noMacaroon()
	}
	t.Macaroons = slices.DeleteFunc(t.Macaroons, func(m Macaroon) bool { return m.ID == c.ID })
	return Note{"macaroon.revoke", map[string]string{"macaroon": FormatID(c.ID), "user": m.User}}, nil
}

func noMacaroon() error {
	return errkind.New(errkind.NotFound, "The tenant has no such macaroon: it was revoked, or has expired.")
}

// FormatID writes a macaroon's id as people see it.
func FormatID(id uint64) string { return strconv.FormatUint(id, 16) }

// ParseID reads it.
func ParseID(text string) (uint64, error) {
	id, err := strconv.ParseUint(text, 16, 63)
	if err != nil || id == 0 {
		return 0, errkind.New(errkind.Invalid, "A macaroon's id is up to 16 hex digits, as the list shows it.")
	}
	return id, nil
}
