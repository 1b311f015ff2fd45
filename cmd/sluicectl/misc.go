package main

import (
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
	v := cli.BuildVersion()
	if g.JSON {
		return cli.WriteJSON(w.stdout, v)
	}
	p := w.printer()
	p.Printf("%s\n", v.Line("sluicectl"))
	return p.Err
}
