package matrixtest

import (
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Garbage makes requests of edge cases and of what somebody knows, so that some get
// past the first check.
type Garbage struct {
	Rand *rand.Rand
	// NodeKey is a node key that is one; Texts are ids and names that exist.
	NodeKey []byte
	Texts   []string
	// Whole may fill a message by itself, Field choose a field's value.
	Whole func(protoreflect.Message) bool
	Field func(protoreflect.FieldDescriptor) (protoreflect.Value, bool)
}

const garbageDepth = 4

// Fill sets most of a message's fields, some of them to values that fit.
func (g *Garbage) Fill(m protoreflect.Message) { g.fill(m, 0) }

func (g *Garbage) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	if g.Whole != nil && g.Whole(m) {
		if g.Rand.IntN(6) == 0 {
			g.set(m, fields.Get(g.Rand.IntN(fields.Len())), depth)
		}
		return
	}
	for i := range fields.Len() {
		if g.Rand.IntN(6) > 0 {
			g.set(m, fields.Get(i), depth)
		}
	}
}

func (g *Garbage) set(m protoreflect.Message, f protoreflect.FieldDescriptor, depth int) {
	message := f.Kind() == protoreflect.MessageKind
	switch {
	case message && depth >= garbageDepth:
	case f.IsMap():
		if f.MapValue().Kind() != protoreflect.MessageKind && g.Rand.IntN(2) == 0 {
			m.Mutable(f).Map().Set(g.value(f.MapKey()).MapKey(), g.value(f.MapValue()))
		}
	case f.IsList():
		list := m.Mutable(f).List()
		for range g.Rand.IntN(3) {
			if !message {
				list.Append(g.value(f))
				continue
			}
			item := list.NewElement()
			g.fill(item.Message(), depth+1)
			list.Append(item)
		}
	case message:
		g.fill(m.Mutable(f).Message(), depth+1)
	default:
		m.Set(f, g.value(f))
	}
}

func (g *Garbage) value(f protoreflect.FieldDescriptor) protoreflect.Value {
	if g.Field != nil {
		if v, ok := g.Field(f); ok {
			return v
		}
	}
	n := g.Amount()
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n%2 == 0)
	case protoreflect.EnumKind:
		if values := f.Enum().Values(); g.Rand.IntN(2) == 0 {
			return protoreflect.ValueOfEnum(values.Get(g.Rand.IntN(values.Len())).Number())
		}
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(int32(n))) //nolint:gosec // any
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n)) //nolint:gosec // any
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		if g.Rand.IntN(2) == 0 {
			n = 80
		}
		return protoreflect.ValueOfUint32(uint32(n)) //nolint:gosec // any
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		if g.Rand.IntN(2) == 0 {
			n = uint64(time.Now().Add(time.Duration(g.Rand.IntN(4000)) * time.Second).UnixMilli()) //nolint:gosec // a time
		}
		return protoreflect.ValueOfInt64(int64(n)) //nolint:gosec // any
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(n)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(math.NaN()))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(math.Inf(1))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(g.Bytes([]int{0, 1, 31, 32, 32, 32, 33, 33, 64, 5000}[g.Rand.IntN(10)]))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(g.Text())
	case protoreflect.MessageKind, protoreflect.GroupKind:
	}
	return f.Default()
}

// Amount is at an edge of what integers and bitcoin amounts can be, or anything.
func (g *Garbage) Amount() uint64 {
	edges := []uint64{0, 1, 999, 1000, 100_000_000, 100_000_000, 100_000_000, 100_000_001, 21_000_000 * 100_000_000_000, math.MaxInt32, math.MaxUint32, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64}
	if n := g.Rand.IntN(len(edges) + 2); n < len(edges) {
		return edges[n]
	}
	return g.Rand.Uint64() >> g.Rand.IntN(64)
}

// Bytes are random; 33 of them are the node key.
func (g *Garbage) Bytes(n int) []byte {
	out := make([]byte, n)
	if n == 33 {
		copy(out, g.NodeKey)
		return out
	}
	for i := range out {
		out[i] = byte(g.Rand.Uint32())
	}
	return out
}

// Text is one that exists, or one that something may stumble over.
func (g *Garbage) Text() string {
	if len(g.Texts) > 0 && g.Rand.IntN(2) == 0 {
		return g.Texts[g.Rand.IntN(len(g.Texts))]
	}
	texts := []string{
		"", "paid", "settled", "' OR 1=1 --", "\x00", "a\x00b", "%s%n%d", "../../etc/passwd", "\u202eevil", "\ufffd\U0010ffff", "lnbcrt1",
		strings.Repeat("f", 64), strings.Repeat("ab", 3000), string(g.Bytes(40)),
	}
	return strings.ToValidUTF8(texts[g.Rand.IntN(len(texts))], "")
}
