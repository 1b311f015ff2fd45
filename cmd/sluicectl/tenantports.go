package main

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
)

// ownPort makes sure that no other hosted node of this machine has the RPC's port.
func (c TenantAddCmd) ownPort(g *Globals) error {
	if c.Form == formKubernetes {
		return nil // a port-forward comes and goes
	}
	files, err := filepath.Glob(filepath.Join(g.DataDir, hostedDir, "*.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		n, err := readHosted(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if n.Tenant != c.Tenant && n.Set == "" && n.MovedTo == "" && samePort(n.RPC, c.NodeRPC) {
			return fmt.Errorf("the node of %s has %s on this machine: give this one ports of its own, with --node-rpc and --node-peers. If that node is gone for good, remove %s. Nothing was changed", n.Tenant, n.RPC, file)
		}
	}
	return nil
}

// samePort says whether only one program can listen at both addresses.
func samePort(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB {
		return false
	}
	local := []string{"127.0.0.1", "localhost", "::1"}
	every := []string{"", "0.0.0.0", "::"}
	return hostA == hostB || slices.Contains(every, hostA) || slices.Contains(every, hostB) || slices.Contains(local, hostA) && slices.Contains(local, hostB)
}
