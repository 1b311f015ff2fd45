package matrixtest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Secret is what no answer and no log may repeat: a preimage, a macaroon, a signature.
const Secret = "5ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7" //nolint:gosec // an example, of this test only

// Tells reports that a text has the Secret in it, in any of the ways it is written.
func Tells(text string) bool {
	raw, _ := hex.DecodeString(Secret)
	return strings.Contains(strings.ToLower(text), Secret) || strings.Contains(text, base64.StdEncoding.EncodeToString(raw)) || strings.Contains(text, string(raw))
}

// bad is a request that is wrong in one way. Without want, the answer is not one of ours.
type bad struct {
	why               string
	verb, path, query string
	body, contentType string
	macaroon          string
	want              []int
}

// RESTGarbage walks every route with requests that are wrong, each in one way.
type RESTGarbage struct {
	// Root is the repository's, for its route files; Base the server's address.
	Root, Base string
	Client     *http.Client
	// MaxBytes is the server's bound of a body.
	MaxBytes int
	// Macaroon chooses by whom a method is called.
	Macaroon func(method string, a Audience) string
	// Absent are services that the server does not run.
	Absent []string
	// Also are answers that are as good as any, of a server with nothing behind it.
	Also []int
	// Made makes what is nearly right.
	Made *Garbage
	// After runs behind each call.
	After func(method string)

	// Answers counts them by status.
	Answers map[int]int
	wrong   []string
}

// Walk makes the calls and gives what was answered otherwise than it must be.
func (g *RESTGarbage) Walk(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	g.Answers, g.wrong = make(map[int]int), nil
	audiences, err := Audiences()
	if err != nil {
		return nil, err
	}
	routes, err := Routes(g.Root)
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
	for _, r := range routes {
		if isAbsent(r.Method, g.Absent) {
			continue
		}
		m, there := methods[r.Method]
		if !there {
			return nil, fmt.Errorf("%s %s leads to %s, which the server does not have", r.Verb, r.Path, r.Method)
		}
		a := audiences[r.Method]
		for _, b := range g.requests(r, m, a) {
			if b.macaroon == "" {
				b.macaroon = g.Macaroon(r.Method, a)
			}
			if err := g.call(ctx, b); err != nil {
				return nil, fmt.Errorf("%s %s, %s: %w", r.Verb, r.Path, b.why, err)
			}
			if g.After != nil {
				g.After(r.Method)
			}
		}
	}
	return g.wrong, nil
}

// requests are the bad ones for a route.
func (g *RESTGarbage) requests(r Route, m protoreflect.MethodDescriptor, a Audience) []bad {
	refused := []int{http.StatusBadRequest}
	path := inPath(r, m)
	out := g.inPaths(r)
	add := func(b bad) {
		if b.verb == "" {
			b.verb = r.Verb
		}
		if b.path == "" {
			b.path = path
		}
		out = append(out, b)
	}
	add(bad{why: "a parameter that the call does not have", query: "no_such_parameter=1", want: refused})
	add(bad{why: "an escape in the query that is none", query: "a=%zz", want: refused})
	add(bad{why: "a verb that the path does not have", verb: http.MethodPatch, want: []int{http.StatusNotFound, http.StatusMethodNotAllowed}})
	add(bad{why: "a path that leads on", path: path + "/no_such/no_such/no_such", want: []int{http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed}})
	if !a.Public {
		add(bad{why: "a macaroon that is none", macaroon: Secret, want: []int{http.StatusUnauthorized, http.StatusBadRequest}})
	}
	if !r.Body {
		for _, b := range inQuery(r, m.Input()) {
			add(b)
		}
		return out
	}
	for why, body := range bodies() {
		add(bad{why: why, body: body, want: refused})
	}
	add(bad{why: "XML", body: "<a>" + Secret + "</a>", contentType: "text/xml", want: refused})
	add(bad{why: "a form", body: "preimage=" + Secret, contentType: "application/x-www-form-urlencoded", want: refused})
	add(bad{why: "more than the server takes", body: strings.Repeat(" ", g.MaxBytes) + "{}", want: []int{http.StatusRequestEntityTooLarge}})
	for _, w := range wrongTypes(m.Input(), 0) {
		add(bad{why: w.why, body: w.body, want: refused})
	}
	for _, s := range secrets(m.Input()) {
		add(bad{why: "a secret in its own field", body: s})
	}
	for i := range 4 {
		msg := dynamicpb.NewMessage(m.Input())
		g.Made.Fill(msg)
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(msg)
		if err != nil {
			continue // NaN in an enum's place, say: protojson has no word for it
		}
		if i > 0 && len(raw) > 0 {
			raw[g.Made.Rand.IntN(len(raw))] ^= byte(1 + g.Made.Rand.IntN(255))
		}
		add(bad{why: "chance", body: string(raw)})
	}
	return out
}

// inPaths puts into the path's parameters what may stand in none.
func (g *RESTGarbage) inPaths(r Route) (out []bad) {
	parameter := regexp.MustCompile(`\{[^}]*\}`)
	if !parameter.MatchString(r.Path) {
		return nil
	}
	fill := func(value string) string { return parameter.ReplaceAllLiteralString(r.Path, value) }
	out = append(out, bad{why: "a path that is not UTF-8", verb: r.Verb, path: fill("%ff%fe"), want: []int{http.StatusBadRequest}})
	for _, value := range []string{
		"%00", strings.Repeat("a", 5000), "%2e%2e", "..%2f..%2fetc", "'%20OR%201=1%20--", "%25s%25n", "%E2%80%AEevil", "-1", "99999999999999999999999", ":", "a:b", "%20",
	} {
		out = append(out, bad{why: "a path parameter " + value[:min(20, len(value))], verb: r.Verb, path: fill(value)})
	}
	return out
}

// inQuery gives each field a value that it cannot have.
func inQuery(r Route, m protoreflect.MessageDescriptor) (out []bad) {
	refused := []int{http.StatusBadRequest}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		name := string(f.Name())
		if strings.Contains(r.Path, "{"+name+"}") || f.Kind() == protoreflect.MessageKind || f.IsMap() {
			continue
		}
		var values []string
		switch f.Kind() {
		case protoreflect.StringKind:
			values = []string{"%ff"}
		case protoreflect.BytesKind:
			values = []string{"!" + Secret, "a"}
		case protoreflect.BoolKind, protoreflect.EnumKind:
			values = []string{"NO_SUCH", "9e9", "%ff"}
		default:
			values = []string{"x" + Secret, "1e400", "99999999999999999999999", "0.5", "", "%ff"}
			if strings.HasPrefix(f.Kind().String(), "u") {
				values = append(values, "-1")
			}
		}
		for _, v := range values {
			out = append(out, bad{why: "the parameter " + name + "=" + v[:min(20, len(v))], query: name + "=" + v, want: refused})
		}
		if !f.IsList() {
			out = append(out, bad{why: name + " twice", query: url.Values{name: {Secret, Secret}}.Encode(), want: refused})
		}
		out = append(out, bad{why: name + " with something in it", query: name + ".inner=1", want: refused})
	}
	return out
}

// bodies are of no call's form.
func bodies() map[string]string {
	return map[string]string{
		"a list": "[]", "a text": `"` + Secret + `"`, "a number": "1", "null": "null", "nothing that is JSON": Secret, "half of it": "{",
		"a field without a value": `{"a":}`, "a field that is none": `{"no_such_field":"` + Secret + `"}`, "something behind it": `{} {"preimage":"` + Secret + `"}`,
		"no name": `{:1}`, "a bare name": `{preimage:"` + Secret + `"}`, "not UTF-8": "{\"\xff\xfe\":1}", "a zero byte": "\x00",
		"nested in lists": strings.Repeat("[", 100_000), "nested in objects": strings.Repeat(`{"a":`, 100_000), "a long name": `{"` + strings.Repeat("x", 50_000) + `":1}`,
	}
}

type wrongType struct{ why, body string }

// wrongTypes gives each field, also of the messages inside, values that it cannot have.
func wrongTypes(m protoreflect.MessageDescriptor, depth int) (out []wrongType) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		var values []string
		if f.Kind() == protoreflect.MessageKind {
			if f.IsMap() || wellKnown(f.Message()) {
				continue
			}
			values = []string{"5", `"` + Secret + `"`, "true"}
			if depth < 2 {
				for _, w := range wrongTypes(f.Message(), depth+1) {
					values = append(values, w.body)
				}
			}
		} else {
			values = scalars(f)
		}
		for _, v := range values {
			if f.IsList() {
				v = "[" + v + "]"
			}
			out = append(out, wrongType{
				why:  fmt.Sprintf("the field %s is %.30s", f.Name(), v),
				body: fmt.Sprintf("{%q:%s}", f.Name(), v),
			})
		}
		if f.IsList() {
			out = append(out, wrongType{why: fmt.Sprintf("the list %s is an object", f.Name()), body: fmt.Sprintf("{%q:{}}", f.Name())})
		} else {
			out = append(out, wrongType{why: fmt.Sprintf("the field %s is a list", f.Name()), body: fmt.Sprintf("{%q:[]}", f.Name())})
		}
	}
	return out
}

func wellKnown(m protoreflect.MessageDescriptor) bool {
	return strings.HasPrefix(string(m.FullName()), "google.protobuf.")
}

func scalars(f protoreflect.FieldDescriptor) []string {
	quoted := `"` + Secret + `"`
	switch f.Kind() {
	case protoreflect.StringKind:
		return []string{"5", "{}", "true", `"\ud800"`, "\"\xff\""}
	case protoreflect.BytesKind:
		return []string{"5", "{}", `"!` + Secret + `"`, `"a"`, `"0x` + Secret + `é"`}
	case protoreflect.BoolKind:
		return []string{"5", "{}", quoted, `"true"`}
	case protoreflect.EnumKind:
		return []string{"{}", quoted, "1.5", "99999999999999999999"}
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return []string{"{}", quoted, "1e999", "true"}
	default:
		values := []string{"{}", quoted, "0.5", `"0.5"`, "1e400", strings.Repeat("9", 400), `"99999999999999999999999"`, "true", "NaN", "0x10", "+1"}
		if strings.HasPrefix(f.Kind().String(), "u") {
			values = append(values, "-1", `"-1"`)
		}
		return values
	}
}

// secrets are bodies with a secret of the right type in the field for it.
func secrets(m protoreflect.MessageDescriptor) (out []string) {
	raw, _ := hex.DecodeString(Secret)
	secretField := regexp.MustCompile(`macaroon|preimage|secret|token|seal|signature|private_key|claim_key|refund_key`)
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.IsList() || f.IsMap() || !secretField.MatchString(string(f.Name())) {
			continue
		}
		switch f.Kind() {
		case protoreflect.StringKind:
			out = append(out, fmt.Sprintf("{%q:%q}", f.Name(), Secret))
		case protoreflect.BytesKind:
			out = append(out, fmt.Sprintf("{%q:%q}", f.Name(), base64.StdEncoding.EncodeToString(raw)))
		default:
		}
	}
	return out
}

const (
	// maxErrorBytes bounds an error's body: it is for a person.
	maxErrorBytes = 2000
	// garbagePatience is for a server on a busy machine: what is wrong is answered at once.
	garbagePatience = 20 * time.Second
)

func (g *RESTGarbage) call(ctx context.Context, b bad) error {
	ctx, cancel := context.WithTimeout(ctx, garbagePatience)
	defer cancel()
	var body io.Reader
	if b.body != "" {
		body = strings.NewReader(b.body)
	}
	address := g.Base + b.path
	if b.query != "" {
		address += "?" + b.query
	}
	req, err := http.NewRequestWithContext(ctx, b.verb, address, body)
	if err != nil {
		return err
	}
	if b.macaroon != "" {
		req.Header.Set(auth.MetadataMacaroon, b.macaroon)
	}
	if b.contentType != "" {
		req.Header.Set("Content-Type", b.contentType)
	}
	complain := func(format string, args ...any) {
		g.wrong = append(g.wrong, fmt.Sprintf("%s %.60s with %s: ", b.verb, b.path, b.why)+fmt.Sprintf(format, args...))
	}
	resp, err := g.Client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			complain("no answer")
			return nil
		}
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	g.Answers[resp.StatusCode]++
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil && ctx.Err() == nil {
		return err
	}
	if slices.Contains(g.Also, resp.StatusCode) && len(b.want) == 0 {
		return nil
	}
	switch {
	case len(b.want) > 0 && !slices.Contains(b.want, resp.StatusCode):
		complain("%d, want one of %v: %.300s", resp.StatusCode, b.want, said)
	case resp.StatusCode >= http.StatusInternalServerError:
		complain("%d: %.300s", resp.StatusCode, said)
	}
	if Tells(string(said)) {
		complain("the answer repeats a secret: %.300s", said)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		if why := notClear(resp, said); why != "" {
			complain("%d, whose body %s: %.300s", resp.StatusCode, why, said)
		}
	}
	return nil
}

// notClear says what an error's body lacks.
func notClear(resp *http.Response, said []byte) string {
	if len(said) > maxErrorBytes {
		return "is long"
	}
	if got := resp.Header.Get("Content-Type"); got != "application/json" {
		return "is " + got
	}
	var e struct {
		Kind, Message string
		Error         struct{ Message string }
	}
	if err := json.NewDecoder(bytes.NewReader(said)).Decode(&e); err != nil {
		return "is no JSON"
	}
	if e.Message == "" && e.Error.Message == "" {
		return "says nothing"
	}
	routing := resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed
	if e.Error.Message == "" && !slices.Contains(errkind.Kinds(), errkind.Kind(e.Kind)) && (e.Kind != "" || !routing) {
		return "has no kind"
	}
	return ""
}
