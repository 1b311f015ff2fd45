package cli

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"
)

// ExitUsage is the exit code of every program for a wrong command line.
const ExitUsage = 2

// Version is what a program was built from.
type Version struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
}

// BuildVersion is this program's.
func BuildVersion() Version {
	v := Version{Version: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version, v.Go = info.Main.Version, info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

// Line is the version for people.
func (v Version) Line(program string) string {
	details := []string{v.Go}
	if v.Revision != "" {
		details = append(details, v.Revision[:min(12, len(v.Revision))])
	}
	if v.Modified {
		details = append(details, "modified")
	}
	return fmt.Sprintf("%s %s (%s)", program, v.Version, strings.Join(details, ", "))
}

// Wrong says what is wrong with a command line, and where its help is: that of
// the command that was meant, as far as it was understood.
func Wrong(program string, err error) string {
	path := []string{program}
	if parse, ok := errors.AsType[*kong.ParseError](err); ok && parse.Context != nil {
		for _, p := range parse.Context.Path {
			if p.Command != nil {
				path = append(path, p.Command.Name)
			}
		}
	}
	return fmt.Sprintf("%s: %s\nTry \"%s --help\".", program, Clean(err.Error()), strings.Join(path, " "))
}

// Usage is a wrong command line that shows only when the command runs.
type Usage struct{ Err error }

func (u Usage) Error() string { return u.Err.Error() }

// Unwrap gives what is wrong.
func (u Usage) Unwrap() error { return u.Err }

// Usagef says what is wrong with a command line.
func Usagef(format string, args ...any) error { return Usage{Err: fmt.Errorf(format, args...)} }

// ExitCode is that of a command that ended with an error.
func ExitCode(err error) int {
	if _, ok := errors.AsType[Usage](err); ok {
		return ExitUsage
	}
	return 1
}
