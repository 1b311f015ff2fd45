package rpcserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// seeOpenAPI ends the sentences about requests that are not of the call's form.
const seeOpenAPI = "see the OpenAPI documents in docs/openapi."

// jsonBody is REST's JSON. A body is one object of the call's form and nothing behind
// it; none is an empty one. What is said of a bad one names the place and the field,
// never a value: whoever logs the answer must not log a preimage with it.
type jsonBody struct{ *runtime.JSONPb }

func (j jsonBody) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		raw, err := io.ReadAll(r)
		if err != nil {
			return errkind.New(errkind.Invalid, "The body could not be read to its end: send it again.")
		}
		if len(bytes.TrimSpace(raw)) == 0 {
			return io.EOF
		}
		m, ok := v.(proto.Message)
		if !ok {
			return j.Unmarshal(raw, v)
		}
		if err := j.UnmarshalOptions.Unmarshal(raw, m); err != nil {
			return errkind.New(errkind.Invalid, aboutBody(err.Error()))
		}
		return nil
	})
}

// aboutBody makes a sentence of what protojson says of a body.
func aboutBody(said string) string {
	at := regexp.MustCompile(`\(line (\d+):(\d+)\): `).FindStringSubmatchIndex(said)
	if at == nil {
		return "The body is not one whole JSON object of this call's form: " + seeOpenAPI
	}
	place, what := fmt.Sprintf("line %s, column %s", said[at[2]:at[3]], said[at[4]:at[5]]), said[at[1]:]
	if m := regexp.MustCompile(`^(unknown|duplicate) field "(\w{1,64})"$`).FindStringSubmatch(what); m != nil {
		if m[1] == "duplicate" {
			return fmt.Sprintf("The field %q stands in the body twice (%s): send it once.", m[2], place)
		}
		return fmt.Sprintf("This call has no field %q (%s of the body): %s", m[2], place, seeOpenAPI)
	}
	if m := regexp.MustCompile(`^invalid value for (\w{1,20}) field (\w{1,64}):`).FindStringSubmatch(what); m != nil {
		return fmt.Sprintf("The body's value for %q (%s) is no %s: %s", protoName(m[2]), place, kindWord(m[1]), seeOpenAPI)
	}
	return fmt.Sprintf("The body is not one JSON object of this call's form, from %s on: %s", place, seeOpenAPI)
}

// protoName is the name that the API gives a field which protojson calls otherwise.
func protoName(jsonName string) string {
	var out strings.Builder
	for _, c := range jsonName {
		if 'A' <= c && c <= 'Z' {
			out.WriteByte('_')
			c += 'a' - 'A'
		}
		out.WriteRune(c)
	}
	return out.String()
}

// kindWord is what a person calls protobuf's kind of value.
func kindWord(kind string) string {
	switch kind {
	case "bytes":
		return "bytes in base64"
	case "string":
		return "text"
	case "bool":
		return "true or false"
	case "enum":
		return "value that the field can have"
	}
	return kind + " number"
}

// limitedBody notes that more came than the server takes: the gateway itself makes
// one error of all that can be wrong with a body.
type limitedBody struct {
	io.ReadCloser
	over int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		b.over = over.Limit
	}
	return n, err
}

// maxGatewayText bounds what a caller is told of its own words.
const maxGatewayText = 200

// gatewaysOwn is an error of the gateway's, about a request that no service has seen.
func gatewaysOwn(s *status.Status) restError {
	out := restError{Message: s.Message()}
	for _, kind := range errkind.Kinds() {
		if Code(kind) == s.Code() {
			out.Kind = string(kind)
		}
	}
	switch s.Code() {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return restError{Kind: string(errkind.Internal), Message: "Something went wrong on the server."}
	case codes.InvalidArgument:
		// How the gateway's errors about a query's values begin.
		about := regexp.MustCompile(`^(?:parsing (?:field|list|map key|map value)|too many values for field) "(\w{1,64})"`)
		if m := about.FindStringSubmatch(out.Message); m != nil {
			out.Message = fmt.Sprintf("The query's value for %q is none that it can have, or there is more than one: %s", m[1], seeOpenAPI)
		}
	}
	if len(out.Message) > maxGatewayText {
		out.Message = strings.ToValidUTF8(out.Message[:maxGatewayText], "") + " …"
	}
	return out
}

type queryKey struct{}

// checkRequest refuses what the gateway leaves to nobody: a text that is not UTF-8,
// which a path or a query can bring and gRPC cannot carry, so that it would seem our
// fault; and a parameter that the call does not have, which is as wrong as a field
// that it does not have.
func checkRequest(ctx context.Context, req any) error {
	err := eachText(req, func(name, text string) error {
		if !utf8.ValidString(text) {
			return errkind.Newf(errkind.Invalid, "The text for %q is not UTF-8.", name)
		}
		return nil
	})
	if m, ok := req.(proto.Message); ok && err == nil {
		raw, _ := ctx.Value(queryKey{}).(string)
		err = checkQuery(m.ProtoReflect().Descriptor(), raw)
	}
	if err != nil {
		return detailed(Code(errkind.Of(err)), errkind.Sentence(err), errkind.Of(err), "").Err()
	}
	return nil
}

func checkQuery(m protoreflect.MessageDescriptor, raw string) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return errkind.New(errkind.Invalid, "The query has an escape or a separator that is none: write it as name=value&name=value.")
	}
	for name := range values {
		if path, _, _ := strings.Cut(name, "["); !hasField(m, path) {
			if len(name) > 64 || !utf8.ValidString(name) {
				name = "that was sent"
			}
			return errkind.Newf(errkind.Invalid, "This call has no parameter %q: %s", name, seeOpenAPI)
		}
	}
	return nil
}

func hasField(m protoreflect.MessageDescriptor, path string) bool {
	for name := range strings.SplitSeq(path, ".") {
		if m == nil {
			return false
		}
		f := m.Fields().ByTextName(name)
		if f == nil {
			f = m.Fields().ByJSONName(name)
		}
		if f == nil {
			return false
		}
		m = f.Message()
	}
	return true
}

func checkedUnary(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := checkRequest(ctx, req); err != nil {
		return err
	}
	return invoke(ctx, method, req, reply, conn, opts...)
}

func checkedStream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, conn, method, opts...)
	if err != nil {
		return nil, err
	}
	return checkedClientStream{s}, nil
}

type checkedClientStream struct{ grpc.ClientStream }

func (s checkedClientStream) SendMsg(m any) error {
	if err := checkRequest(s.Context(), m); err != nil {
		return err
	}
	return s.ClientStream.SendMsg(m)
}
