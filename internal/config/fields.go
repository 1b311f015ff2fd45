package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// field is one setting.
type field struct {
	// key is its full name, "section.name".
	key   string
	value reflect.Value
	tag   reflect.StructTag
	// section marks a struct, table a list of structs.
	section, table bool
}

// walk calls visit for every section, before what is in it, and every setting
// of a struct.
func walk(v reflect.Value, prefix string, visit func(field) error) error {
	t := v.Type()
	for i := range t.NumField() {
		sf := t.Field(i)
		name, _, _ := strings.Cut(sf.Tag.Get("toml"), ",")
		if sf.Anonymous && name == "" && sf.Type.Kind() == reflect.Struct {
			if err := walk(v.Field(i), prefix, visit); err != nil {
				return err
			}
			continue
		}
		if !sf.IsExported() || name == "" || name == "-" {
			continue
		}
		f := field{key: prefix + name, value: v.Field(i), tag: sf.Tag}
		f.section = sf.Type.Kind() == reflect.Struct && !isText(sf.Type)
		f.table = sf.Type.Kind() == reflect.Slice && sf.Type.Elem().Kind() == reflect.Struct && !isText(sf.Type.Elem())
		if err := visit(f); err != nil {
			return err
		}
		if f.section {
			if err := walk(f.value, f.key+".", visit); err != nil {
				return err
			}
		}
	}
	return nil
}

func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// settings lists the keys of a struct, those inside lists of tables included,
// for suggestions.
func settings(v reflect.Value, prefix string) []string {
	var keys []string
	// The visitor returns no error, so the walk has none.
	_ = walk(v, prefix, func(f field) error {
		if f.table {
			keys = append(keys, settings(reflect.New(f.value.Type().Elem()).Elem(), f.key+".")...)
		}
		keys = append(keys, f.key)
		return nil
	})
	return keys
}

// setText sets a setting from text: the form that flags and environment have.
func setText(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q: want true or false", text)
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(digits(text), 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q: want a whole number in the setting's range", text)
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(digits(text), 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q: want a whole number, not negative, in the setting's range", text)
		}
		v.SetUint(n)
	case reflect.Float32, reflect.Float64:
		x, err := strconv.ParseFloat(text, v.Type().Bits())
		if err != nil || x != x {
			return fmt.Errorf("%q: want a number", text)
		}
		v.SetFloat(x)
	case reflect.Slice:
		return setList(v, text)
	default:
		return errors.New("this setting can only be set in the file")
	}
	return nil
}

// setList reads "a,b,c"; the empty text is the empty list.
func setList(v reflect.Value, text string) error {
	list := reflect.MakeSlice(v.Type(), 0, 0)
	for item := range strings.SplitSeq(text, ",") {
		if text == "" {
			break
		}
		e := reflect.New(v.Type().Elem()).Elem()
		if err := setText(e, strings.TrimSpace(item)); err != nil {
			return err
		}
		list = reflect.Append(list, e)
	}
	v.Set(list)
	return nil
}

// digits drops the underscores that TOML allows between digits.
func digits(s string) string { return strings.ReplaceAll(s, "_", "") }
