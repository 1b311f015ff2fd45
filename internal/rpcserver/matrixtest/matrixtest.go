// Package matrixtest calls every method and every REST route of a running server as
// every kind of caller, and holds each answer to a table.
//
// It promises that what is called comes from the server itself (reflection) and from
// the route files, never from a list that somebody keeps; and that a method that the
// table does not have fails the test, as does a line of the table without a method.
package matrixtest

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// table says for whom each method is. It is written by hand, apart from the
// permissions in the code: who opens a method to somebody else changes both.
//
//go:embed audiences.txt
var table string

// Audience is for whom a method is.
type Audience struct{ Public, Wallets, Tenants, Operators bool }

// Audiences reads the table: a full method name and its audience on each line.
func Audiences() (map[string]Audience, error) {
	out := map[string]Audience{}
	for line := range strings.Lines(table) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
		if line == "" {
			continue
		}
		method, who, _ := strings.Cut(line, " ")
		if _, twice := out[method]; twice {
			return nil, fmt.Errorf("audiences.txt names %s twice", method)
		}
		var a Audience
		for word := range strings.SplitSeq(strings.TrimSpace(who), ",") {
			switch word {
			case "public":
				a.Public = true
			case "wallets":
				a.Wallets = true
			case "tenants":
				a.Tenants = true
			case "operators":
				a.Operators = true
			default:
				return nil, fmt.Errorf("audiences.txt: %s: nobody is called %q", method, word)
			}
		}
		out[method] = a
	}
	return out, nil
}

// Class is what an answer says of the caller's rights.
type Class string

// The classes. Allowed is everything that comes after the guard, an error about the
// request included.
const (
	Allowed         Class = "allowed"
	Unauthenticated Class = "unauthenticated"
	Denied          Class = "denied"
)

// ClassOf classifies a gRPC code.
func ClassOf(code codes.Code) Class {
	switch code {
	case codes.Unauthenticated:
		return Unauthenticated
	case codes.PermissionDenied:
		return Denied
	default:
		return Allowed
	}
}

// Caller is somebody who calls.
type Caller struct {
	Name string
	// Macaroon is in hex; empty for nobody.
	Macaroon string
	// Kind says what it may do.
	Kind CallerKind
}

// CallerKind is what a caller's macaroon proves.
type CallerKind int

// The kinds. A Stranger's macaroon proves nothing (any more); a Bystander is proven
// and may call nothing at all but what is public.
const (
	Stranger CallerKind = iota
	Bystander
	Wallet
	// Tenant acts for a node; Viewer is a tenant's user who acts for none.
	Tenant
	Viewer
	Operator
)

// Expect is the class that a caller must see.
func Expect(a Audience, k CallerKind) Class {
	switch {
	case a.Public:
		return Allowed
	case k == Stranger:
		return Unauthenticated
	case k == Wallet && a.Wallets, k == Tenant && (a.Wallets || a.Tenants), k == Viewer && a.Tenants, k == Operator && a.Operators:
		return Allowed
	}
	return Denied
}

// Methods asks a server by reflection what methods it has.
func Methods(ctx context.Context, conn *grpc.ClientConn) ([]protoreflect.MethodDescriptor, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	ask := func(r *reflectionpb.ServerReflectionRequest) (*reflectionpb.ServerReflectionResponse, error) {
		if err := stream.Send(r); err != nil {
			return nil, err
		}
		got, err := stream.Recv()
		if err == nil && got.GetErrorResponse() != nil {
			err = fmt.Errorf("reflection: %s", got.GetErrorResponse().GetErrorMessage())
		}
		return got, err
	}
	list, err := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	if err != nil {
		return nil, err
	}
	set, seen := &descriptorpb.FileDescriptorSet{}, map[string]bool{}
	var services []string
	for _, s := range list.GetListServicesResponse().GetService() {
		services = append(services, s.GetName())
		got, err := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: s.GetName()}})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.GetName(), err)
		}
		for _, raw := range got.GetFileDescriptorResponse().GetFileDescriptorProto() {
			file := &descriptorpb.FileDescriptorProto{}
			if err := proto.Unmarshal(raw, file); err != nil {
				return nil, err
			}
			if !seen[file.GetName()] {
				seen[file.GetName()] = true
				set.File = append(set.File, file)
			}
		}
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return nil, err
	}
	var out []protoreflect.MethodDescriptor
	for _, name := range services {
		d, err := files.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			return nil, err
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			out = append(out, methods.Get(i))
		}
	}
	sort.Slice(out, func(i, j int) bool { return FullName(out[i]) < FullName(out[j]) })
	return out, nil
}

// FullName is a method's name on the wire.
func FullName(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

// patience is how long an allowed call may take: streams stay open, and what they
// would bring does not matter.
const patience = 3 * time.Second

// Check calls every method as every caller, and gives what differs from the table.
// absent are services of the table that this server does not run.
func Check(ctx context.Context, conn *grpc.ClientConn, callers []Caller, absent ...string) ([]string, error) {
	audiences, err := Audiences()
	if err != nil {
		return nil, err
	}
	methods, err := Methods(ctx, conn)
	if err != nil {
		return nil, err
	}
	var wrong []string
	for _, m := range methods {
		name := FullName(m)
		a, known := audiences[name]
		if !known {
			wrong = append(wrong, fmt.Sprintf("%s is not in internal/rpcserver/matrixtest/audiences.txt: say there for whom it is", name))
			continue
		}
		delete(audiences, name)
		for _, c := range callers {
			code, said := Call(ctx, conn, m, c.Macaroon, Harmless(m))
			if got, want := ClassOf(code), Expect(a, c.Kind); got != want {
				wrong = append(wrong, fmt.Sprintf("%s as %s: %s, want %s (%s: %s)", name, c.Name, got, want, code, said))
			}
		}
	}
	for name := range audiences {
		if !slices.ContainsFunc(absent, func(s string) bool { return strings.HasPrefix(name, "/"+s+"/") }) {
			wrong = append(wrong, fmt.Sprintf("audiences.txt names %s, which the server does not have", name))
		}
	}
	sort.Strings(wrong)
	return wrong, nil
}
