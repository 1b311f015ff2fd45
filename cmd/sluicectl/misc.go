package main

import (
	"runtime/debug"

	"github.com/sluice-lsp/sluice/internal/cli"
)

// CompletionCmd prints a completion script.
type CompletionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run implements the command.
func (c CompletionCmd) Run(w *world) error {
	script, err := cli.Completion(c.Shell, w.model)
	if err != nil {
		return err
	}
	p := w.printer()
	p.Printf("%s", script)
	return p.Err
}

// VersionCmd prints the version.
type VersionCmd struct{}

// Run implements the command.
func (VersionCmd) Run(w *world, g *Globals) error {
	v := struct {
		Version  string `json:"version"`
		Revision string `json:"revision"`
		Modified bool   `json:"modified"`
		Go       string `json:"go"`
	}{Version: "unknown"}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Version, v.Go = info.Main.Version, info.GoVersion
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, v)
	}
	p := w.printer()
	p.Printf("sluicectl %s (%s)\n", v.Version, v.Go)
	return p.Err
}
