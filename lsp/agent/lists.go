package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/sluice-lsp/sluice/internal/durable"
)

// readList reads what writeList wrote; what names it to people.
func readList[T any](what, path string) (list []T, err error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if err := json.Unmarshal(content, &list); err != nil {
		return nil, fmt.Errorf("%s %s: the file is damaged; move it away to go on without it: %w", what, path, err)
	}
	return list, nil
}

// writeList replaces the file as a whole.
func writeList[T any](what, path string, list []T) error {
	content, err := json.MarshalIndent(list, "", " ")
	if err == nil {
		err = durable.WriteFile(path, content, 0o600)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
