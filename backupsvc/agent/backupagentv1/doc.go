// Package backupagentv1 is generated from backupagent.proto; `make generate`
// writes it anew.
package backupagentv1
