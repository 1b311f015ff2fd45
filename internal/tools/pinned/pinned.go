// Package pinned builds the development tools whose versions are pinned in the
// nested modules beside it, so that a machine needs nothing but Go.
//
// It promises to install nothing outside of .build/tools, and to say what it
// does whenever that takes more than a moment.
package pinned

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// The modules: one per tool where their dependencies would fight.
const (
	Generators  = "gen"
	Sqlc        = "sqlc"
	Golangci    = "golangci"
	Govulncheck = "govulncheck"
)

// toolsDir is where the tools are, below the repository's root.
const toolsDir = ".build/tools"

// ToRoot makes the repository's root the working directory, so that the
// commands work from anywhere inside it.
func ToRoot() error {
	for range 32 {
		if _, err := os.Stat("buf.yaml"); err == nil {
			return nil
		}
		if err := os.Chdir(".."); err != nil {
			return err
		}
	}
	return errors.New("run it inside the repository: no buf.yaml found above this directory")
}

// Build builds the tools of one module and gives their directory. Call it at
// the repository's root. Go's build cache makes every run but the first quick.
func Build(module string) (dir string, err error) {
	if dir, err = filepath.Abs(toolsDir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	began := time.Now()
	note := time.AfterFunc(3*time.Second, func() {
		fmt.Printf("building %s, pinned in internal/tools/%s/go.mod (a minute or two with empty caches)\n", module, module)
	})
	cmd := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "tool")
	cmd.Dir = filepath.Join("internal", "tools", module)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Run()
	if !note.Stop() {
		fmt.Printf("building %s: done in %s\n", module, time.Since(began).Round(time.Second))
	}
	if err != nil {
		return "", fmt.Errorf("build the tools of %s: %w", cmd.Dir, err)
	}
	return dir, nil
}
