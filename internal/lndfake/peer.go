package lndfake

import "github.com/lightningnetwork/lnd/lnrpc"

// conn is what connects two nodes: wanted by somebody, up or not.
type conn struct {
	w      *World
	a, b   *Node
	wanted bool
	up     bool
	gen    int
}

func (c *conn) has(n *Node) bool { return c.a == n || c.b == n }

func (c *conn) other(n *Node) *Node {
	if c.a == n {
		return c.b
	}
	return c.a
}

func (w *World) conn(a, b *Node) *conn {
	if a.pub > b.pub {
		a, b = b, a
	}
	k := [2]*Node{a, b}
	c := w.conns[k]
	if c == nil {
		c = &conn{w: w, a: a, b: b}
		w.conns[k] = c
	}
	return c
}

func (c *conn) establish() {
	if c.up || !c.a.up || !c.b.up || c.a.frozen || c.b.frozen || c.w.closed {
		return
	}
	c.up = true
	c.gen++
	c.w.tracef("%s-%s connected", c.a.name, c.b.name)
	c.announce(lnrpc.PeerEvent_PEER_ONLINE)
	for _, ch := range c.w.channels {
		if ch.between(c.a, c.b) {
			ch.linkStart()
		}
	}
}

func (c *conn) drop() {
	if !c.up {
		return
	}
	c.up = false
	c.gen++
	c.w.tracef("%s-%s disconnected", c.a.name, c.b.name)
	for _, ch := range c.w.channels {
		if ch.between(c.a, c.b) {
			ch.linkStop()
		}
	}
	c.announce(lnrpc.PeerEvent_PEER_OFFLINE)
	for _, n := range []*Node{c.a, c.b} {
		if n.up {
			n.cancelReservations(c.other(n))
		}
	}
}

// reconnect finds the peer again after a while, if somebody wants it: who connected once, or has a channel.
func (c *conn) reconnect() {
	if !c.wanted || c.up {
		return
	}
	gen := c.gen
	c.w.after(c.w.cfg.Latency.Reconnect, func() {
		if c.wanted && c.gen == gen {
			c.establish()
		}
	})
}

func (c *conn) announce(kind lnrpc.PeerEvent_EventType) {
	for _, n := range []*Node{c.a, c.b} {
		if n.up {
			n.mem.peerEvents.publish(&lnrpc.PeerEvent{PubKey: c.other(n).pub, Type: kind})
		}
	}
}

// Connect connects two nodes and keeps them connected over restarts.
func (w *World) Connect(a, b *Node) {
	w.do(func() {
		c := w.conn(a, b)
		c.wanted = true
		c.establish()
	})
}

// Disconnect takes the connection of two nodes down until Connect.
func (w *World) Disconnect(a, b *Node) {
	w.do(func() {
		c := w.conn(a, b)
		c.wanted = false
		c.drop()
	})
}

// Flap drops the connection; the nodes find each other again after Latency.Reconnect.
func (w *World) Flap(a, b *Node) {
	w.do(func() {
		c := w.conn(a, b)
		c.wanted = true
		c.drop()
		c.reconnect()
	})
}

func (n *Node) connected(peer *Node) bool {
	return peer != n && n.w.conn(n, peer).up
}
