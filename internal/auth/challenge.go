package auth

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// challengeTitle opens the text; the purpose and version in it keep a
// signature from meaning anything elsewhere.
const challengeTitle = "sluice login, version 1"

// maxChallengeLen bounds what is parsed before anything is verified.
const maxChallengeLen = 1024

// Server is what a challenge says of the server, and what a client expects of
// it.
type Server struct {
	// NodeKey is the gateway's Lightning node.
	NodeKey ln.PubKey
	// ID tells this deployment from another at the same node; it does not
	// depend on TLS.
	ID string
}

// challenge is the text that a node signs. It names purpose, server, node,
// services, nonce and expiry, so that whoever gets the signature can use it
// for nothing else: a false server that passes on a challenge of this one
// would have to show the client a text that names a server the client did not
// mean to call.
type challenge struct {
	server   Server
	node     ln.PubKey
	services []string
	nonce    [16]byte
	expires  time.Time
}

func (c challenge) String() string {
	var b strings.Builder
	b.WriteString(challengeTitle)
	for _, line := range [][2]string{
		{"server", c.server.NodeKey.String()},
		{"server-id", c.server.ID},
		{"node", c.node.String()},
		{"services", strings.Join(c.services, ",")},
		{"nonce", hex.EncodeToString(c.nonce[:])},
		{"expires", strconv.FormatInt(c.expires.Unix(), 10)},
	} {
		b.WriteString("\n" + line[0] + ": " + line[1])
	}
	return b.String()
}

// parseChallenge reads exactly what String writes: a text with anything more
// or anything in another form is refused, so that nobody signs words that were
// not checked.
func parseChallenge(text string) (challenge, error) {
	bad := func(what string, cause error) (challenge, error) {
		if cause == nil {
			return challenge{}, errkind.New(errkind.Invalid, "This is not a login challenge of ours ("+what+"): ask for a new one.")
		}
		return challenge{}, errkind.Wrap(errkind.Invalid, cause, "This is not a login challenge of ours ("+what+"): ask for a new one.")
	}
	if len(text) > maxChallengeLen {
		return bad("too long", nil)
	}
	lines := strings.Split(text, "\n")
	if len(lines) != 7 || lines[0] != challengeTitle {
		return bad("title", nil)
	}
	var values [6]string
	for i, name := range []string{"server", "server-id", "node", "services", "nonce", "expires"} {
		value, ok := strings.CutPrefix(lines[i+1], name+": ")
		if !ok {
			return bad(name, nil)
		}
		values[i] = value
	}
	var c challenge
	var err error
	if c.server.NodeKey, err = ln.ParsePubKey(values[0]); err != nil {
		return bad("server", err)
	}
	c.server.ID = values[1]
	if c.node, err = ln.ParsePubKey(values[2]); err != nil {
		return bad("node", err)
	}
	if c.services, err = parseServices(values[3]); err != nil {
		return bad("services", err)
	}
	if n, err := hex.Decode(c.nonce[:], []byte(clipTo(values[4], 2*len(c.nonce)))); err != nil || n != len(c.nonce) {
		return bad("nonce", err)
	}
	unix, err := strconv.ParseInt(values[5], 10, 64)
	if err != nil || unix <= 0 {
		return bad("expires", err)
	}
	c.expires = time.Unix(unix, 0).UTC()
	if c.String() != text {
		return bad("form", nil)
	}
	return c, nil
}

// clipTo keeps hex.Decode from writing past its destination; what was cut off
// fails the comparison with the canonical form.
func clipTo(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// checkForSigning is the client's side: what it refuses to sign.
func (c challenge) checkForSigning(want Server, node ln.PubKey, services []string, now time.Time) error {
	switch {
	case c.server.NodeKey != want.NodeKey:
		return fmt.Errorf("the server's challenge names the gateway %s, not %s: this may be an attempt to log in elsewhere in our name", c.server.NodeKey, want.NodeKey)
	case want.ID != "" && c.server.ID != want.ID:
		return fmt.Errorf("the server's challenge names the deployment %q, not %q", c.server.ID, want.ID)
	case c.node != node:
		return fmt.Errorf("the server's challenge is for node %s, not for ours", c.node)
	case !c.expires.After(now.Add(-clockSkew)):
		return fmt.Errorf("the server's challenge expired at %s: check this machine's clock", c.expires.Format(time.RFC3339))
	case c.expires.After(now.Add(clockSkew + maxChallengeLife)):
		return fmt.Errorf("the server's challenge is good until %s, too long to sign: check this machine's clock", c.expires.Format(time.RFC3339))
	}
	if len(services) > 0 {
		for _, s := range c.services {
			if len(intersect(services, []string{s})) == 0 {
				return fmt.Errorf("the server's challenge asks for the service %q, which we did not", s)
			}
		}
	}
	return nil
}
