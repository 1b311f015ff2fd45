package config

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Validator is implemented by sections that check more than tags can say:
// what one setting means for another.
type Validator interface{ Validate() error }

// Validate checks tags and Validate methods of a struct and joins everything
// that is wrong.
func Validate(config any) error {
	v := reflect.ValueOf(config)
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	// A copy can be addressed, so that methods on pointers are found too.
	copied := reflect.New(v.Type()).Elem()
	copied.Set(v)
	return validate(copied, "")
}

func validate(v reflect.Value, prefix string) error {
	var all []error
	err := walk(v, prefix, func(f field) error {
		switch {
		case f.table:
			for i := range f.value.Len() {
				all = append(all, validate(f.value.Index(i), fmt.Sprintf("%s[%d].", f.key, i)))
			}
			if f.tag.Get("required") == "true" && f.value.Len() == 0 {
				all = append(all, fmt.Errorf("%s: at least one is required", f.key))
			}
		case f.section:
			all = append(all, runValidator(f.value, f.key))
		default:
			all = append(all, checkTags(f))
		}
		return nil
	})
	all = append(all, err)
	if prefix == "" || strings.HasSuffix(prefix, "].") {
		all = append(all, runValidator(v, strings.TrimSuffix(prefix, ".")))
	}
	return errors.Join(all...)
}

func runValidator(v reflect.Value, key string) error {
	check, ok := v.Addr().Interface().(Validator)
	if !ok {
		return nil
	}
	err := check.Validate()
	if err == nil || key == "" {
		return err
	}
	return fmt.Errorf("%s: %w", key, err)
}

// bounded is implemented by types that have a range of their own; the file's
// decoder stores numbers without asking them.
type bounded interface{ inRange() error }

func checkTags(f field) error {
	if b, ok := f.value.Interface().(bounded); ok {
		if err := b.inRange(); err != nil {
			return fmt.Errorf("%s: %w", f.key, err)
		}
	}
	if f.tag.Get("required") == "true" && f.value.IsZero() {
		return fmt.Errorf("%s is required: set it in the file, or %s in the environment", f.key, EnvName(f.key))
	}
	if allowed, ok := f.tag.Lookup("oneof"); ok {
		if have := fmt.Sprint(f.value.Interface()); !slices.Contains(strings.Split(allowed, "|"), have) {
			return fmt.Errorf("%s is %q: use one of %s", f.key, have, strings.ReplaceAll(allowed, "|", ", "))
		}
	}
	for _, bound := range []struct {
		tag, word string
		bad       int
	}{{"min", "at least", -1}, {"max", "at most", 1}} {
		text, ok := f.tag.Lookup(bound.tag)
		if !ok {
			continue
		}
		limit := reflect.New(f.value.Type()).Elem()
		if err := setText(limit, text); err != nil {
			return fmt.Errorf("config: tag %s of %s: %w", bound.tag, f.key, err)
		}
		order, err := compare(f.value, limit)
		if err != nil {
			return fmt.Errorf("config: tag %s of %s: %w", bound.tag, f.key, err)
		}
		if order == bound.bad {
			return fmt.Errorf("%s is %v: it must be %s %s", f.key, f.value.Interface(), bound.word, text)
		}
	}
	return nil
}

func compare(a, b reflect.Value) (int, error) {
	switch {
	case a.CanInt():
		return cmp.Compare(a.Int(), b.Int()), nil
	case a.CanUint():
		return cmp.Compare(a.Uint(), b.Uint()), nil
	case a.CanFloat():
		return cmp.Compare(a.Float(), b.Float()), nil
	}
	return 0, fmt.Errorf("a %s has no order", a.Type())
}
