package recovery

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Ref says which version of a thing something is.
type Ref struct {
	Number uint64 `json:"number"`
	MadeMs int64  `json:"made_ms"`
	// SHA256 is of the sealed bytes, in hex.
	SHA256 string `json:"sha256"`
}

// Newer orders versions by number. Two of one number can exist if a machine
// died between writing one and noting it: then the later made is the newer, and
// the hash decides a tie, so that everybody decides alike.
func (r Ref) Newer(o Ref) bool {
	switch {
	case r.Number != o.Number:
		return r.Number > o.Number
	case r.MadeMs != o.MadeMs:
		return r.MadeMs > o.MadeMs
	}
	return r.SHA256 > o.SHA256
}

// Unaccounted gives the channels of a stored backup that the node neither has
// nor remembers. While there are any, the stored backup must not be replaced:
// the node is an emptied one, or an older copy.
func Unaccounted(stored []string, known []ln.Outpoint) []string {
	have := make(map[string]bool, len(known))
	for _, op := range known {
		have[op.String()] = true
	}
	var out []string
	for _, op := range stored {
		if !have[op] {
			out = append(out, op)
		}
	}
	return out
}

// SameChannels compares two sets. lnd makes a backup's bytes anew each time.
func SameChannels(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// Head is a vault's signed head as text: a receipt's, or one over a nonce.
type Head struct {
	ServerKey string `json:"server_key"`
	Identity  string `json:"identity"`
	Epoch     string `json:"epoch"`
	Seq       uint64 `json:"seq"`
	Hash      string `json:"hash"`
	AtMs      int64  `json:"at_ms"`
	Nonce     string `json:"nonce,omitempty"`
	Signature string `json:"signature"`
}

// FromSigned writes a head.
func FromSigned(h vault.SignedHead) *Head {
	return &Head{
		ServerKey: hex.EncodeToString(h.Server[:]), Identity: string(h.Identity), Epoch: hex.EncodeToString(h.Epoch[:]), Seq: h.Seq,
		Hash: hex.EncodeToString(h.Hash[:]), AtMs: h.AtMs, Nonce: hex.EncodeToString(h.Nonce), Signature: hex.EncodeToString(h.Signature[:]),
	}
}

// Signed reads a head and verifies its signature.
func (h *Head) Signed() (vault.SignedHead, error) {
	if h == nil {
		return vault.SignedHead{}, fmt.Errorf("there is no head")
	}
	id, err := vault.ParseIdentity(h.Identity)
	if err != nil {
		return vault.SignedHead{}, err
	}
	out := vault.SignedHead{Head: vault.Head{Identity: id, Seq: h.Seq, AtMs: h.AtMs}}
	if h.Nonce != "" {
		out.Nonce = make([]byte, vault.NonceSize)
	}
	for _, f := range []struct {
		into       []byte
		text, name string
	}{
		{out.Server[:], h.ServerKey, "server_key"},
		{out.Epoch[:], h.Epoch, "epoch"},
		{out.Hash[:], h.Hash, "hash"},
		{out.Signature[:], h.Signature, "signature"},
		{out.Nonce, h.Nonce, "nonce"},
	} {
		raw, err := hex.DecodeString(f.text)
		if err != nil || len(raw) != len(f.into) {
			return vault.SignedHead{}, fmt.Errorf("%s is not %d bytes in hex", f.name, len(f.into))
		}
		copy(f.into, raw)
	}
	return out, out.Verify()
}

// Mark is what one provider acknowledged, as it is noted at all the others.
type Mark struct {
	// Place names the provider for ever, whatever people call it.
	Place string `json:"place"`
	// Name is what this wallet's owner calls it.
	Name string `json:"name"`
	// Things are the versions that it acknowledged of each thing, by name, but for
	// its witness; AtMs is when it acknowledged one last.
	Things map[string]Ref `json:"things"`
	AtMs   int64          `json:"at_ms"`
	// Receipt says where its log stood after the last of those writes, by a
	// provider that gives receipts. Binding is its node's signature of the key that
	// receipts are signed with.
	Receipt *Head  `json:"receipt,omitempty"`
	Binding string `json:"binding,omitempty"`
}

// Witness is what each provider keeps of all the others.
type Witness struct {
	// At is the place that it is kept at.
	At string `json:"at"`
	// Require is at how many providers the owner wants each version, of how many.
	Require int `json:"require"`
	Of      int `json:"of"`
	// Names are the things of this wallet that are backed up besides the channels.
	Names []string `json:"names,omitempty"`
	Marks []Mark   `json:"marks"`
}

// DecodeWitness reads what was sealed.
func DecodeWitness(raw []byte) (Witness, error) {
	var w Witness
	if err := json.Unmarshal(raw, &w); err != nil {
		return w, fmt.Errorf("witness: %w", err)
	}
	return w, nil
}

// Without is the witness for one place, without its own mark: what a provider
// itself keeps of itself proves nothing.
func (w Witness) Without(place string) Witness {
	w.At = place
	w.Marks = slices.DeleteFunc(slices.Clone(w.Marks), func(m Mark) bool { return m.Place == place })
	return w
}

// Merge joins what two devices noted: of each place the newest mark, and the
// configuration of w.
func (w Witness) Merge(o Witness) Witness {
	at := map[string]int{}
	out := w
	out.Marks, out.Names = nil, slices.Clone(w.Names)
	for _, m := range append(slices.Clone(w.Marks), o.Marks...) {
		if i, seen := at[m.Place]; seen {
			out.Marks[i] = out.Marks[i].join(m)
			continue
		}
		at[m.Place] = len(out.Marks)
		out.Marks = append(out.Marks, m)
	}
	for _, n := range o.Names {
		if !slices.Contains(out.Names, n) {
			out.Names = append(out.Names, n)
		}
	}
	slices.Sort(out.Names)
	slices.SortFunc(out.Marks, func(a, b Mark) int { return strings.Compare(a.Place, b.Place) })
	return out
}

// join takes the newest of everything that two marks of one place say.
func (m Mark) join(o Mark) Mark {
	out := m
	if o.later(m) {
		out = o
	}
	out.Things = maps.Clone(m.Things)
	for name, ref := range o.Things {
		if have, ok := out.Things[name]; ok && !ref.Newer(have) {
			continue
		}
		if out.Things == nil {
			out.Things = map[string]Ref{}
		}
		out.Things[name] = ref
	}
	return out
}

// later says whether m speaks of a later moment of the place's log than o.
func (m Mark) later(o Mark) bool {
	a, b := m.Receipt, o.Receipt
	switch {
	case a != nil && b == nil:
		return true
	case a == nil && b != nil:
		return false
	case a != nil && a.ServerKey == b.ServerKey && a.Epoch == b.Epoch && a.Seq != b.Seq:
		return a.Seq > b.Seq
	}
	// A provider that was restored begins another epoch, in which its log is
	// shorter: the later word is the newer one.
	return m.AtMs > o.AtMs
}
