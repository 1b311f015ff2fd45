package matrixtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluice-lsp/sluice/internal/auth"
)

// Route is one REST route of the route files.
type Route struct {
	// Method is the gRPC method that it leads to.
	Method     string
	Verb, Path string
	// Body says that the request's body is the message.
	Body bool
}

// Routes reads every route file below the repository's root.
func Routes(root string) ([]Route, error) {
	// Both of YAML's styles, with and without quotes.
	rule := regexp.MustCompile(`selector: ([\w.]+),?\s+(get|post|put|delete|patch): (?:"([^"]+)"|((?:[^\s,{}]|\{\w+\})+))(,?\s+body: "\*")?`)
	selector := regexp.MustCompile(`selector: `)
	var out []Route
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 1 && d.Name() != "..":
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".rest.yaml"):
			return nil
		}
		text, err := os.ReadFile(path) //nolint:gosec // the repository under test
		if err != nil {
			return err
		}
		found := rule.FindAllStringSubmatch(string(text), -1)
		if n := len(selector.FindAllString(string(text), -1)); n != len(found) {
			return fmt.Errorf("%s has %d rules, and %d of them are understood here", path, n, len(found))
		}
		for _, m := range found {
			dot := strings.LastIndex(m[1], ".")
			out = append(out, Route{Method: "/" + m[1][:dot] + "/" + m[1][dot+1:], Verb: strings.ToUpper(m[2]), Path: m[3] + m[4], Body: m[5] != ""})
		}
		return nil
	})
	if err == nil && len(out) == 0 {
		err = errors.New("no route files below " + root)
	}
	return out, err
}

// CheckREST calls every route as every caller, and gives what differs from the table.
// absent are services that this server does not run.
func CheckREST(ctx context.Context, conn *grpc.ClientConn, client *http.Client, base, root string, callers []Caller, absent ...string) ([]string, error) {
	audiences, err := Audiences()
	if err != nil {
		return nil, err
	}
	routes, err := Routes(root)
	if err != nil {
		return nil, err
	}
	list, err := Methods(ctx, conn)
	if err != nil {
		return nil, err
	}
	methods := map[string]protoreflect.MethodDescriptor{}
	for _, m := range list {
		methods[FullName(m)] = m
	}
	var wrong []string
	for _, r := range routes {
		if isAbsent(r.Method, absent) {
			continue
		}
		m, there := methods[r.Method]
		if !there {
			wrong = append(wrong, fmt.Sprintf("%s %s leads to %s, which the server does not have", r.Verb, r.Path, r.Method))
			continue
		}
		a, known := audiences[r.Method]
		if !known {
			wrong = append(wrong, fmt.Sprintf("%s (%s %s) is not in audiences.txt", r.Method, r.Verb, r.Path))
			continue
		}
		for _, c := range callers {
			code, said, err := request(ctx, client, base, r, m, c.Macaroon)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", r.Verb, r.Path, err)
			}
			if got, want := classOfHTTP(code), Expect(a, c.Kind); got != want {
				wrong = append(wrong, fmt.Sprintf("%s %s as %s: %s, want %s (%d: %s)", r.Verb, r.Path, c.Name, got, want, code, said))
			}
		}
	}
	sort.Strings(wrong)
	return wrong, nil
}

func isAbsent(method string, absent []string) bool {
	for _, s := range absent {
		if strings.HasPrefix(method, "/"+s+"/") {
			return true
		}
	}
	return false
}

// noRoute is a class of its own, so that a route that leads nowhere is found.
const noRoute Class = "no such route"

func classOfHTTP(code int) Class {
	switch code {
	case http.StatusUnauthorized:
		return Unauthenticated
	case http.StatusForbidden:
		return Denied
	case http.StatusMethodNotAllowed:
		return noRoute
	}
	return Allowed
}

// inPath fills the path's parameters, texts with what the server refuses right behind
// the guard (see Harmless).
func inPath(r Route, m protoreflect.MethodDescriptor) string {
	return regexp.MustCompile(`\{[^}]*\}`).ReplaceAllStringFunc(r.Path, func(p string) string {
		name, _, _ := strings.Cut(strings.Trim(p, "{}"), "=")
		f := m.Input().Fields().ByName(protoreflect.Name(name))
		if f != nil && f.Kind() == protoreflect.StringKind {
			return "%00"
		}
		return "00"
	})
}

func request(ctx context.Context, client *http.Client, base string, r Route, m protoreflect.MethodDescriptor, macaroon string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var body io.Reader
	if r.Verb != http.MethodGet && r.Verb != http.MethodDelete {
		raw, err := protojson.Marshal(Harmless(m))
		if err != nil {
			return 0, "", err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, r.Verb, base+inPath(r, m), body)
	if err != nil {
		return 0, "", err
	}
	if macaroon != "" {
		req.Header.Set(auth.MetadataMacaroon, macaroon)
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			// A stream that has nothing to say sends no headers: the guard let it through.
			return http.StatusOK, "open", nil //nolint:nilerr // that is the answer
		}
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
	if resp.StatusCode == http.StatusNotFound && strings.Contains(string(said), "No such route") {
		return http.StatusMethodNotAllowed, string(said), nil
	}
	return resp.StatusCode, string(said), nil
}
