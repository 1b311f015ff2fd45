package devnet

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Link is a TCP relay between two nodes. A node that connects to its peer
// through a Link keeps redialling the Link's address, so a test controls the
// connection without touching either node: neither sees a disconnect request,
// only what a bad network would show.
type Link struct {
	listener net.Listener
	target   string

	mu     sync.Mutex
	change chan struct{} // closed and replaced whenever the state changes
	cut    bool
	stall  bool
	delay  time.Duration
	closed bool
	conns  map[net.Conn]struct{}
	onRead func(fromDialler bool, size int)
	wg     sync.WaitGroup
}

// NewLink listens on a loopback port and relays to target (host:port).
func NewLink(target string) (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Link{
		listener: listener, target: target,
		change: make(chan struct{}), conns: map[net.Conn]struct{}{},
	}
	l.wg.Add(1)
	go l.accept()
	return l, nil
}

// Addr is the address to dial instead of the target's.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Cut closes the connections and refuses new ones until Restore.
func (l *Link) Cut() { l.set(func() { l.cut = true; l.dropLocked() }) }

// Flap closes the connections; the dialler may come back at once.
func (l *Link) Flap() { l.set(l.dropLocked) }

// Stall keeps connections open but passes no byte, in either direction, until
// Restore: what a host that vanished without closing looks like.
func (l *Link) Stall() { l.set(func() { l.stall = true }) }

// SetDelay holds every byte back for d in each direction (order is kept).
func (l *Link) SetDelay(d time.Duration) { l.set(func() { l.delay = d }) }

// OnRead has f told of each read, before it is passed on: from which side, and how many
// bytes. lnd writes a message's header (18 bytes) and its body (16 more than it says) one
// after the other, so that sizes tell messages apart. Nil ends it; f may still run then.
func (l *Link) OnRead(f func(fromDialler bool, size int)) { l.set(func() { l.onRead = f }) }

// Restore ends Cut and Stall and removes the delay.
func (l *Link) Restore() { l.set(func() { l.cut, l.stall, l.delay = false, false, 0 }) }

// Connections counts the connections open now.
func (l *Link) Connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns) / 2
}

// Idle tells whether the link would relay but carries no connection.
func (l *Link) Idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns) == 0 && !l.cut && !l.stall && !l.closed
}

// Close ends the link for good.
func (l *Link) Close() error {
	l.set(func() { l.closed = true; l.dropLocked() })
	err := l.listener.Close()
	l.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (l *Link) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	close(l.change)
	l.change = make(chan struct{})
}

func (l *Link) dropLocked() {
	for conn := range l.conns {
		_ = conn.Close()
	}
}

func (l *Link) accept() {
	defer l.wg.Done()
	for {
		in, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		refuse := l.cut || l.closed
		l.mu.Unlock()
		if refuse {
			_ = in.Close()
			continue
		}
		l.wg.Add(1)
		go l.relay(in)
	}
}

func (l *Link) relay(in net.Conn) {
	defer l.wg.Done()
	out, err := net.DialTimeout("tcp", l.target, 5*time.Second)
	if err != nil {
		_ = in.Close()
		return
	}
	l.mu.Lock()
	if l.cut || l.closed {
		l.mu.Unlock()
		_, _ = in.Close(), out.Close()
		return
	}
	l.conns[in], l.conns[out] = struct{}{}, struct{}{}
	l.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { l.pump(out, in, true) })
	both.Go(func() { l.pump(in, out, false) })
	both.Wait()

	l.mu.Lock()
	delete(l.conns, in)
	delete(l.conns, out)
	l.mu.Unlock()
}

// chunk is what was read at once, and when it may be passed on.
type chunk struct {
	data []byte
	due  time.Time
}

// pump copies src to dst until either end closes. Reader and writer are apart
// so that a delay adds latency without reducing the rate.
func (l *Link) pump(dst, src net.Conn, fromDialler bool) {
	defer dst.Close()
	defer src.Close()

	queue := make(chan chunk, 1024)
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		defer close(done)
		defer dst.Close()
		for c := range queue {
			if !l.hold(c.due) {
				return
			}
			if _, err := dst.Write(c.data); err != nil {
				return
			}
		}
	})

	for {
		buf := make([]byte, 32<<10)
		n, err := src.Read(buf)
		if n > 0 {
			l.mu.Lock()
			due, onRead := time.Now().Add(l.delay), l.onRead
			l.mu.Unlock()
			if onRead != nil {
				onRead(fromDialler, n)
			}
			select {
			case queue <- chunk{buf[:n], due}:
			case <-done:
				err = io.EOF
			}
		}
		if err != nil {
			break
		}
	}
	close(queue)
	writer.Wait()
}

// hold waits until due has passed and the link is not stalled. It returns
// false when the link was cut or closed meanwhile.
func (l *Link) hold(due time.Time) bool {
	for {
		l.mu.Lock()
		gone, stalled, change := l.cut || l.closed, l.stall, l.change
		l.mu.Unlock()
		if gone {
			return false
		}
		if stalled {
			<-change
			continue
		}
		wait := time.Until(due)
		if wait <= 0 {
			return true
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-change:
			timer.Stop()
		}
	}
}
