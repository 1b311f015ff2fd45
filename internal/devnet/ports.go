package devnet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

const (
	// Listening ports stay below 32768, where Linux's range of outgoing
	// connections begins: otherwise any dial on the machine may take the port
	// of a node that is just restarting.
	portFloor   = 10_000
	portCeiling = 32_000
	portBlock   = 200
)

// ports hands out listening ports from a block that belongs to this network:
// whoever holds a listener on the block's first port owns the rest, also while
// the processes meant to listen there are down.
type ports struct {
	lock net.Listener

	mu   sync.Mutex
	next int
	end  int
}

func reservePorts() (*ports, error) {
	blocks := (portCeiling - portFloor) / portBlock
	for _, i := range rand.Perm(blocks) {
		first := portFloor + i*portBlock
		lock, err := net.Listen("tcp", loopback(first))
		if err != nil {
			continue
		}
		return &ports{lock: lock, next: first + 1, end: first + portBlock}, nil
	}
	return nil, errors.New("no free block of ports between 10000 and 32000 on 127.0.0.1")
}

// take returns a port of the block on which nothing listens.
func (p *ports) take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.next < p.end {
		port := p.next
		p.next++
		probe, err := net.Listen("tcp", loopback(port))
		if err != nil {
			continue
		}
		return port, probe.Close()
	}
	return 0, fmt.Errorf("the network has used up its %d ports", portBlock)
}

func (p *ports) takeAddr() (string, error) {
	port, err := p.take()
	return loopback(port), err
}

func (p *ports) release() error { return p.lock.Close() }

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
