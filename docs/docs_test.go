// Package docs_test keeps the documentation equal to the code: states,
// methods, errors, reasons, commands, settings and links.
package docs_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/app"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/lsp/collab"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/wrap"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
	"github.com/sluice-lsp/sluice/watchtower"
)

const root = ".."

// pages are the documents that people read.
func pages(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/deploy/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		out = append(out, found...)
	}
	require.NotEmpty(t, out)
	return out
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

// rows are the first table below a heading, cell by cell, without its head.
func rows(t *testing.T, page, heading string) [][]string {
	t.Helper()
	_, below, found := strings.Cut(page, "\n"+heading+"\n")
	require.True(t, found, "heading %q", heading)
	var out [][]string
	for line := range strings.SplitSeq(below, "\n") {
		if !strings.HasPrefix(line, "|") {
			if len(out) > 0 {
				break
			}
			continue
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.Trim(strings.TrimSpace(cell), "`"))
		}
		out = append(out, cells)
	}
	require.Greater(t, len(out), 2, "table below %q", heading)
	return out[2:]
}

func column(table [][]string, n int) []string {
	var out []string
	for _, r := range table {
		out = append(out, r[n])
	}
	return out
}

// machine is what a page says of a state machine, from the machine itself.
func machine[S fsm.State, V fsm.Event, F fsm.Effect](m fsm.Machine[S, V, F], end string) (names []string, over, ends map[string]bool) {
	over, ends = map[string]bool{}, map[string]bool{}
	for _, s := range m.States {
		names = append(names, s.StateName())
		over[s.StateName()] = m.Terminal(s)
	}
	for _, e := range m.Edges {
		if e.Event == end {
			ends[e.From] = true
		}
	}
	return names, over, ends
}

func TestStates(t *testing.T) {
	page := read(t, "protocol.md")
	check := func(heading string, names []string, over, ends map[string]bool) {
		table := rows(t, page, heading)
		require.ElementsMatch(t, names, column(table, 0), "states below %q", heading)
		for _, r := range table {
			require.Equal(t, over[r[0]], r[1] == "yes", "%s: is %s over?", heading, r[0])
			require.Equal(t, ends[r[0]], r[3] == "yes", "%s: can %s be ended?", heading, r[0])
		}
	}
	names, over, ends := machine(jit.Machine(), "cancel")
	check("### The payer pays", names, over, ends)
	names, over, ends = machine(wrap.Machine(), "cancel")
	check("### The receiver pays", names, over, ends)
	names, over, ends = machine(opening.Machine(), "abandon")
	check("## States of a channel open", names, over, ends)

	page = read(t, "funding.md")
	table := rows(t, page, "## States")
	joint := collab.Machine()
	names, over, _ = machine(joint, "")
	require.ElementsMatch(t, names, column(table, 0))
	for _, r := range table {
		require.Equal(t, over[r[0]], r[1] == "yes", "%s: is %s over?", "joint funding", r[0])
	}
	require.ElementsMatch(t, []string{string(collab.ReasonInputs), string(collab.ReasonSpent), string(collab.ReasonUnsigned)}, column(rows(t, page, "## Reasons"), 0))

	page = read(t, "protocol.md")
	table = rows(t, page, "## States of a held HTLC")
	require.ElementsMatch(t, []string{
		string(interceptor.StateHeld), string(interceptor.StatePaying), string(interceptor.StateResumed),
		string(interceptor.StateRefusedUnknown), string(interceptor.StateFailed), string(interceptor.StateSettled),
		string(interceptor.StateLapsed),
	}, column(table, 0))
	for _, r := range table {
		require.True(t, interceptor.State(r[0]).Valid(), r[0])
		require.Equal(t, interceptor.State(r[0]).Decided(), r[1] == "yes", r[0])
	}
}

// TestBreachStates: the page on the watchtower tells every state of a breach.
func TestBreachStates(t *testing.T) {
	var states []string
	for _, s := range watchtower.BreachStates() {
		states = append(states, string(s))
	}
	require.ElementsMatch(t, states, column(rows(t, read(t, "watchtower.md"), "## What is punished"), 0))
}

// TestTenants: the page on tenants tells every kind and every role.
func TestTenants(t *testing.T) {
	page := read(t, "tenant.md")
	var kinds, roles []string
	for _, k := range tenant.Kinds() {
		kinds = append(kinds, string(k))
	}
	for _, r := range tenant.Roles() {
		roles = append(roles, string(r))
	}
	require.Equal(t, kinds, column(rows(t, page, "## Three kinds"), 0))
	require.Equal(t, roles, column(rows(t, page, "## Users, roles and macaroons"), 0))
}

// TestChecks: the page on tenants tells every check with its exit code, and carries the
// container's file.
func TestChecks(t *testing.T) {
	page := read(t, "tenant.md")
	table := rows(t, page, "## The ten checks")
	require.Len(t, table, len(onboard.Names()))
	for i, name := range onboard.Names() {
		require.Equal(t, []string{string(name), fmt.Sprint(name.ExitCode())}, table[i][:2])
	}
	require.Contains(t, page, "```dockerfile\n"+onboard.Containerfile()+"```\n")
	require.Contains(t, page, "allows eleven calls")
	require.Len(t, onboard.Rights(), 11)
}

// TestBundles: the page on tenants has the sentence of every refusal, as it is.
func TestBundles(t *testing.T) {
	code := read(t, filepath.Join(root, "lws/tenant/bundle/seal.go")) + read(t, filepath.Join(root, "lws/tenant/bundle/bundle.go"))
	for _, said := range column(rows(t, read(t, "tenant.md"), "## The bundle"), 1) {
		require.Contains(t, code, `"`+said)
	}
}

func TestErrors(t *testing.T) {
	table := rows(t, read(t, "protocol.md"), "## Errors")
	require.Len(t, table, len(errkind.Kinds()))
	for i, kind := range errkind.Kinds() {
		code := rpcserver.Code(kind)
		require.Equal(t, []string{string(kind), code.String(), fmt.Sprint(rpcserver.HTTPStatus(code))}, table[i][:3])
	}
}

func TestReasons(t *testing.T) {
	var codes []string
	for _, m := range regexp.MustCompile(`ReasonCode = "(\w+)"`).FindAllStringSubmatch(read(t, filepath.Join(root, "lsp/reason.go")), -1) {
		codes = append(codes, m[1])
	}
	require.NotEmpty(t, codes)
	require.ElementsMatch(t, codes, column(rows(t, read(t, "protocol.md"), "## Reasons"), 0))
}

// TestMethods: every call that our servers have is in a table, with its REST route. What a
// wallet's agent serves on its own machine is not part of the protocol.
func TestMethods(t *testing.T) {
	page, routes, seen := read(t, "protocol.md"), routes(t), 0
	for _, file := range files(t, "_grpc.pb.go") {
		if strings.Contains(file, "/agent/") {
			continue
		}
		for _, m := range regexp.MustCompile(`_FullMethodName\s+= "/([\w.]+)/(\w+)"`).FindAllStringSubmatch(read(t, file), -1) {
			seen++
			short := m[1][strings.LastIndex(m[1], ".")+1:]
			row := regexp.MustCompile("(?m)^\\| `" + short + "." + m[2] + "` \\|.*$").FindString(page)
			require.NotEmpty(t, row, "%s.%s is not in the table of methods", short, m[2])
			if route, ok := routes[m[1]+"."+m[2]]; ok {
				require.Contains(t, row, "`"+route+"`")
			}
		}
	}
	require.Greater(t, seen, 120)
}

// files are the repository's files with such a name.
func files(t *testing.T, suffix string) []string {
	t.Helper()
	var out []string
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || path == filepath.Join(root, "internal", "tools")):
			return fs.SkipDir
		case strings.HasSuffix(entry.Name(), suffix):
			out = append(out, path)
		}
		return nil
	}))
	require.NotEmpty(t, out)
	return out
}

// routes are the REST routes by selector.
func routes(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	rule := regexp.MustCompile(`(\{?)selector: ([\w.]+),?\s+(get|post|put|delete): ("[^"]*"|\S+)`)
	for _, file := range files(t, ".rest.yaml") {
		for _, m := range rule.FindAllStringSubmatch(read(t, file), -1) {
			route := strings.TrimSuffix(m[4], ",")
			if m[1] != "" && !strings.HasPrefix(route, `"`) {
				route = strings.TrimSuffix(route, "}") // of the rule, written on one line
			}
			out[m[2]] = strings.ToUpper(m[3]) + " " + strings.Trim(route, `"`)
		}
	}
	require.Greater(t, len(out), 100)
	return out
}

// TestPackages: the page on the architecture says what every package promises.
func TestPackages(t *testing.T) {
	page, seen := read(t, "architecture.md"), map[string]bool{}
	left := regexp.MustCompile(`^(\.|cmd/.*|docs|itest.*|.*v1|.*db|.*test)$`)
	for _, file := range files(t, ".go") {
		dir, err := filepath.Rel(root, filepath.Dir(file))
		require.NoError(t, err)
		if seen[dir] || strings.HasSuffix(file, "_test.go") || left.MatchString(filepath.ToSlash(dir)) {
			continue
		}
		seen[dir] = true
		require.Contains(t, page, "`"+filepath.ToSlash(dir)+"`", "docs/architecture.md lacks the package %s", dir)
	}
	require.Greater(t, len(seen), 60)
}

// TestContents: the list at the top of a page has its sections, all of them, in order.
func TestContents(t *testing.T) {
	lists := 0
	for _, page := range pages(t) {
		text := regexp.MustCompile("(?ms)^\\s*```.*?^\\s*```").ReplaceAllString(read(t, page), "")
		intro, _, _ := strings.Cut(text, "\n## ")
		var listed, sections []string
		for _, m := range regexp.MustCompile(`(?m)^- \[(.+)\]\(#[^)]+\)$`).FindAllStringSubmatch(intro, -1) {
			listed = append(listed, m[1])
		}
		if listed == nil {
			continue
		}
		lists++
		for _, m := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(text, -1) {
			sections = append(sections, m[1])
		}
		require.Equal(t, sections, listed, page)
	}
	require.Greater(t, lists, 10)
}

func TestSampleConfiguration(t *testing.T) {
	var want bytes.Buffer
	require.NoError(t, app.WriteSample(&want))
	require.Equal(t, want.String(), read(t, "sluiced.sample.toml"),
		"run: go run ./cmd/sluiced config sample > docs/sluiced.sample.toml")
}

// TestSettings: what stands in backticks and looks like a setting is one.
func TestSettings(t *testing.T) {
	keys, section := map[string]bool{}, ""
	for line := range strings.SplitSeq(read(t, "sluiced.sample.toml"), "\n") {
		if name, ok := strings.CutPrefix(strings.TrimPrefix(line, "# "), "["); ok {
			section = strings.Trim(name, "[]") + "."
			keys[strings.TrimSuffix(section, ".")] = true
		} else if m := regexp.MustCompile(`^# (\w+) = `).FindStringSubmatch(line); m != nil {
			keys[section+m[1]] = true
		}
	}
	setting := regexp.MustCompile("`((?:lnd|database|rpc|log|trace|limits|interceptor|proxy|acceptor|lsp|lsps|joint|backups|holds|swaps|watchtower)\\.[a-z_.]+)(?: = [^`]*)?`")
	seen := 0
	for _, page := range pages(t) {
		for _, m := range setting.FindAllStringSubmatch(read(t, page), -1) {
			if slices.Contains([]string{".conf", ".toml", ".json", ".macaroon"}, m[1][strings.LastIndex(m[1], "."):]) {
				continue
			}
			seen++
			require.True(t, keys[m[1]], "%s names the setting %s, which the sample does not have", page, m[1])
		}
	}
	require.Greater(t, seen, 30)
}

var (
	linkPattern    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headingPattern = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// TestLinks: every link within the repository leads somewhere, to its heading
// where it names one.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		for _, m := range linkPattern.FindAllStringSubmatch(read(t, page), -1) {
			link, err := url.Parse(m[1])
			require.NoError(t, err, "%s: %s", page, m[1])
			if link.IsAbs() {
				continue
			}
			target := page
			if link.Path != "" {
				target = filepath.Join(filepath.Dir(page), filepath.FromSlash(link.Path))
			}
			_, err = os.Stat(target)
			require.NoError(t, err, "%s: %s", page, m[1])
			if link.Fragment != "" {
				require.Contains(t, anchors(read(t, target)), link.Fragment, "%s: %s", page, m[1])
			}
		}
	}
}

// anchors are what forges make of headings.
func anchors(text string) []string {
	var out []string
	for _, m := range headingPattern.FindAllStringSubmatch(text, -1) {
		name := strings.ToLower(strings.ReplaceAll(m[1], " ", "-"))
		out = append(out, regexp.MustCompile(`[^\p{L}\p{N}_-]`).ReplaceAllString(name, ""))
	}
	return out
}

// TestAlarms: what the log calls a person for is in the runbook as the log says it, and so
// are the headings that the log names.
func TestAlarms(t *testing.T) {
	page, alarms, named := read(t, "runbook.md"), 0, 0
	for _, file := range files(t, ".go") {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		code := read(t, file)
		for _, m := range regexp.MustCompile(`\.Error\("([^"]*\ba person\b[^"]*)"`).FindAllStringSubmatch(code, -1) {
			alarms++
			said, _, _ := strings.Cut(m[1], ":")
			require.Contains(t, page, "`"+said, "%s logs what the runbook does not have", file)
		}
		for _, m := range regexp.MustCompile(`the runbook, \\"([^"\\]+)\\"`).FindAllStringSubmatch(code, -1) {
			named++
			require.Contains(t, page, "\n## "+m[1]+"\n", "%s names a heading of the runbook", file)
		}
	}
	require.Greater(t, alarms, 5)
	require.Greater(t, named, 2)
}

// TestMetrics: every metric that the documents name is one of the code's.
func TestMetrics(t *testing.T) {
	var code strings.Builder
	for _, file := range []string{
		"interceptor/engine/metrics.go", "lsp/engine/metrics.go", "lsp/links/metrics.go", "internal/pulse/pulse.go", "internal/rpcserver/intercept.go", "internal/obs/metrics.go", "backupsvc/engine/metrics.go",
		"watchtower/engine/metrics.go", "watchtower/lookout/metrics.go", "lws/tenant/engine/anchors.go",
	} {
		code.WriteString(read(t, filepath.Join(root, file)))
	}
	for _, page := range pages(t) {
		for _, m := range regexp.MustCompile("`sluice_(?:interceptor|lsp|lnd|rpc|backups|tower|tenant)_([a-z_]+)`").FindAllStringSubmatch(read(t, page), -1) {
			require.True(t, strings.Contains(code.String(), `"`+m[1]+`"`), "%s names %s, which the code does not have", page, m[0])
		}
	}
}
