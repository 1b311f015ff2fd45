package fsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
)

// sum reads and writes the values of one sealed interface by their names.
type sum[T any] struct {
	what  string
	name  func(T) string
	types map[string]reflect.Type
}

func newSum[T any](what string, name func(T) string, examples []T) (*sum[T], error) {
	s := &sum[T]{what: what, name: name, types: make(map[string]reflect.Type)}
	for _, example := range examples {
		t := reflect.TypeOf(example)
		if t == nil {
			return nil, fmt.Errorf("a nil %s among the examples", what)
		}
		if t.Kind() == reflect.Pointer {
			return nil, fmt.Errorf("%s %s is a pointer: use struct values, so that Step cannot change them in place", what, t)
		}
		n := name(example)
		if n == "" {
			return nil, fmt.Errorf("%s %s has no name", what, t)
		}
		if other, taken := s.types[n]; taken {
			return nil, fmt.Errorf("%s name %q belongs to both %s and %s", what, n, other, t)
		}
		s.types[n] = t
	}
	return s, nil
}

func (s *sum[T]) encode(v T) (name, data string, err error) {
	t := reflect.TypeOf(v)
	if t == nil {
		return "", "", fmt.Errorf("nil %s", s.what)
	}
	name = s.name(v)
	if s.types[name] != t {
		return "", "", fmt.Errorf("%s %q (%s) is not among the machine's examples", s.what, name, t)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return "", "", fmt.Errorf("%s %q: %w", s.what, name, err)
	}
	return name, string(raw), nil
}

// decode refuses fields that it doesn't know: a newer program wrote them, and
// writing the state back without them would lose what they said.
func (s *sum[T]) decode(name, data string) (v T, err error) {
	t, ok := s.types[name]
	if !ok {
		return v, fmt.Errorf("unknown %s %q: was it written by a newer version?", s.what, name)
	}
	p := reflect.New(t)
	dec := json.NewDecoder(bytes.NewReader([]byte(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(p.Interface()); err != nil {
		return v, fmt.Errorf("%s %q: %w", s.what, name, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return v, fmt.Errorf("%s %q: data after the JSON value", s.what, name)
	}
	v, ok = p.Elem().Interface().(T)
	if !ok {
		return v, fmt.Errorf("%s %q has type %s", s.what, name, t)
	}
	return v, nil
}

// codec holds the three sums of a machine.
type codec[S State, V Event, F Effect] struct {
	states  *sum[S]
	events  *sum[V]
	effects *sum[F]
}

// Validate checks that a machine is well formed: names, examples and edges fit
// together.
func (m *Machine[S, V, F]) Validate() error {
	_, err := m.codec()
	return err
}

func (m *Machine[S, V, F]) codec() (*codec[S, V, F], error) {
	fail := func(err error) (*codec[S, V, F], error) {
		return nil, fmt.Errorf("state machine %q: %w", m.Name, err)
	}
	if m.Name == "" || m.Step == nil || m.Terminal == nil {
		return fail(errors.New("it needs Name, Step and Terminal"))
	}
	var (
		c   codec[S, V, F]
		err error
	)
	if c.states, err = newSum("state", S.StateName, m.States); err != nil {
		return fail(err)
	}
	if c.events, err = newSum("event", V.EventName, m.Events); err != nil {
		return fail(err)
	}
	if c.effects, err = newSum("effect", F.EffectName, m.Effects); err != nil {
		return fail(err)
	}
	seen := make(map[string]bool)
	for _, edge := range m.Edges {
		key := edge.From + " --" + edge.Event + "--> " + edge.To
		if seen[key] {
			return fail(fmt.Errorf("edge %s is declared twice", key))
		}
		seen[key] = true
		if c.states.types[edge.From] == nil || c.states.types[edge.To] == nil || c.events.types[edge.Event] == nil {
			return fail(fmt.Errorf("edge %s names a state or an event that is not among the examples", key))
		}
		for _, name := range edge.Effects {
			if c.effects.types[name] == nil {
				return fail(fmt.Errorf("edge %s names the unknown effect %q", key, name))
			}
		}
	}
	return &c, nil
}
