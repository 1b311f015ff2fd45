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
	exists := make(map[string]bool)
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
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
