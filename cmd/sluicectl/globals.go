package main

import (
	"context"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// DefaultServer is where sluiced serves gRPC unless configured otherwise.
const DefaultServer = "127.0.0.1:10200"

// Globals are the flags of every command.
type Globals struct {
	Server   string        `short:"s" env:"SLUICECTL_SERVER" placeholder:"HOST:PORT" default:"${server}" help:"sluiced's gRPC address (${default})."`
	DataDir  string        `env:"SLUICECTL_DATA_DIR" type:"path" placeholder:"DIR" default:"${data_dir}" help:"sluiced's data directory, for the two files below (~/.sluice)."`
	TLSCert  string        `env:"SLUICECTL_TLS_CERT" name:"tls-cert" type:"path" placeholder:"FILE" help:"sluiced's TLS certificate (tls.cert in the data directory)."`
	Macaroon string        `env:"SLUICECTL_MACAROON" type:"path" placeholder:"FILE" help:"The operator's macaroon (operator.macaroon in the data directory)."`
	JSON     bool          `name:"json" short:"j" help:"Print JSON for programs instead of tables."`
	Timeout  time.Duration `env:"SLUICECTL_TIMEOUT" placeholder:"DURATION" default:"15s" help:"How long one call may take (${default})."`
}

// files are where the certificate and the macaroon are.
func (g *Globals) files() (cert, macaroon string) {
	cert, macaroon = g.TLSCert, g.Macaroon
	if cert == "" {
		cert = filepath.Join(g.DataDir, "tls.cert")
	}
	if macaroon == "" {
		macaroon = filepath.Join(g.DataDir, "operator.macaroon")
	}
	return cert, macaroon
}

// keyArg reads a node key of the command line.
func keyArg(name, text string) (ln.PubKey, error) {
	key, err := ln.ParsePubKey(text)
	if err != nil {
		return key, cli.Usagef("%s: %w", name, err)
	}
	return key, nil
}

// session is a connection to sluiced whose errors are explained.
type session struct {
	conn    *grpc.ClientConn
	op      lspv1.OperatorServiceClient
	orders  lspv1.OrdersOperatorServiceClient
	target  cli.Target
	timeout time.Duration
}

func (g *Globals) connect() (*session, error) {
	cert, macaroon := g.files()
	s := &session{timeout: g.Timeout, target: cli.Target{
		Program: "sluiced", Address: g.Server, AddressFlag: "--server",
		CertFlag: "--tls-cert", MacaroonFlag: "--macaroon", DirFlag: "--data-dir", CertFile: cert, MacaroonFile: macaroon,
	}}
	tlsConfig, err := selfcert.ClientTLS(cert)
	if err != nil {
		return nil, s.target.Explain(err)
	}
	creds, err := auth.NewFileCredentials(macaroon)
	if err != nil {
		return nil, s.target.Explain(err)
	}
	s.conn, err = grpc.NewClient(g.Server,
		grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)),
		grpc.WithPerRPCCredentials(creds),
	)
	if err != nil {
		return nil, s.target.Explain(err)
	}
	s.op, s.orders = lspv1.NewOperatorServiceClient(s.conn), lspv1.NewOrdersOperatorServiceClient(s.conn)
	return s, nil
}

func (s *session) close() { _ = s.conn.Close() }

// call makes one call within the timeout and explains its error.
func call[Req, Resp any](ctx context.Context, s *session, method func(context.Context, *Req, ...grpc.CallOption) (*Resp, error), req *Req) (*Resp, error) {
	return callFor(ctx, s, s.timeout, method, req)
}

// callFor is call for what may take longer than other calls.
func callFor[Req, Resp any](ctx context.Context, s *session, timeout time.Duration, method func(context.Context, *Req, ...grpc.CallOption) (*Resp, error), req *Req) (*Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := method(ctx, req)
	if err != nil {
		return nil, s.target.Explain(err)
	}
	return resp, nil
}

// with connects, runs, and closes.
func (g *Globals) with(f func(*session) error) error {
	s, err := g.connect()
	if err != nil {
		return err
	}
	defer s.close()
	return f(s)
}
