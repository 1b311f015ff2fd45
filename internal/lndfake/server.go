package lndfake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/chainrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnrpc/verrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// Phase says where in a call a Hook is asked.
type Phase int

const (
	// BeforeCall: the request arrived, nothing was done.
	BeforeCall Phase = iota
	// AfterCall: the call was executed, the answer was not sent.
	AfterCall
	// StreamRecv: a message of the client's arrived on a stream, nothing was done with it.
	StreamRecv
	// StreamSend: a message for the client is about to be sent.
	StreamSend
)

// Call is a point at which a process may die or a message may be lost.
type Call struct {
	Node    string
	Method  string // as /lnrpc.Lightning/GetInfo
	Phase   Phase
	Message any   // the request or the answer
	Err     error // AfterCall: what the call returned
}

// Verdict is a Hook's answer.
type Verdict int

const (
	// Pass goes on.
	Pass Verdict = iota
	// Lose ends the call or stream with codes.Unavailable at this point.
	Lose
)

// Hook decides what happens at a Call. It runs without the world's lock, and may kill nodes.
type Hook func(Call) Verdict

// OnRPC sets the hook that every call to every node passes; nil removes it.
func (w *World) OnRPC(h Hook) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hook = h
}

var errLost = status.Error(codes.Unavailable, "connection lost")

func (i *instance) ask(c Call) error {
	i.node.w.mu.Lock()
	h := i.node.w.hook
	i.node.w.mu.Unlock()
	if h == nil {
		return nil
	}
	c.Node = i.node.name
	if h(c) == Lose {
		return errLost
	}
	return nil
}

func (i *instance) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := i.ask(Call{Method: info.FullMethod, Phase: BeforeCall, Message: req}); err != nil {
		return nil, err
	}
	resp, err := next(ctx, req)
	if lost := i.ask(Call{Method: info.FullMethod, Phase: AfterCall, Message: resp, Err: err}); lost != nil {
		return nil, lost
	}
	return resp, asStatus(err)
}

func (i *instance) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := i.ask(Call{Method: info.FullMethod, Phase: BeforeCall}); err != nil {
		return err
	}
	// A lost message is a broken connection: the whole stream ends, whichever of the handler's goroutines met it.
	hooked := &hookedStream{ServerStream: ss, i: i, method: info.FullMethod, lost: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- next(srv, hooked) }()
	var err error
	select {
	case err = <-done:
	case <-hooked.lost:
		return errLost
	}
	if lost := i.ask(Call{Method: info.FullMethod, Phase: AfterCall, Err: err}); lost != nil {
		return lost
	}
	return asStatus(err)
}

func asStatus(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unknown, err.Error())
}

type hookedStream struct {
	grpc.ServerStream
	i      *instance
	method string
	lost   chan struct{}
	once   sync.Once
}

func (s *hookedStream) ask(phase Phase, m any) error {
	err := s.i.ask(Call{Method: s.method, Phase: phase, Message: m})
	if err != nil {
		s.once.Do(func() { close(s.lost) })
	}
	return err
}

func (s *hookedStream) SendMsg(m any) error {
	if err := s.ask(StreamSend, m); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *hookedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.ask(StreamRecv, m)
}

// endpoint is where clients find a node, whichever instance of it runs.
type endpoint struct {
	mu   sync.Mutex
	buf  *bufconn.Listener
	addr string
	tcp  net.Listener
}

func newEndpoint(tcp bool) (*endpoint, error) {
	e := &endpoint{}
	if tcp {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("listen for a fake node: %w", err)
		}
		e.tcp, e.addr = l, l.Addr().String()
	}
	return e, nil
}

func (e *endpoint) listen() (net.Listener, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.addr == "" {
		e.buf = bufconn.Listen(1 << 20)
		return e.buf, nil
	}
	if l := e.tcp; l != nil {
		e.tcp = nil
		return l, nil
	}
	return net.Listen("tcp", e.addr)
}

func (e *endpoint) dial(ctx context.Context) (net.Conn, error) {
	e.mu.Lock()
	buf := e.buf
	e.mu.Unlock()
	if buf == nil {
		return nil, errors.New("the node is down")
	}
	return buf.DialContext(ctx)
}

// Addr is the node's loopback address, empty if it serves in memory.
func (n *Node) Addr() string { return n.endpoint.addr }

// DialOptions make a client of any library's reach the node, at any address, without TLS.
func (n *Node) DialOptions() []grpc.DialOption {
	opts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if n.endpoint.addr != "" {
		return opts
	}
	return append(opts, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return n.endpoint.dial(ctx)
	}))
}

// Dial connects to the node. The connection outlives restarts, as one to a real node would.
func (n *Node) Dial(opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	opts = append(append(n.DialOptions(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20))), opts...)
	target := n.endpoint.addr
	if target == "" {
		target = n.name
	}
	return grpc.NewClient("passthrough:///"+target, opts...)
}

// instance is one run of a node, from start to kill; calls of an instance that is gone change nothing.
type instance struct {
	node *Node
	mem  *memory
	srv  *grpc.Server
	done chan struct{}
}

func newInstance(n *Node) *instance {
	i := &instance{node: n, mem: n.mem, done: make(chan struct{})}
	i.srv = grpc.NewServer(
		grpc.UnaryInterceptor(i.unary), grpc.StreamInterceptor(i.stream),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	lnrpc.RegisterLightningServer(i.srv, &lightningServer{instance: i})
	lnrpc.RegisterStateServer(i.srv, &stateServer{instance: i})
	routerrpc.RegisterRouterServer(i.srv, &routerServer{instance: i})
	invoicesrpc.RegisterInvoicesServer(i.srv, &invoicesServer{instance: i})
	walletrpc.RegisterWalletKitServer(i.srv, &walletServer{instance: i})
	chainrpc.RegisterChainNotifierServer(i.srv, &notifierServer{instance: i})
	chainrpc.RegisterChainKitServer(i.srv, &chainKitServer{instance: i})
	signrpc.RegisterSignerServer(i.srv, &signerServer{instance: i})
	verrpc.RegisterVersionerServer(i.srv, &versionServer{instance: i})
	return i
}

func (i *instance) serve() error {
	l, err := i.node.endpoint.listen()
	if err != nil {
		return fmt.Errorf("node %s: %w", i.node.name, err)
	}
	go func() {
		_ = i.srv.Serve(l)
	}()
	return nil
}

func (i *instance) stop() {
	close(i.done)
	i.srv.Stop()
}

// do runs f with the world locked, if this instance is still the running one.
func (i *instance) do(f func() error) error {
	err := errLost
	i.node.w.do(func() {
		if i.node.inst == i {
			err = f()
		}
	})
	return err
}

// wait blocks until the channel is closed, the call is given up, or the node dies.
func (i *instance) wait(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-i.done:
		return errLost
	}
}
