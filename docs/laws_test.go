package docs_test

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLawsNameTestsThatExist: every law of the interceptor has a test that
// would fail when it is broken, and the table's names are the code's.
func TestLawsNameTestsThatExist(t *testing.T) {
	exists := tests(t)
	laws := rows(t, read(t, filepath.Join(root, "docs", "architecture.md")), "### The laws and their tests")
	require.Len(t, laws, 12)
	for i, law := range laws {
		named := regexp.MustCompile(`\b(Test[A-Z]\w+)`).FindAllStringSubmatch(law[2], -1)
		require.NotEmpty(t, named, "law %d has no test", i+1)
		for _, m := range named {
			require.True(t, exists[m[1]], "law %d: %s does not exist", i+1, m[1])
		}
	}
}

// TestBadDaysNameTestsThatExist: the same of the watchtower's bad days.
func TestBadDaysNameTestsThatExist(t *testing.T) {
	exists := tests(t)
	for _, day := range rows(t, read(t, "watchtower.md"), "## Bad days") {
		named := regexp.MustCompile(`\b((?:Test|Fuzz)[A-Z]\w+)`).FindAllStringSubmatch(day[2], -1)
		require.NotEmpty(t, named, day[0])
		for _, m := range named {
			require.True(t, exists[m[1]], "%s: %s does not exist", day[0], m[1])
		}
	}
}

// TestFundingNamesTestsThatExist: the same of the clauses of joint fundings, and of
// their bad days.
func TestFundingNamesTestsThatExist(t *testing.T) {
	exists := tests(t)
	days := rows(t, read(t, "funding.md"), "## Bad days")
	require.NotEmpty(t, days)
	for _, day := range days {
		named := regexp.MustCompile(`\b(Test[A-Z]\w+)`).FindAllStringSubmatch(day[1], -1)
		require.NotEmpty(t, named, day[0])
		for _, m := range named {
			require.True(t, exists[m[1]], "%s: %s does not exist", day[0], m[1])
		}
	}
	for _, clause := range rows(t, read(t, "funding.md"), "## Clause by clause") {
		named := regexp.MustCompile(`\b(Test[A-Z]\w+)`).FindAllStringSubmatch(clause[2], -1)
		if strings.Contains(clause[2], "the same") {
			continue
		}
		require.NotEmpty(t, named, clause[0])
		for _, m := range named {
			require.True(t, exists[m[1]], "%s: %s does not exist", clause[0], m[1])
		}
	}
}

// tests are the names of all tests and fuzz targets.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	exists := make(map[string]bool)
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, "_test.go") {
			for _, m := range declared.FindAllStringSubmatch(read(t, path), -1) {
				exists[m[1]] = true
			}
		}
		return nil
	})
	require.NoError(t, err)
	return exists
}
