// Command generate makes the Go code, REST handlers and OpenAPI documents of
// every proto in the repository, with generators pinned in internal/tools/gen.
//
// It promises to use local plugins only, to touch nothing but generated files,
// and with --check to touch nothing at all and fail when a committed file is
// not what its source gives.
//
//	go run ./internal/tools/generate            write
//	go run ./internal/tools/generate --check    fail when not current
//	go run ./internal/tools/generate --against main   also check for breaking changes since a git ref
//	go run ./internal/tools/generate lsp/api    write only what lies under a directory
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	toolsDir   = ".build/tools"
	openapiDir = "docs/openapi"
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail when generated files are not current")
	against := flag.String("against", "", "git ref to compare the protos with for breaking changes")
	flag.Parse()
	if err := run(*check, *against, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(check bool, against string, under []string) error {
	if err := toRoot(); err != nil {
		return err
	}
	tools, err := buildTools()
	if err != nil {
		return err
	}
	protos, err := findProtos()
	if err != nil {
		return err
	}
	lint := []string{"lint"}
	for _, dir := range under {
		lint = append(lint, "--path", dir)
	}
	if err := buf(tools, lint...); err != nil {
		return fmt.Errorf("buf lint: %w", err)
	}
	if against != "" {
		if err := buf(tools, "breaking", "--against", ".git#ref="+against); err != nil {
			return fmt.Errorf("buf breaking against %s: %w", against, err)
		}
	}
	tmp, err := os.MkdirTemp("", "sluice-generate-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for _, proto := range protos {
		if !selected(proto, under) {
			continue
		}
		if err := generate(tools, tmp, proto); err != nil {
			return fmt.Errorf("%s: %w", proto, err)
		}
	}
	return reconcile(tmp, check, len(under) == 0)
}

func selected(proto string, under []string) bool {
	if len(under) == 0 {
		return true
	}
	return slices.ContainsFunc(under, func(dir string) bool {
		return strings.HasPrefix(proto, strings.TrimSuffix(filepath.ToSlash(dir), "/")+"/")
	})
}

// toRoot makes the repository's root the working directory, so that the
// command works from anywhere inside it.
func toRoot() error {
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

// buildTools builds the pinned generators; Go's build cache makes a second
// run quick.
func buildTools() (string, error) {
	dir, err := filepath.Abs(toolsDir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "buf")); err != nil {
		fmt.Println("building the generators (a minute or two the first time)")
	}
	cmd := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "tool")
	cmd.Dir = filepath.Join("internal", "tools", "gen")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build generators in %s: %w", cmd.Dir, err)
	}
	return dir, nil
}

func findProtos() ([]string, error) {
	var out []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if !d.IsDir() && filepath.Ext(path) == ".proto" {
			out = append(out, filepath.ToSlash(path))
		}
		return nil
	})
	return out, err
}

// restFile is the route file beside a proto: lsp.proto has lsp.rest.yaml. A
// proto without one has no REST.
func restFile(proto string) (string, bool) {
	path := strings.TrimSuffix(proto, ".proto") + ".rest.yaml"
	_, err := os.Stat(path)
	return path, err == nil
}

type plugin struct {
	Local string   `json:"local"`
	Out   string   `json:"out"`
	Opt   []string `json:"opt,omitempty"`
}

func generate(tools, out, proto string) error {
	if err := buf(tools, "generate", "--path", proto, "-o", out); err != nil {
		return err
	}
	routes, ok := restFile(proto)
	if !ok {
		return nil
	}
	template, err := json.Marshal(map[string]any{
		"version": "v2",
		"plugins": []plugin{
			{Local: "protoc-gen-grpc-gateway", Out: ".", Opt: []string{
				"paths=source_relative", "grpc_api_configuration=" + routes,
			}},
			{Local: "protoc-gen-openapiv2", Out: openapiDir, Opt: []string{
				"grpc_api_configuration=" + routes, "json_names_for_fields=false",
				"allow_merge=true", "merge_file_name=" + strings.TrimSuffix(filepath.Base(proto), ".proto"),
			}},
		},
	})
	if err != nil {
		return err
	}
	return buf(tools, "generate", "--path", proto, "-o", out, "--template", string(template))
}

func buf(tools string, args ...string) error {
	cmd := exec.Command(filepath.Join(tools, "buf"), args...)
	cmd.Env = append(os.Environ(), "PATH="+tools+string(os.PathListSeparator)+os.Getenv("PATH"))
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(text.Bytes()))
	}
	return nil
}

// reconcile brings the tree to what was generated, or in check mode says
// where it differs. When everything was generated, files whose source is gone
// count as different.
func reconcile(generated string, check, everything bool) error {
	fresh, err := listGenerated(generated)
	if err != nil {
		return err
	}
	committed, err := listGenerated(".")
	if err != nil {
		return err
	}
	var stale []string
	for _, path := range fresh {
		want, err := os.ReadFile(filepath.Join(generated, path))
		if err != nil {
			return err
		}
		if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
			continue
		}
		stale = append(stale, path)
		if check {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, want, 0o644); err != nil {
			return err
		}
		fmt.Println("wrote", path)
	}
	for _, path := range committed {
		if !everything || slices.Contains(fresh, path) {
			continue
		}
		stale = append(stale, path)
		if check {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		fmt.Println("removed", path)
	}
	if check && len(stale) > 0 {
		return fmt.Errorf("not current: %s\nrun make generate and commit the result", strings.Join(stale, ", "))
	}
	return nil
}

func listGenerated(root string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if strings.HasSuffix(rel, ".pb.go") || strings.HasSuffix(rel, ".pb.gw.go") ||
			strings.HasPrefix(rel, openapiDir+"/") && strings.HasSuffix(rel, ".swagger.json") {
			out = append(out, rel)
		}
		return nil
	})
	return out, err
}
