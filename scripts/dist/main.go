// Command dist builds what a release consists of: for each platform an archive
// with the program, its man pages and the shells' completions, and a list of
// what the program is made of; Debian packages; and the checksums of them all.
//
// Builds are reproducible: the same commit and the same release of Go give the same bytes. Paths
// are removed from the programs, and every time is that of the commit (or SOURCE_DATE_EPOCH).
package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// allPlatforms are the platforms of a release.
var allPlatforms = []string{
	"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64", "windows/arm64",
}

// tools are the packages of the tools, which tools/go.mod pins.
var tools = map[string]string{
	"cyclonedx-gomod": "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod",
	"nfpm":            "github.com/goreleaser/nfpm/v2/cmd/nfpm",
}

func main() {
	var r release
	list := flag.Bool("list", false, "print the platforms and exit")
	flag.StringVar(&r.out, "o", "dist", "write all files to this directory")
	flag.StringVar(&r.version, "version", "", "version (default: from git describe)")
	flag.StringVar(&r.tools, "tools", "", "directory of the tools, which are built there if missing")
	platforms := flag.String("platforms", strings.Join(allPlatforms, ","), "platforms to build for")
	flag.Parse()
	if *list {
		fmt.Println(strings.Join(allPlatforms, "\n"))
		return
	}
	if err := r.run(strings.Split(*platforms, ",")); err != nil {
		fmt.Fprintf(os.Stderr, "dist: %v\n", err)
		os.Exit(1)
	}
}

// release is a release that is being built.
type release struct {
	out     string
	version string
	tools   string
	time    time.Time // of all files
	shared  []entry   // files that are the same on every platform
	made    []string  // names of files in out
	scratch string
}

func (r *release) run(platforms []string) error {
	if err := r.identify(); err != nil {
		return err
	}
	for _, p := range platforms {
		if !slices.Contains(allPlatforms, p) {
			return fmt.Errorf("platform %q: want one of %s", p, strings.Join(allPlatforms, ", "))
		}
	}
	var err error
	if r.scratch, err = os.MkdirTemp("", "dist-"); err != nil {
		return err
	}
	defer os.RemoveAll(r.scratch)
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	if err := r.buildTools(); err != nil {
		return err
	}
	if r.shared, err = r.sharedEntries(); err != nil {
		return err
	}
	for _, p := range platforms {
		goos, arch, _ := strings.Cut(p, "/")
		if err := r.platform(goos, arch); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return r.writeSums()
}

// identify finds out version and time where they were not given.
func (r *release) identify() error {
	if r.version == "" {
		v, err := command(nil, "git", "describe", "--tags", "--always", "--dirty")
		if err != nil {
			return err
		}
		r.version = strings.TrimSpace(string(v))
	}
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		t, err := command(nil, "git", "log", "-1", "--format=%ct")
		if err != nil {
			return err
		}
		epoch = strings.TrimSpace(string(t))
	}
	sec, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	r.time = time.Unix(sec, 0).UTC()
	return nil
}

// buildTools builds the tools that are not there yet. They are built without
// paths, because the SBOM has a checksum of the tool that made it.
func (r *release) buildTools() error {
	r.tools = cmp.Or(r.tools, filepath.Join(r.scratch, "tools"))
	for name, pkg := range tools {
		exe := filepath.Join(r.tools, name)
		if _, err := os.Stat(exe); err == nil {
			continue
		}
		if _, err := command([]string{"CGO_ENABLED=0"}, "go", "build", "-modfile=tools/go.mod", "-trimpath", "-buildvcs=false", "-o", exe, pkg); err != nil {
			return err
		}
	}
	return nil
}

// build builds the program for a platform.
func (r *release) build(exe, goos, arch string) error {
	// Settings of the person who builds must not get into it.
	env := []string{"CGO_ENABLED=0", "GOOS=" + goos, "GOARCH=" + arch, "GOFLAGS=", "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=", "GOFIPS140=off"}
	_, err := command(env, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X main.version="+r.version, "-o", exe, "./cmd/vhdtool")
	return err
}

// sharedEntries are texts, man pages, and what the program prints for shells.
func (r *release) sharedEntries() ([]entry, error) {
	var all []entry
	pages, err := filepath.Glob("docs/man/*.1")
	if err != nil {
		return nil, err
	}
	if len(pages) == 0 {
		return nil, errors.New("docs/man: no man pages")
	}
	for _, name := range slices.Concat([]string{"README.md", "CHANGELOG.md", "LICENSE"}, pages) {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		to := name
		if filepath.Ext(name) == ".1" {
			to = path.Join("man", filepath.Base(name))
		}
		all = append(all, entry{to, 0o644, b})
	}
	native := filepath.Join(r.scratch, "vhdtool")
	if err := r.build(native, runtime.GOOS, runtime.GOARCH); err != nil {
		return nil, err
	}
	for shell, name := range map[string]string{"bash": "vhdtool.bash", "zsh": "_vhdtool", "fish": "vhdtool.fish", "powershell": "vhdtool.ps1"} {
		b, err := command(nil, native, "completion", shell)
		if err != nil {
			return nil, err
		}
		all = append(all, entry{path.Join("completions", name), 0o644, b})
	}
	return all, nil
}

// platform makes the files for one platform.
func (r *release) platform(goos, arch string) error {
	name := "vhdtool"
	if goos == "windows" {
		name += ".exe"
	}
	// Programs of all platforms have the same name, so each has a directory of its own.
	exe := filepath.Join(r.scratch, goos, arch, name)
	if err := r.build(exe, goos, arch); err != nil {
		return err
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		return err
	}
	stem := fmt.Sprintf("vhdtool_%s_%s_%s", r.version, goos, arch)
	sbom, err := command(nil, filepath.Join(r.tools, "cyclonedx-gomod"), "bin", "-json", "-std", "-noserial", "-notimestamp", "-version", r.version, exe)
	if err != nil {
		return err
	}
	if err := r.write(stem+".cdx.json", sbom); err != nil {
		return err
	}
	notices, err := r.notices(goos, arch)
	if err != nil {
		return err
	}
	common := append(slices.Clone(r.shared), entry{"THIRD-PARTY-LICENSES", 0o644, notices})
	entries := append(slices.Clone(common), entry{name, 0o755, program}, entry{"vhdtool.cdx.json", 0o644, sbom})
	for i := range entries {
		entries[i].name = path.Join(stem, entries[i].name)
	}
	var archive bytes.Buffer
	if goos == "windows" {
		err = writeZip(&archive, entries, r.time)
		stem += ".zip"
	} else {
		err = writeTarGz(&archive, entries, r.time)
		stem += ".tar.gz"
	}
	if err != nil {
		return err
	}
	if err := r.write(stem, archive.Bytes()); err != nil {
		return err
	}
	if goos == "linux" {
		return r.debian(arch, program, common)
	}
	return nil
}

// write makes a file of the release.
func (r *release) write(name string, b []byte) error {
	r.made = append(r.made, name)
	fmt.Println(filepath.Join(r.out, name))
	return os.WriteFile(filepath.Join(r.out, name), b, 0o644)
}

// writeSums writes SHA256SUMS, for sha256sum -c.
func (r *release) writeSums() error {
	var sums bytes.Buffer
	for _, name := range slices.Sorted(slices.Values(r.made)) {
		b, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(b), name)
	}
	return r.write("SHA256SUMS", sums.Bytes())
}

// command runs a program in the repository and returns what it printed.
func command(env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}
