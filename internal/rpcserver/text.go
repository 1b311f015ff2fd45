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
	msg, ok := m.(proto.Message)
	if !ok {
		return nil
	}
	return checkMessage(msg.ProtoReflect())
}

func checkMessage(m protoreflect.Message) (err error) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			v.Map().Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
				if err = checkValue(f.MapKey(), key.Value()); err == nil {
					err = checkValue(f.MapValue(), v)
				}
				return err == nil
			})
		case f.IsList():
			for i := range v.List().Len() {
				if err = checkValue(f, v.List().Get(i)); err != nil {
					break
				}
			}
		default:
			err = checkValue(f, v)
		}
		return err == nil
	})
	return err
}

func checkValue(f protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return checkMessage(v.Message())
	case protoreflect.StringKind:
		if strings.ContainsRune(v.String(), 0) {
			return errkind.Newf(errkind.Invalid, "%s contains a zero byte", f.Name())
		}
	default:
	}
	return nil
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
