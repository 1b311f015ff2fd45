// Command generate makes the Go code, REST handlers and OpenAPI documents of
// every proto in the repository, and the code of every SQL query, with
// generators pinned in the nested modules beside it.
//
// It promises to use local plugins only, to touch nothing but generated files,
// and with --check to touch nothing at all and fail when a committed file is
// not what its source gives. The protos are linted, and compared with those of
// the last release: what breaks a client of it fails.
//
//	go run ./internal/tools/generate             write
//	go run ./internal/tools/generate --check     fail when not current
//	go run ./internal/tools/generate --release   the protos of today are what clients rely on from now on
//	go run ./internal/tools/generate lsp/api     write only what lies under a directory
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluice-lsp/sluice/internal/tools/pinned"
)

const (
	openapiDir = "docs/openapi"
	// released is the image of the last release's protos. A file rather than a
	// git ref: it is there in a shallow clone, too, and a change of it is seen in
	// review.
	released = "docs/openapi/released.binpb"
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail when generated files are not current")
	release := flag.Bool("release", false, "take the protos as they are for what clients rely on from now on")
	flag.Parse()
	if err := run(*check, *release, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(check, release bool, under []string) error {
	if err := pinned.ToRoot(); err != nil {
		return err
	}
	tools, err := pinned.Build(pinned.Generators)
	if err != nil {
		return err
	}
	if release {
		return buf(tools, "build", "--exclude-source-info", "-o", released)
	}
	if err := protos(tools, check, under); err != nil {
		return err
	}
	if len(under) > 0 {
		return nil
	}
	return queries(check)
}

func protos(tools string, check bool, under []string) error {
	files, err := findProtos()
	if err != nil {
		return err
	}
	var only []string
	for _, dir := range under {
		only = append(only, "--path", dir)
	}
	if err := buf(tools, append([]string{"lint"}, only...)...); err != nil {
		return fmt.Errorf("buf lint: %w", err)
	}
	if err := buf(tools, append([]string{"breaking", "--against", released}, only...)...); err != nil {
		return fmt.Errorf("buf breaking: a client of the API in %s would break (if nobody can have one: make api-release): %w", released, err)
	}
	tmp, err := os.MkdirTemp("", "sluice-generate-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for _, proto := range files {
		if !selected(proto, under) {
			continue
		}
		if err := generate(tools, tmp, proto); err != nil {
			return fmt.Errorf("%s: %w", proto, err)
		}
	}
	return reconcile(tmp, check, len(under) == 0)
}

// queries does the same for the code of SQL queries.
func queries(check bool) error {
	tools, err := pinned.Build(pinned.Sqlc)
	if err != nil {
		return err
	}
	verb := "generate"
	if check {
		verb = "diff"
	}
	if out, err := exec.Command(filepath.Join(tools, "sqlc"), verb).CombinedOutput(); err != nil {
		return fmt.Errorf("sqlc %s: %w\n%s\nrun make generate and commit the result", verb, err, bytes.TrimSpace(out))
	}
	return nil
}

func selected(proto string, under []string) bool {
	if len(under) == 0 {
		return true
	}
	return slices.ContainsFunc(under, func(dir string) bool {
		return strings.HasPrefix(proto, strings.TrimSuffix(filepath.ToSlash(dir), "/")+"/")
	})
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
