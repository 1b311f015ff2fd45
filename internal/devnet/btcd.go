package devnet

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// RPCError is an error that btcd's JSON-RPC server returned.
type RPCError struct {
	Method  string `json:"-"`
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *RPCError) Error() string {
	return fmt.Sprintf("btcd %s: %s (code %d)", e.Method, e.Message, e.Code)
}

// BtcdRPC is how to reach a btcd's JSON-RPC server.
type BtcdRPC struct {
	Host string `json:"host"` // host:port
	User string `json:"user"`
	Pass string `json:"pass"`
	Cert string `json:"cert"` // path of the TLS certificate
}

// btcdClient is a JSON-RPC client that honours contexts.
type btcdClient struct {
	rpc  BtcdRPC
	http *http.Client
}

func newBtcdClient(rpc BtcdRPC) (*btcdClient, error) {
	pem, err := os.ReadFile(rpc.Cert)
	if err != nil {
		return nil, fmt.Errorf("btcd's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("btcd's certificate: nothing usable in %s", rpc.Cert)
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		IdleConnTimeout: time.Minute,
	}
	return &btcdClient{rpc: rpc, http: &http.Client{Transport: transport}}, nil
}

// call runs one method and decodes its result into out (nil to ignore it).
func (c *btcdClient) call(ctx context.Context, out any, method string, params ...any) error {
	if params == nil {
		params = []any{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "1.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+c.rpc.Host, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.SetBasicAuth(c.rpc.User, c.rpc.Pass)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("btcd %s: %w", method, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("btcd %s: %w", method, err)
	}
	var reply struct {
		Result json.RawMessage `json:"result"`
		Error  *RPCError       `json:"error"`
	}
	if err := json.Unmarshal(data, &reply); err != nil {
		return fmt.Errorf("btcd %s: HTTP %s: %q", method, resp.Status, data[:min(len(data), 200)])
	}
	if reply.Error != nil {
		reply.Error.Method = method
		return reply.Error
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(reply.Result, out); err != nil {
		return fmt.Errorf("btcd %s: %w", method, err)
	}
	return nil
}

func (c *btcdClient) close() { c.http.CloseIdleConnections() }

// MineOn mines blocks on a running network's btcd, known by its description;
// it needs no other part of the network. It returns the new block hashes.
func MineOn(ctx context.Context, rpc BtcdRPC, blocks int) ([]string, error) {
	if blocks < 1 {
		return nil, errors.New("the number of blocks must be at least 1")
	}
	client, err := newBtcdClient(rpc)
	if err != nil {
		return nil, err
	}
	defer client.close()
	var hashes []string
	return hashes, client.call(ctx, &hashes, "generate", blocks)
}
