package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// EnvPrefix opens the name of every setting in the environment.
const EnvPrefix = "SLUICE_"

// maxFileBytes bounds what is read as a configuration file.
const maxFileBytes = 1 << 20

// Source is where settings come from, weakest first.
type Source struct {
	// Path is the file; empty means none. A file that is named must exist.
	Path string
	// Env is the environment as os.Environ gives it.
	Env []string
	// NotSettings are names in the environment that begin with EnvPrefix but
	// are other commands' business.
	NotSettings []string
	// Flags maps keys to values.
	Flags map[string]string
}

// Flags are the command-line flags of every command that loads a
// configuration; embed it in a kong command.
type Flags struct {
	Config string            `short:"c" type:"path" help:"Configuration file." env:"SLUICE_CONFIG"`
	Set    map[string]string `placeholder:"KEY=VALUE" mapsep:"none" help:"Set one setting, for example --set log.level=debug; wins over environment and file. May be given several times."`
}

// Source joins the flags with an environment.
func (f Flags) Source(env []string) Source {
	return Source{Path: f.Config, Env: env, NotSettings: []string{"SLUICE_CONFIG"}, Flags: f.Set}
}

// Load overrides the defaults that into, a pointer to a struct, already holds,
// and validates the result. The error joins everything that is wrong, not
// only the first.
func Load(src Source, into any) error {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("config: want a pointer to a struct, have %T", into)
	}
	root := v.Elem()
	if src.Path != "" {
		content, err := readFile(src.Path)
		if err != nil {
			return err
		}
		if err := Decode(src.Path, content, into); err != nil {
			return err
		}
	}
	if err := loadEnv(src, root); err != nil {
		return err
	}
	if err := loadFlags(src.Flags, root); err != nil {
		return err
	}
	return Validate(into)
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("configuration file %s has %d bytes, more than %d: is it the right file?", path, info.Size(), maxFileBytes)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	return content, nil
}

// Decode reads TOML over a struct, without validating it. name is for errors.
func Decode(name string, content []byte, into any) error {
	dec := toml.NewDecoder(bytes.NewReader(content)).DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		return checkUnits(name, content, reflect.ValueOf(into).Elem())
	}
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		known := settings(reflect.ValueOf(into).Elem(), "")
		var all []error
		for _, e := range unknown.Errors {
			row, _ := e.Position()
			all = append(all, fmt.Errorf("%s, line %d: %w", name, row, unknownKey(strings.Join(e.Key(), "."), known)))
		}
		return errors.Join(all...)
	}
	if bad, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, column := bad.Position()
		if key := strings.Join(bad.Key(), "."); key != "" {
			// The reader knows nothing of Go's types.
			said, _, _ := strings.Cut(strings.TrimPrefix(bad.Error(), "toml: "), " cannot be stored in ")
			if said != strings.TrimPrefix(bad.Error(), "toml: ") {
				said += " does not fit this setting"
			}
			return fmt.Errorf("%s, line %d: %s: %s", name, row, key, said)
		}
		return fmt.Errorf("%s, line %d, column %d: %w", name, row, column, err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// unitBearing marks types whose values are written with their unit. The
// decoder would take a bare number for them as nanoseconds or bytes.
type unitBearing interface{ example() string }

// checkUnits refuses bare numbers where a unit belongs.
func checkUnits(name string, content []byte, root reflect.Value) error {
	var raw map[string]any
	if err := toml.Unmarshal(content, &raw); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return checkUnitsIn(name, raw, root, "")
}

func checkUnitsIn(name string, raw map[string]any, v reflect.Value, prefix string) error {
	return walk(v, prefix, func(f field) error {
		given, ok := lookup(raw, strings.TrimPrefix(f.key, prefix))
		if !ok {
			return nil
		}
		if tables, ok := given.([]any); ok && f.table {
			for _, t := range tables {
				if inner, ok := t.(map[string]any); ok {
					if err := checkUnitsIn(name, inner, reflect.New(f.value.Type().Elem()).Elem(), f.key+"."); err != nil {
						return err
					}
				}
			}
			return nil
		}
		u, ok := f.value.Interface().(unitBearing)
		if _, isString := given.(string); ok && !isString {
			return fmt.Errorf("%s: %s is %v: write it with its unit, in quotes, like %q", name, f.key, given, u.example())
		}
		return nil
	})
}

func lookup(raw map[string]any, key string) (any, bool) {
	head, rest, nested := strings.Cut(key, ".")
	value, ok := raw[head]
	for k, v := range raw {
		// The decoder takes keys in any case where the exact one is absent.
		if !ok && strings.EqualFold(k, head) {
			value, ok = v, true
		}
	}
	if !ok || !nested {
		return value, ok
	}
	inner, ok := value.(map[string]any)
	if !ok {
		return nil, false
	}
	return lookup(inner, rest)
}

func unknownKey(key string, known []string) error {
	if near := nearest(key, known); near != "" {
		return fmt.Errorf("unknown key %q: did you mean %q?", key, near)
	}
	return fmt.Errorf("unknown key %q: see the sample file for the keys there are", key)
}

// EnvName is a key's name in the environment.
func EnvName(key string) string {
	return EnvPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

func loadEnv(src Source, root reflect.Value) error {
	given := map[string]string{}
	for _, pair := range src.Env {
		name, value, ok := strings.Cut(pair, "=")
		if ok && strings.HasPrefix(name, EnvPrefix) && !slices.Contains(src.NotSettings, name) {
			given[name] = value
		}
	}
	var all []error
	names := map[string]string{}
	err := walk(root, "", func(f field) error {
		if f.section {
			return nil
		}
		name := EnvName(f.key)
		if other, twice := names[name]; twice {
			return fmt.Errorf("config: settings %s and %s are both %s in the environment", other, f.key, name)
		}
		names[name] = f.key
		value, ok := given[name]
		if !ok {
			return nil
		}
		delete(given, name)
		if err := setField(f, value); err != nil {
			all = append(all, fmt.Errorf("environment, %s: %w", name, err))
		}
		return nil
	})
	if err != nil {
		return err
	}
	known := make([]string, 0, len(names))
	for name := range names {
		known = append(known, name)
	}
	for _, name := range sortedKeys(given) {
		all = append(all, fmt.Errorf("environment: %w", unknownKey(name, known)))
	}
	return errors.Join(all...)
}

func loadFlags(flags map[string]string, root reflect.Value) error {
	rest := map[string]string{}
	for k, v := range flags {
		rest[k] = v
	}
	var all []error
	err := walk(root, "", func(f field) error {
		value, ok := rest[f.key]
		if !ok || f.section {
			return nil
		}
		delete(rest, f.key)
		if err := setField(f, value); err != nil {
			all = append(all, fmt.Errorf("--set %s: %w", f.key, err))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, key := range sortedKeys(rest) {
		all = append(all, fmt.Errorf("--set: %w", unknownKey(key, settings(root, ""))))
	}
	return errors.Join(all...)
}

func setField(f field, text string) error {
	if f.table {
		return errors.New("a list of tables can only be set in the file")
	}
	return setText(f.value, text)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// nearest is the known key with the fewest edits, if they are few enough for
// it to be what was meant.
func nearest(key string, known []string) string {
	best, bestCost := "", len(key)/3+2
	slices.Sort(known)
	for _, k := range known {
		if cost := edits(key, k); cost < bestCost {
			best, bestCost = k, cost
		}
	}
	if best != "" {
		return best
	}
	// The right name in the wrong section.
	_, last, _ := cutLast(key)
	for _, k := range known {
		if _, name, _ := cutLast(k); name == last {
			return k
		}
	}
	return ""
}

func cutLast(key string) (section, name string, ok bool) {
	i := strings.LastIndexByte(key, '.')
	if i < 0 {
		return "", key, false
	}
	return key[:i], key[i+1:], true
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
