package tenant

import (
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Place is where a hosted node is made: one directory of one machine.
//
// Two places are the same if all of it is the same. A directory that was copied has
// the ID of the first one, and a machine that took another one's place has its words.
type Place struct {
	// ID is random, 32 lower-case hex digits, and kept in the directory.
	ID string
	// Words are for people: the machine and the directory.
	Words string
}

// Claim says that a node's key is used at one place. Two watch-only nodes of one seed
// are two nodes of one key: their states diverge and their channels' money is lost.
type Claim struct {
	Node  ln.PubKey
	Place Place
	Since time.Time
}

// Claim gives the claim for a node's key.
func (t Tenant) Claim(key ln.PubKey) (Claim, bool) {
	i := slices.IndexFunc(t.Claims, func(c Claim) bool { return c.Node == key })
	if i < 0 {
		return Claim{}, false
	}
	return t.Claims[i], true
}

// Elsewhere names the place for which a node's key is claimed, if that is another one
// than here. Of a place without an id nothing is known.
func (t Tenant) Elsewhere(key ln.PubKey, here Place) string {
	c, claimed := t.Claim(key)
	if !claimed || here.ID == "" || c.Place == here {
		return ""
	}
	return c.Place.Words
}

// roomFor wants room in the plan for a node's key. What is claimed has its room.
func (t Tenant) roomFor(key ln.PubKey, p Plan) error {
	if _, claimed := t.Claim(key); claimed || t.HasNode(key) {
		return nil
	}
	taken := len(t.Nodes)
	for _, c := range t.Claims {
		if !t.HasNode(c.Node) {
			taken++
		}
	}
	if taken >= p.Nodes {
		return errkind.Newf(errkind.Exhausted, "The plan %q allows %d node(s), and so many are there or being made: remove one that is not needed, or choose another plan.", p.Name, p.Nodes)
	}
	return nil
}

// ClaimNode takes a node's key for a place, before anything of the node is made there.
// From the same place again it changes nothing.
type ClaimNode struct {
	Key   ln.PubKey
	Place Place
	// Made says that the node's wallet is at the place already.
	Made bool
	// Moved takes the key over from another place, whose node never starts again.
	Moved bool
}

func (c ClaimNode) apply(t *Tenant, p Plan, at time.Time) (Note, error) {
	if t.Kind != Hosted {
		return Note{}, errkind.New(errkind.Conflict, "The tenant's node is not hosted here: its owner makes it.")
	}
	if err := c.Place.check(); err != nil {
		return Note{}, err
	}
	have, claimed := t.Claim(c.Key)
	if claimed && have.Place == c.Place {
		return Note{}, nil
	}
	note := Note{"node.claim", map[string]string{"node": c.Key.String(), "place": c.Place.Words}}
	if !c.Moved {
		if err := c.clash(t, have, claimed); err != nil {
			return Note{}, err
		}
	} else if claimed || t.HasNode(c.Key) {
		note.Action, note.Detail["from"] = "node.move", "a place that is not known"
		if claimed {
			note.Detail["from"] = have.Place.Words
		}
	}
	if err := t.roomFor(c.Key, p); err != nil {
		return Note{}, err
	}
	t.Claims = slices.DeleteFunc(t.Claims, func(x Claim) bool { return x.Node == c.Key })
	t.Claims = append(t.Claims, Claim{Node: c.Key, Place: c.Place, Since: at})
	return note, nil
}

// clash says why the key is not this place's.
func (c ClaimNode) clash(t *Tenant, have Claim, claimed bool) error {
	switch {
	case claimed && have.Place.ID == c.Place.ID:
		return errkind.Newf(errkind.Conflict, "This directory was %s when its node was made, since %s, and is %s now: it was moved or copied. If it was moved, and nothing starts the node at the old place ever again, take it over with --moved. Of a copy start nothing: two nodes of one seed lose their channels' money.", have.Place.Words, clock(have.Since), c.Place.Words)
	case claimed:
		return errkind.Newf(errkind.Conflict, "The node %s is made or runs at another place: %s, since %s. Two nodes of one seed lose their channels' money, so go on there. Only if the node of that place never starts again (its directory was moved here, or its machine is gone for good) take it over with --moved.", c.Key, have.Place.Words, clock(have.Since))
	case t.HasNode(c.Key) && !c.Made:
		return errkind.Newf(errkind.Conflict, "The node %s is registered, so it was made before, and not here: a second one of its seed would lose its channels' money. Go on where it is. Only if it never starts again there, use --moved.", c.Key)
	}
	return nil
}

func clock(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05 UTC") }

// maxWords bounds what people read of a place.
const maxWords = 1000

func (p Place) check() error {
	ok := len(p.ID) == 32
	for _, r := range p.ID {
		ok = ok && (r >= '0' && r <= '9' || r >= 'a' && r <= 'f')
	}
	if !ok {
		return errkind.New(errkind.Invalid, "A place's id has 32 lower-case hex digits.")
	}
	ok = p.Words != "" && len(p.Words) <= maxWords && utf8.ValidString(p.Words)
	for _, r := range p.Words {
		ok = ok && unicode.IsPrint(r)
	}
	if !ok {
		return errkind.Newf(errkind.Invalid, "Name the machine and the directory, in at most %d bytes without control characters.", maxWords)
	}
	return nil
}
