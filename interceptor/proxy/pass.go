package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// frame is a message as it is on the wire. Whoever has it owns its buffers.
type frame struct{ data mem.BufferSlice }

// frames is a codec that leaves messages as they are.
type frames struct{}

var _ encoding.CodecV2 = frames{}

func (frames) Name() string { return "proto" }

func (frames) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("%T is no frame", v)
	}
	data := f.data
	f.data = nil // gRPC frees what it sends
	return data, nil
}

func (frames) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("%T is no frame", v)
	}
	data.Ref()
	f.data = data
	return nil
}

// pass carries a call to lnd and back, whatever its kind: bytes, metadata, deadline,
// status and trailers as they are.
func (s *Server) pass(method string, down grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(toLnd(down.Context()))
	defer cancel()
	up, err := s.cfg.Lnd.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.ForceCodecV2(frames{}))
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { sent <- upward(down, up) }()
	received := make(chan error, 1)
	go func() { received <- downward(down, up) }()
	for {
		select {
		case err := <-sent:
			if err != nil {
				// The caller is gone or broke the protocol; lnd's call ends with ctx.
				return err
			}
			sent = nil
		case err := <-received:
			down.SetTrailer(up.Trailer())
			return err
		}
	}
}

// upward carries what the caller sends; nil once it has said all.
func upward(down grpc.ServerStream, up grpc.ClientStream) error {
	for {
		f := &frame{}
		if err := down.RecvMsg(f); err != nil {
			if errors.Is(err, io.EOF) {
				return up.CloseSend()
			}
			return err
		}
		if err := up.SendMsg(f); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // lnd's status says why, in downward
			}
			return err
		}
	}
}

func downward(down grpc.ServerStream, up grpc.ClientStream) error {
	header, err := up.Header()
	if err != nil {
		return err
	}
	if header != nil {
		if err := down.SendHeader(withoutTransport(header)); err != nil {
			return err
		}
	}
	for {
		f := &frame{}
		if err := up.RecvMsg(f); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := down.SendMsg(f); err != nil {
			return err
		}
	}
}

// toLnd carries the caller's metadata, the macaroon above all. The deadline is the
// context's.
func toLnd(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	return metadata.NewOutgoingContext(ctx, withoutTransport(md))
}

// withoutTransport leaves out what each connection says for itself.
func withoutTransport(md metadata.MD) metadata.MD {
	out := make(metadata.MD, len(md))
	for k, v := range md {
		if strings.HasPrefix(k, ":") || strings.HasPrefix(k, "grpc-") {
			continue
		}
		switch k {
		case "content-type", "user-agent", "te", "connection", "trailer":
			continue
		}
		out[k] = v
	}
	return out
}

// ended gives a program's stream the status that lnd would give it.
func ended(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, errReplaced):
		return status.Error(codes.AlreadyExists, err.Error())
	case errors.Is(err, errHanging), errors.Is(err, errFlood), errors.Is(err, errUnread):
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	return status.Error(codes.InvalidArgument, err.Error())
}
