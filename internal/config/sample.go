package config

import (
	"bytes"
	"encoding"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// Sample writes a file that names every setting with its help and default,
// commented out under its section: what it says is what holds without it. The
// title comes first, line by line.
func Sample(w io.Writer, title string, defaults any) error {
	v := reflect.ValueOf(defaults)
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	copied := reflect.New(v.Type()).Elem()
	copied.Set(v)
	var out bytes.Buffer
	comment(&out, title)
	if err := sampleStruct(&out, copied, "", ""); err != nil {
		return err
	}
	_, err := w.Write(out.Bytes())
	return err
}

// sampleStruct writes a section's own settings before its sections, as TOML
// needs it. mark goes before section names: inside an example of a list of
// tables, whose own name is commented out, they must be too.
func sampleStruct(out *bytes.Buffer, v reflect.Value, prefix, mark string) error {
	var own, nested []field
	err := walk(v, prefix, func(f field) error {
		inner := strings.TrimPrefix(f.key, prefix)
		switch {
		case strings.Contains(inner, "."):
		case f.section, f.table:
			nested = append(nested, f)
		default:
			own = append(own, f)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range own {
		literal, err := literalOf(f.value)
		if err != nil {
			return fmt.Errorf("sample: %s: %w", f.key, err)
		}
		out.WriteByte('\n')
		comment(out, f.tag.Get("help"))
		comment(out, bounds(f.tag))
		_, name, _ := cutLast(f.key)
		fmt.Fprintf(out, "# %s = %s\n", name, literal)
	}
	for _, f := range nested {
		out.WriteByte('\n')
		comment(out, f.tag.Get("help"))
		if f.table {
			if err := sampleTables(out, f); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(out, "%s[%s]\n", mark, f.key)
		if err := sampleStruct(out, f.value, f.key+".", mark); err != nil {
			return err
		}
	}
	return nil
}

// sampleTables writes the entries of a list that hold by default, or where there are none
// the form of one. Only the first has the help of its settings.
func sampleTables(out *bytes.Buffer, f field) error {
	if f.value.Len() == 0 {
		comment(out, "(none by default; each has this form)")
		fmt.Fprintf(out, "# [[%s]]\n", f.key)
		return sampleStruct(out, reflect.New(f.value.Type().Elem()).Elem(), f.key+".", "# ")
	}
	for i := range f.value.Len() {
		var entry bytes.Buffer
		if err := sampleStruct(&entry, f.value.Index(i), f.key+".", "# "); err != nil {
			return err
		}
		if i > 0 {
			out.WriteByte('\n')
		}
		fmt.Fprintf(out, "# [[%s]]\n", f.key)
		for line := range strings.Lines(entry.String()) {
			if i == 0 || strings.HasPrefix(line, "# ") {
				out.WriteString(line)
			}
		}
	}
	return nil
}

func comment(out *bytes.Buffer, text string) {
	if text == "" {
		return
	}
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		out.WriteString(strings.TrimRight("## "+line, " ") + "\n")
	}
}

func bounds(tag reflect.StructTag) string {
	var parts []string
	if tag.Get("required") == "true" {
		parts = append(parts, "required")
	}
	if v, ok := tag.Lookup("oneof"); ok {
		parts = append(parts, "one of "+strings.ReplaceAll(v, "|", ", "))
	}
	if v, ok := tag.Lookup("min"); ok {
		parts = append(parts, "at least "+v)
	}
	if v, ok := tag.Lookup("max"); ok {
		parts = append(parts, "at most "+v)
	}
	if len(parts) == 0 {
		return ""
	}
	return "(" + strings.Join(parts, "; ") + ")"
}

func literalOf(v reflect.Value) (string, error) {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if v.IsZero() && !v.CanInt() {
			// An identifier that is not set has no text that could be read back.
			return `""`, nil
		}
		text, err := m.MarshalText()
		if err != nil {
			return "", err
		}
		return quote(string(text)), nil
	}
	switch {
	case v.Kind() == reflect.String:
		return quote(v.String()), nil
	case v.Kind() == reflect.Bool:
		return strconv.FormatBool(v.Bool()), nil
	case v.CanInt():
		return groupDigits(strconv.FormatInt(v.Int(), 10)), nil
	case v.CanUint():
		return groupDigits(strconv.FormatUint(v.Uint(), 10)), nil
	case v.CanFloat():
		s := strconv.FormatFloat(v.Float(), 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s, nil
	case v.Kind() == reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			item, err := literalOf(v.Index(i))
			if err != nil {
				return "", err
			}
			items[i] = item
		}
		return "[" + strings.Join(items, ", ") + "]", nil
	}
	return "", fmt.Errorf("a %s cannot be written", v.Type())
}

// quote writes a TOML basic string; its escapes are those of JSON.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// groupDigits puts underscores between groups of three from five digits on.
func groupDigits(s string) string {
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	if len(s) < 5 {
		return sign + s
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "_" + s[i:]
	}
	return sign + s
}
