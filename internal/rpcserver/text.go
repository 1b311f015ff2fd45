package rpcserver

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// CheckText refuses a message with a zero byte in a text. Nothing that we name
// has one, and PostgreSQL takes none, not even to look for it: what is only a
// wrong id would seem to be our fault. Protobuf itself refuses invalid UTF-8.
func CheckText(m any) error {
	return eachText(m, func(name, text string) error {
		if strings.ContainsRune(text, 0) {
			return errkind.Newf(errkind.Invalid, "%s contains a zero byte", name)
		}
		return nil
	})
}

// eachText calls f with every text of a message and the name of its field, until one
// is refused.
func eachText(m any, f func(name, text string) error) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil
	}
	return eachOf(msg.ProtoReflect(), f)
}

func eachOf(m protoreflect.Message, each func(name, text string) error) (err error) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			v.Map().Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
				if err = ofValue(f.MapKey(), key.Value(), each); err == nil {
					err = ofValue(f.MapValue(), v, each)
				}
				return err == nil
			})
		case f.IsList():
			for i := range v.List().Len() {
				if err = ofValue(f, v.List().Get(i), each); err != nil {
					break
				}
			}
		default:
			err = ofValue(f, v, each)
		}
		return err == nil
	})
	return err
}

func ofValue(f protoreflect.FieldDescriptor, v protoreflect.Value, each func(name, text string) error) error {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return eachOf(v.Message(), each)
	case protoreflect.StringKind:
		return each(string(f.Name()), v.String())
	default:
		return nil
	}
}

func textUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := CheckText(req); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func textStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, textChecker{ss})
}

type textChecker struct{ grpc.ServerStream }

func (s textChecker) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return CheckText(m)
}
