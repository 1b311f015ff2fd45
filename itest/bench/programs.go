package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// proxied programs are attached to sluiced as they would be to lnd, and let every
// forward pass at once.
type proxied struct {
	names    []string
	file     string
	settings map[string]string
	address  string
	paths    []string
	answered atomic.Int64
}

// prepare bakes a macaroon for each and registers them.
func (p *proxied) prepare(ctx context.Context, net *devnet.Net, gateway *devnet.Node) (err error) {
	if p.address, err = net.Port(); err != nil {
		return err
	}
	p.settings = map[string]string{"proxy.listen": p.address}
	for _, name := range p.names {
		path := filepath.Join(net.Dir(), name+".macaroon")
		if err := gateway.Bake(ctx, path, []string{"uri:/routerrpc.Router/HtlcInterceptor"}); err != nil {
			return err
		}
		p.paths = append(p.paths, path)
		p.file += fmt.Sprintf("[[proxy.programs]]\nname = '%s'\nmacaroon_file = '%s'\nwhile_away = 'fail'\n\n", name, path)
	}
	return nil
}

// attach attaches them all; a stream that ends shows in payments that fail.
func (p *proxied) attach(ctx context.Context, cert string) error {
	creds, err := credentials.NewClientTLSFromFile(cert, "")
	if err != nil {
		return err
	}
	for _, path := range p.paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(creds))
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		stream, err := routerrpc.NewRouterClient(conn).HtlcInterceptor(metadata.AppendToOutgoingContext(ctx, "macaroon", hex.EncodeToString(raw)))
		if err != nil {
			return err
		}
		go func() {
			for {
				o, err := stream.Recv()
				if err != nil {
					return
				}
				p.answered.Add(1)
				if stream.Send(&routerrpc.ForwardHtlcInterceptResponse{
					IncomingCircuitKey: o.IncomingCircuitKey, Action: routerrpc.ResolveHoldForwardAction_RESUME,
				}) != nil {
					return
				}
			}
		}()
	}
	return nil
}
