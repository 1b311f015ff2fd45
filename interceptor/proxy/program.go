package proxy

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Program registers a program.
type Program struct {
	// Name is lower-case letters, digits and '-', at most 32.
	Name string
	// MacaroonID is the identifier of the lnd macaroon that it comes with. Caveats
	// that it adds leave it as it is.
	MacaroonID string
	// WhileAway is what happens to forwards while it is not attached.
	WhileAway interceptor.Absent
	// WhenSlow is what happens to one that it has not answered within AnswerWithin.
	// Hold lets it answer until the forward's deadline.
	WhenSlow     interceptor.Absent
	AnswerWithin time.Duration
	// MaySettle: it may settle forwards with a preimage, which takes their amount for
	// the gateway.
	MaySettle bool
}

// Limits of one connection.
const (
	// maxUnanswered is how many questions may wait in one connection. It is more than
	// lnd's channels have slots on most gateways.
	maxUnanswered = 10_000
	// maxRefused is how many answers that are not taken end a connection.
	maxRefused = 100
	// maxLate is how many questions in a row may stay unanswered until its policy
	// answers: then the program is taken for hanging.
	maxLate = 200
)

// program is a registered one, or one that is attached. Guarded by Hub.mu.
type program struct {
	Program
	registered bool
	conn       *conn
	// since says when it attached or went away.
	since time.Time
	// waiting counts asks that it has yet to answer.
	waiting int
	// lateInRow counts questions since its last answer.
	lateInRow   int
	channels    int
	asked       uint64
	failed      uint64
	settled     uint64
	late        uint64
	refused     uint64
	lastRefusal string
}

// conn is one stream of a program's. Guarded by Hub.mu.
type conn struct {
	program *program
	queue   []any
	// sent are questions put on this stream and not answered on it.
	sent    map[ln.CircuitKey]struct{}
	refused int
	err     error
	woken   chan struct{}
	// ended is closed once err is set.
	ended chan struct{}
}

// Reasons why a stream ends.
var (
	errReplaced = errors.New("another program attached with the same macaroon")
	errHanging  = errors.New("the program does not answer: its policy applies until it attaches again")
	errFlood    = errors.New("too many answers that could not be taken")
	errUnread   = fmt.Errorf("more than %d forwards wait for this program", maxUnanswered)
)

func (c *conn) end(err error) {
	if c.err == nil {
		c.err = err
		close(c.ended)
	}
}

// ask puts a question, unless it is on this stream already.
func (c *conn) ask(key ln.CircuitKey, wire any) {
	if _, already := c.sent[key]; already || c.err != nil || wire == nil {
		return
	}
	if len(c.sent) >= maxUnanswered {
		c.end(errUnread)
		return
	}
	c.sent[key] = struct{}{}
	c.queue = append(c.queue, wire)
	c.program.asked++
	wake(c.woken)
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Validate checks a registration.
func (p Program) Validate() error {
	if err := (interceptor.HandlerConfig{Name: p.Name, OnAbsent: p.WhileAway}).Validate(); err != nil {
		return err
	}
	if err := (interceptor.HandlerConfig{Name: p.Name, OnAbsent: p.WhenSlow}).Validate(); err != nil {
		return err
	}
	if p.MacaroonID == "" || p.AnswerWithin <= 0 {
		return fmt.Errorf("the program %s needs a macaroon and a time to answer", p.Name)
	}
	return nil
}
