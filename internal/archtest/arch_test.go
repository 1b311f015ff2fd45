package archtest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	maxLines   = 600
	maxMethods = 5
)

type pkg struct {
	ImportPath, Dir, Name                        string
	GoFiles, CgoFiles, TestGoFiles, XTestGoFiles []string
	Imports                                      []string
}

// path is the package's path within the module, "." for the root.
func (p pkg) path() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func load(t *testing.T) []pkg {
	t.Helper()
	// -e: a package that does not compile yet still has imports and files.
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Dir,Name,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles,Imports", "./...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var all []pkg
	for dec := json.NewDecoder(out); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		all = append(all, p)
	}
	require.NoError(t, cmd.Wait())
	require.Greater(t, len(all), 5, "go list found the module")
	return all
}

// findings collects what is wrong and which exceptions were needed.
type findings struct {
	wrong []string
	used  map[exception]bool
}

func newFindings() *findings { return &findings{used: map[exception]bool{}} }

func (f *findings) report(rule, where, what, reason string) {
	for _, e := range exceptions() {
		if e.rule == rule && (e.where == where || strings.HasPrefix(where, e.where+":")) {
			f.used[e] = true
			return
		}
	}
	f.wrong = append(f.wrong, fmt.Sprintf("%s: %s\n\trule %q: %s", where, what, rule, reason))
}

func (f *findings) unusedExceptions(rules ...string) {
	for _, e := range exceptions() {
		if slices.Contains(rules, e.rule) && !f.used[e] {
			f.wrong = append(f.wrong, fmt.Sprintf("the exception from rule %q for %s is not needed any more: remove it", e.rule, e.where))
		}
	}
}

func (f *findings) failOn(t *testing.T) {
	t.Helper()
	for _, w := range f.wrong {
		t.Error(w)
	}
}

func TestImports(t *testing.T) {
	f := newFindings()
	var names []string
	packages := load(t)
	for _, rule := range importRules() {
		names = append(names, rule.name)
		for _, p := range packages {
			if !rule.in(p.path()) {
				continue
			}
			for _, imported := range p.Imports {
				if rule.forbids(p.path(), imported) {
					f.report(rule.name, p.path(), "imports "+imported, rule.reason)
				}
			}
		}
	}
	f.unusedExceptions(names...)
	f.failOn(t)
}

func TestSource(t *testing.T) {
	f := newFindings()
	for _, p := range load(t) {
		checkName(f, p)
		if len(p.GoFiles)+len(p.CgoFiles) == 0 {
			continue
		}
		documented, written := false, false
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Errorf("%s/%s: %v", p.path(), name, err)
				continue
			}
			documented = documented || file.Doc != nil
			if ast.IsGenerated(file) {
				continue
			}
			written = true
			checkFile(f, p, p.path()+"/"+name, fset, file)
		}
		if written && !documented {
			f.report("package comment", p.path(), "has none", "every package opens with a comment that says what it promises")
		}
	}
	f.unusedExceptions("package comment", "names", "length", "no init", "no package-level state", "small interfaces", "no panics", "no sleeps", "no exits")
	f.failOn(t)
}

func checkName(f *findings, p pkg) {
	if slices.Contains([]string{"common", "util", "utils", "helpers", "misc", "shared"}, filepath.Base(p.path())) {
		f.report("names", p.path(), "is named after nothing", "a package is named by what it provides; these names collect what belongs elsewhere (rule 5)")
	}
}

func checkFile(f *findings, p pkg, where string, fset *token.FileSet, file *ast.File) {
	if n := fset.File(file.Pos()).LineCount(); n > maxLines {
		f.report("length", where, fmt.Sprintf("has %d lines", n), "a file holds one idea, in about 500 lines (rule 6)")
	}
	at := func(n ast.Node) string { return fmt.Sprintf("%s:%d", where, fset.Position(n.Pos()).Line) }
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				f.report("no init", at(d), "func init", "nothing happens on import: wire it where it is used (rule 5)")
			}
		case *ast.GenDecl:
			if d.Tok == token.VAR {
				checkVars(f, d, at)
			}
		}
	}
	production := !harness(p.path())
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.InterfaceType:
			if m := methodCount(n); m > maxMethods {
				f.report("small interfaces", at(n), fmt.Sprintf("an interface with %d methods", m), "an interface is declared by its consumer and has five methods at most (rule 3)")
			}
		case *ast.CallExpr:
			switch callee := callName(n); {
			case !production:
			case callee == "panic":
				f.report("no panics", at(n), "panics", "library code returns errors: a panic takes down what holds HTLCs")
			case callee == "psbt.NewFromRawBytes" && p.path() != "internal/psbts":
				f.report("one reader of PSBTs", at(n), callee, "btcd's reader panics over some of what strangers may send: internal/psbts does not")
			case callee == "time.Sleep":
				f.report("no sleeps", at(n), "sleeps", "wait for an event or a timer that a context can end")
			case p.Name != "main" && (callee == "os.Exit" || callee == "log.Fatal" || callee == "log.Fatalf"):
				f.report("no exits", at(n), callee, "only main ends the process")
			}
		}
		return true
	})
}

func callName(c *ast.CallExpr) string {
	switch fun := c.Fun.(type) {
	case *ast.Ident:
		return fun.Name
	case *ast.SelectorExpr:
		if x, ok := fun.X.(*ast.Ident); ok {
			return x.Name + "." + fun.Sel.Name
		}
	}
	return ""
}

func methodCount(i *ast.InterfaceType) int {
	n := 0
	for _, m := range i.Methods.List {
		n += len(m.Names)
	}
	return n
}

// checkVars lets through what nothing changes: errors, interface assertions
// and embedded files.
func checkVars(f *findings, d *ast.GenDecl, at func(ast.Node) string) {
	for _, spec := range d.Specs {
		v, ok := spec.(*ast.ValueSpec)
		if !ok || hasDirective(d.Doc, "//go:embed") || hasDirective(v.Doc, "//go:embed") {
			continue
		}
		for i, name := range v.Names {
			if name.Name == "_" || i < len(v.Values) && isError(name.Name, v.Values[i]) {
				continue
			}
			f.report("no package-level state", at(v), "var "+name.Name, "state lives in values that are passed; a fixed table is a function or a switch (rule 5)")
		}
	}
}

func hasDirective(doc *ast.CommentGroup, directive string) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, directive) })
}

func isError(name string, value ast.Expr) bool {
	call, ok := value.(*ast.CallExpr)
	if !ok || !regexp.MustCompile(`^(err|Err)[A-Z]`).MatchString(name) {
		return false
	}
	return slices.Contains([]string{"errors.New", "fmt.Errorf", "errkind.New", "errkind.Newf", "status.Error", "status.Errorf"}, callName(call))
}

// The checks must find what they are for: a rule that matches nothing is no
// rule.
func TestChecksFindViolations(t *testing.T) {
	source := `package x
import ("errors"; "time"; "os")
var ErrFine = errors.New("fine")
var _ interface{} = (*int)(nil)
//go:embed x
var files string
var state int
func init() {}
type big interface { A(); B(); C(); D(); E(); F() }
func f() { panic(1); time.Sleep(1); os.Exit(1) }
`
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "x.go", source, parser.ParseComments)
	require.NoError(t, err)
	f := newFindings()
	checkFile(f, pkg{Name: "x", ImportPath: module + "/lsp"}, "lsp/x.go", fset, file)
	found := strings.Join(f.wrong, "\n")
	for _, rule := range []string{"no init", "no package-level state", "small interfaces", "no panics", "no sleeps", "no exits"} {
		require.Equal(t, 1, strings.Count(found, fmt.Sprintf("rule %q", rule)), found)
	}
	for importer, imported := range map[string]string{
		"lsp":                  "google.golang.org/grpc",
		"interceptor":          "database/sql",
		"lsp/api":              "github.com/lightningnetwork/lnd/lnrpc/routerrpc",
		"interceptor/stream":   "github.com/lightninglabs/lndclient",
		"internal/lnd":         "github.com/lightningnetwork/lnd/watchtower/blob",
		"lsp/store":            module + "/interceptor",
		"internal/ledger":      module + "/lsp",
		"internal/errkind":     "go.uber.org/zap",
		"swaps/agent":          module + "/internal/devnet",
		"backupsvc/api":        "github.com/stretchr/testify/require",
		"cmd/sluiced":          "log",
		"interceptor/proxy/v1": module + "/lws/store",
	} {
		require.True(t, slices.ContainsFunc(importRules(), func(r importRule) bool {
			return r.in(importer) && r.forbids(importer, imported)
		}), "%s importing %s", importer, imported)
	}
	for importer, imported := range map[string]string{
		"lsp":                "github.com/btcsuite/btcd/wire",
		"interceptor/stream": "github.com/lightningnetwork/lnd/lnrpc/routerrpc",
		"watchtower":         "github.com/lightningnetwork/lnd/watchtower/blob",
		"internal/app":       module + "/lsp",
		"cmd/sluiced":        module + "/internal/app",
		"lsp/store":          module + "/lsp",
		"swaps/htlc":         "github.com/lightninglabs/loop/swap",
		"internal/devnet":    "github.com/lightningnetwork/lnd/lnrpc",
	} {
		require.False(t, slices.ContainsFunc(importRules(), func(r importRule) bool {
			return r.in(importer) && r.forbids(importer, imported)
		}), "%s importing %s", importer, imported)
	}
}
