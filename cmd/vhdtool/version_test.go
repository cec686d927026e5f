package main

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

func TestProgramVersion(t *testing.T) {
	commit := []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef0123"}}
	for _, c := range []struct {
		name, linked    string
		info            *debug.BuildInfo
		version, commit string
	}{
		{"release", "v1.2.3", &debug.BuildInfo{Main: debug.Module{Version: "v1.2.2"}, Settings: commit}, "v1.2.3", "0123456789ab"},
		{"go install", "", &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3", ""},
		{"go build in a clone", "", &debug.BuildInfo{Main: debug.Module{Version: "v1.2.4-0.20260102030405-0123456789ab"}, Settings: commit}, "v1.2.4-0.20260102030405-0123456789ab", "0123456789ab"},
		{"go build elsewhere", "", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "devel", ""},
		{"no build info", "", nil, "devel", ""},
	} {
		if v, commit := programVersion(c.linked, c.info); v != c.version || commit != c.commit {
			t.Errorf("%s: got %q, %q; want %q, %q", c.name, v, commit, c.version, c.commit)
		}
	}
}

// TestGoInstall installs the program like 'go install MODULE@latest', from a proxy in a directory.
// Required modules come from the module cache.
func TestGoInstall(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the program")
	}
	const module, version = "github.com/vhdtool/vhdtool", "v1.2.3"
	dir := t.TempDir()
	writeModule(t, filepath.Join(dir, "proxy", module, "@v"), module, version)
	cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	downloads := filepath.Join(strings.TrimSpace(string(cache)), "cache", "download")
	cmd := exec.Command("go", "install", module+"/cmd/vhdtool@latest")
	cmd.Dir = dir
	cmd.Env = append(
		os.Environ(), "GOBIN="+filepath.Join(dir, "bin"), "GOMODCACHE="+filepath.Join(dir, "modules"), "GOSUMDB=off",
		// -trimpath lets the build cache serve the next run.
		"GOFLAGS=-modcacherw -trimpath", "GOPROXY="+fileURL(filepath.Join(dir, "proxy"))+","+fileURL(downloads)+",off",
	)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go install: %v\n%s", err, out)
	}
	out, err := exec.Command(filepath.Join(dir, "bin", "vhdtool"), "--version").Output()
	if want := "vhdtool version " + version + " (vhdtool, "; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("--version prints %q, %v; want %q", out, err, want)
	}
}

// fileURL returns the URL of a directory.
func fileURL(dir string) string {
	return "file:///" + strings.TrimPrefix(filepath.ToSlash(dir), "/")
}

// writeModule writes a version of the module of this repository into the directory of a
// module proxy: the packages that the program consists of.
func writeModule(t *testing.T, dir, module, version string) {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	add := func(name string) error {
		content, err := os.ReadFile(filepath.Join("../..", filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		w, err := z.Create(module + "@" + version + "/" + name)
		if err == nil {
			_, err = w.Write(content)
		}
		return err
	}
	root := os.DirFS("../..")
	for _, top := range []string{"go.mod", "go.sum", "cmd", "internal", "pkg"} {
		err := fs.WalkDir(root, top, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return fs.SkipDir
			case d.IsDir(), strings.HasSuffix(name, "_test.go"):
				return nil
			}
			return add(name)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"list":            []byte(version + "\n"),
		version + ".info": fmt.Appendf(nil, `{"Version":%q,"Time":"2026-01-02T03:04:05Z"}`, version),
		version + ".mod":  mod,
		version + ".zip":  b.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}
