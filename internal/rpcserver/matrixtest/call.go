package matrixtest

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/sluice-lsp/sluice/internal/auth"
)

// Harmless is a request that the server refuses right behind the guard, before any
// service sees it: a text with a zero byte. Who may call gets an error about that and
// has changed nothing, so that one call does not decide the next. Requests without
// any text are empty.
func Harmless(m protoreflect.MethodDescriptor) *dynamicpb.Message {
	msg := dynamicpb.NewMessage(m.Input())
	poison(msg, 0)
	return msg
}

// poison puts a zero byte into the first text field that it finds.
func poison(msg protoreflect.Message, depth int) bool {
	fields := msg.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Kind() == protoreflect.StringKind && !f.IsMap() {
			value := protoreflect.ValueOfString("\x00")
			if f.IsList() {
				list := msg.NewField(f)
				list.List().Append(value)
				value = list
			}
			msg.Set(f, value)
			return true
		}
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Kind() != protoreflect.MessageKind || f.IsMap() || depth == maxDepth {
			continue
		}
		inner := msg.NewField(f)
		target := inner
		if f.IsList() {
			target = inner.List().AppendMutable()
		}
		if poison(target.Message(), depth+1) {
			msg.Set(f, inner)
			return true
		}
	}
	return false
}

// Call makes one call. Of an answer it gives the text of all that arrived, of an
// error its sentence.
func Call(ctx context.Context, conn *grpc.ClientConn, m protoreflect.MethodDescriptor, macaroon string, req proto.Message) (codes.Code, string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if macaroon != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, auth.MetadataMacaroon, macaroon)
	}
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		resp := dynamicpb.NewMessage(m.Output())
		if err := conn.Invoke(ctx, FullName(m), req, resp); err != nil {
			return status.Code(err), status.Convert(err).Message()
		}
		return codes.OK, prototext.Format(resp)
	}
	return openStream(ctx, conn, m, req)
}

// quiet is how long a stream that was not refused is listened to.
const quiet = time.Second

func openStream(ctx context.Context, conn *grpc.ClientConn, m protoreflect.MethodDescriptor, req proto.Message) (codes.Code, string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fail := func(err error) (codes.Code, string) { return status.Code(err), status.Convert(err).Message() }
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: m.IsStreamingServer(), ClientStreams: m.IsStreamingClient()}, FullName(m))
	if err != nil {
		return fail(err)
	}
	// The server may have refused already; Recv says why.
	if err := stream.SendMsg(req); err == nil && !m.IsStreamingClient() {
		if err := stream.CloseSend(); err != nil {
			return fail(err)
		}
	}
	type received struct {
		text string
		err  error
	}
	got := make(chan received, 1)
	go func() {
		resp := dynamicpb.NewMessage(m.Output())
		err := stream.RecvMsg(resp)
		got <- received{prototext.Format(resp), err}
	}()
	// The guard answers at once where it refuses: headers or an error tell that.
	header := make(chan struct{})
	go func() {
		_, _ = stream.Header()
		close(header)
	}()
	select {
	case r := <-got:
		if r.err != nil && !errors.Is(r.err, io.EOF) {
			return fail(r.err)
		}
		return codes.OK, r.text
	case <-ctx.Done():
		return codes.DeadlineExceeded, "open"
	case <-afterHeader(header, quiet):
		return codes.OK, "open"
	}
}

// afterHeader fires some time after headers have arrived. A refusal's status comes with
// its headers, so that Recv is there first.
func afterHeader(header <-chan struct{}, d time.Duration) <-chan time.Time {
	out := make(chan time.Time, 1)
	go func() {
		<-header
		out <- <-time.After(d)
	}()
	return out
}

// Values fills requests with what somebody knows of somebody else.
type Values struct {
	// ByName are texts and bytes by the field's name.
	ByName map[string]string
	// Text and Bytes are for other fields.
	Text  string
	Bytes []byte
}

// maxDepth ends messages that contain themselves.
const maxDepth = 4

// Filled is a request with something in every field.
func (v Values) Filled(m protoreflect.MethodDescriptor) proto.Message {
	msg := dynamicpb.NewMessage(m.Input())
	v.fill(msg, 0)
	return msg
}

func (v Values) fill(msg protoreflect.Message, depth int) {
	fields := msg.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.IsMap() || depth == maxDepth {
			continue
		}
		if f.Kind() == protoreflect.MessageKind || f.Kind() == protoreflect.GroupKind {
			inner := msg.NewField(f)
			if f.IsList() {
				v.fill(inner.List().AppendMutable().Message(), depth+1)
			} else {
				v.fill(inner.Message(), depth+1)
			}
			msg.Set(f, inner)
			continue
		}
		value := v.scalar(f)
		if f.IsList() {
			list := msg.NewField(f)
			list.List().Append(value)
			value = list
		}
		msg.Set(f, value)
	}
}

func (v Values) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	named, known := v.ByName[string(f.Name())]
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(false)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.StringKind:
		if known {
			return protoreflect.ValueOfString(named)
		}
		return protoreflect.ValueOfString(v.Text)
	case protoreflect.BytesKind:
		if known {
			return protoreflect.ValueOfBytes([]byte(named))
		}
		return protoreflect.ValueOfBytes(v.Bytes)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(1)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(1)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(1)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(1)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(1)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(1)
	case protoreflect.MessageKind, protoreflect.GroupKind:
	}
	return f.Default()
}
