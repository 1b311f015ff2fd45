package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// command is what one of our programs understands, read from the struct tags
// of its source: commands are package main, which no test can import.
type command struct {
	sub   map[string]*command
	flags map[string]bool
}

// program reads cmd/<name> from the type that is its root command.
func program(t *testing.T, name, rootType string) *command {
	t.Helper()
	types := map[string]*ast.StructType{}
	files, err := filepath.Glob(filepath.Join(root, "cmd", name, "*.go"))
	require.NoError(t, err)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok {
					types[spec.Name.Name] = s
				}
			}
			return true
		})
	}
	require.Contains(t, types, rootType)
	c := &command{sub: map[string]*command{}, flags: map[string]bool{"help": true}}
	c.read(types, types[rootType], "")
	require.NotEmpty(t, c.sub, name)
	return c
}

func (c *command) read(types map[string]*ast.StructType, s *ast.StructType, prefix string) {
	for _, field := range s.Fields.List {
		tag := reflect.StructTag("")
		if field.Tag != nil {
			tag = reflect.StructTag(strings.Trim(field.Tag.Value, "`"))
		}
		inner, _ := field.Type.(*ast.StructType)
		typeName := ""
		switch x := field.Type.(type) {
		case *ast.Ident:
			typeName, inner = x.Name, types[x.Name]
		case *ast.SelectorExpr:
			typeName = x.Sel.Name
		}
		if len(field.Names) == 0 {
			if typeName == "Flags" {
				c.flags["config"], c.flags["set"] = true, true
			} else if inner != nil {
				c.read(types, inner, prefix)
			}
			continue
		}
		for _, ident := range field.Names {
			name := tag.Get("name")
			if name == "" {
				name = kebab(ident.Name)
			}
			_, isCommand := tag.Lookup("cmd")
			_, embedded := tag.Lookup("embed")
			_, argument := tag.Lookup("arg")
			switch {
			case isCommand:
				sub := &command{sub: map[string]*command{}, flags: map[string]bool{"help": true}}
				if inner != nil {
					sub.read(types, inner, "")
				}
				c.sub[name] = sub
				if alias := tag.Get("aliases"); alias != "" {
					c.sub[alias] = sub
				}
			case embedded && inner != nil:
				c.read(types, inner, prefix+tag.Get("prefix"))
			case !argument:
				c.flags[prefix+name] = true
				if _, ok := tag.Lookup("negatable"); ok {
					c.flags["no-"+prefix+name] = true
				}
			}
		}
	}
}

var upper = regexp.MustCompile(`([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])`)

// kebab is kong's way of naming: NoZeroConf is no-zero-conf, NoQR no-qr.
func kebab(name string) string {
	return strings.ToLower(upper.ReplaceAllString(name, "$1$3-$2$4"))
}

var (
	fencePattern  = regexp.MustCompile("(?ms)^\\s*```(?:sh|console)\n(.*?)^\\s*```")
	inlinePattern = regexp.MustCompile("`((?:sluiced|sluicectl|sluice-wallet|sluice-devnet) [^`]+)`")
)

// TestCommands: every command that the documents tell people to type exists,
// with its flags.
func TestCommands(t *testing.T) {
	programs := map[string]*command{
		"sluiced": program(t, "sluiced", "commandLine"), "sluicectl": program(t, "sluicectl", "CLI"),
		"sluice-wallet": program(t, "sluice-wallet", "CLI"), "sluice-devnet": program(t, "sluice-devnet", "commandLine"),
	}
	seen := 0
	for _, page := range pages(t) {
		text := read(t, page)
		var lines []string
		for _, m := range fencePattern.FindAllStringSubmatch(text, -1) {
			lines = append(lines, strings.Split(m[1], "\n")...)
		}
		for _, m := range inlinePattern.FindAllStringSubmatch(text, -1) {
			lines = append(lines, strings.ReplaceAll(m[1], "\n", " "))
		}
		for _, line := range lines {
			line, _, _ = strings.Cut(line, " #")
			words := strings.Fields(line)
			if len(words) < 2 {
				continue
			}
			if p, ours := programs[filepath.Base(words[0])]; ours {
				seen++
				p.check(t, page, line, words[1:])
			}
		}
	}
	require.Greater(t, seen, 60)
}

func (c *command) check(t *testing.T, page, line string, words []string) {
	t.Helper()
	at, flags := c, []map[string]bool{c.flags}
	for _, word := range words {
		if word == ">" || word == "|" {
			break
		}
		if long, ok := strings.CutPrefix(word, "--"); ok {
			name, _, _ := strings.Cut(long, "=")
			known := false
			for _, f := range flags {
				known = known || f[name]
			}
			require.True(t, known, "%s: %q: there is no flag --%s", page, line, name)
			continue
		}
		if next, ok := at.sub[word]; ok {
			at, flags = next, append(flags, next.flags)
		}
	}
	require.NotSame(t, c, at, "%s: %q names no command", page, line)
	require.Empty(t, at.sub, "%s: %q lacks a command", page, line)
}
