// Package holdagentv1 is the wallet's holds as its own command line sees them; generated from
// holdagent.proto.
package holdagentv1
