package lsps5

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// Target is where a webhook leads.
type Target struct {
	// URL is the text as the client gave it: it may hold a secret of the
	// client's and goes to no log.
	URL string
	// Host is a name in lower case or an address, without brackets.
	Host string
	Port uint16
}

// Address is the address that a host is, if it is one.
func (t Target) Address() (netip.Addr, bool) {
	a, err := netip.ParseAddr(t.Host)
	return a, err == nil
}

// IsWebPort keeps webhooks from well-known services that are no web servers.
func (t Target) IsWebPort() bool { return t.Port == 443 || t.Port >= 1024 }

// ParseTarget reads a URL (RFC 1738) that can be called.
//
// The bytes are checked before any parser sees them: what one reader takes for
// the host and another for something else (a backslash, a tab, a user name
// before an @) is how a check of a URL is led astray.
func ParseTarget(text string) (Target, *lsps0.Error) {
	for i := range len(text) {
		c := text[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0 {
			return Target{}, URLParse()
		}
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme == "":
		return Target{}, URLParse()
	case u.Scheme != "https":
		return Target{}, UnsupportedProtocol()
	case u.Opaque != "" || u.User != nil || u.Host == "":
		return Target{}, URLParse()
	}
	t := Target{URL: text, Host: strings.ToLower(u.Hostname()), Port: 443}
	if strings.HasSuffix(u.Host, ":") {
		return Target{}, URLParse()
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return Target{}, URLParse()
		}
		t.Port = uint16(n)
	}
	if strings.HasPrefix(u.Host, "[") {
		a, err := netip.ParseAddr(t.Host)
		if err != nil || a.Zone() != "" || !a.Is6() {
			return Target{}, URLParse()
		}
		return t, nil
	}
	if !isHost(t.Host) {
		return Target{}, URLParse()
	}
	return t, nil
}

// isHost takes names of the DNS and dotted IPv4 addresses. A host of digits that
// is no address in full ("127.1", "0x7f.1", "2130706433") is one to some
// resolvers: it is refused.
func isHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	name := strings.TrimSuffix(host, ".")
	if name == "" || len(name) > 253 {
		return false
	}
	var last string
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return false
			}
		}
		last = label
	}
	return last[0] < '0' || last[0] > '9'
}

// IsPublic reports an address that anybody on the internet may call: nothing of
// a private network, of this machine, of a tunnel that hides another address, or
// of a special purpose (IANA's registries).
func IsPublic(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsValid() || a.Zone() != "" || !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	if a.Is4() {
		return !within(a, special4())
	}
	// All that is handed out lies in 2000::/3; this leaves out NAT64 (64:ff9b::/96)
	// and addresses that are compatible with IPv4.
	return within(a, []string{"2000::/3"}) && !within(a, special6())
}

func special4() []string {
	return []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	}
}

func special6() []string {
	return []string{
		"2001::/23",     // Teredo and other protocols
		"2001:db8::/32", // documentation
		"2002::/16",     // 6to4: an IPv4 address inside
		"3fff::/20",     // documentation
		"5f00::/16",     // segment routing
	}
}

func within(a netip.Addr, prefixes []string) bool {
	for _, p := range prefixes {
		if netip.MustParsePrefix(p).Contains(a) {
			return true
		}
	}
	return false
}
