package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyADatabaseThatIsAwayPasses(t *testing.T) {
	require.True(t, unreachable(`govulncheck: fetching vulnerabilities: Get "https://db.example/index/modules.json.gz": dial tcp: no such host`))
	for _, finding := range []string{
		"", "=== Symbol Results ===\n\nVulnerability #1: GO-2024-0001",
		"govulncheck: loading packages: no such file",
		"govulncheck: fetching vulnerabilities: timeout\nVulnerability #1: GO-2024-0001",
	} {
		require.False(t, unreachable(finding), finding)
	}
}
