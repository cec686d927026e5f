package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	sample = []entry{
		{"b/text", 0o644, []byte("text")},
		{"a/program", 0o755, bytes.Repeat([]byte("program"), 1000)},
	}
	sampleTime = time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)
)

// TestArchives: an archive has every file, sorted, with its mode and the common time. It does
// not depend on the order of its input.
func TestArchives(t *testing.T) {
	reversed := slices.Clone(sample)
	slices.Reverse(reversed)
	for name, write := range map[string]func(io.Writer, []entry, time.Time) error{"tar.gz": writeTarGz, "zip": writeZip} {
		t.Run(name, func(t *testing.T) {
			var one, two bytes.Buffer
			if err := errors.Join(write(&one, sample, sampleTime), write(&two, reversed, sampleTime)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(one.Bytes(), two.Bytes()) {
				t.Error("the archive depends on the order of the files")
			}
			read := readTarGz
			if name == "zip" {
				read = readZip
			}
			got := read(t, one.Bytes())
			if want := byName(sample); !slices.EqualFunc(got, want, same) {
				t.Errorf("the archive has %v, want %v", got, want)
			}
		})
	}
}

func same(a, b entry) bool {
	return a.name == b.name && a.mode == b.mode && bytes.Equal(a.content, b.content)
}

func readTarGz(t *testing.T, b []byte) (all []entry) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("gzip's header has time %v and name %q, want none", z.ModTime, z.Name)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || !h.ModTime.Equal(sampleTime) {
			t.Errorf("%s: owner %d %d %q %q, time %v", h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entry{h.Name, h.FileInfo().Mode(), content})
	}
}

func readZip(t *testing.T, b []byte) (all []entry) {
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		if !f.Modified.Equal(sampleTime) {
			t.Errorf("%s: time %v", f.Name, f.Modified)
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entry{f.Name, f.Mode(), content})
	}
	return all
}

func TestPackageVersion(t *testing.T) {
	for in, want := range map[string]string{
		"v1.2.3":                 "1.2.3",
		"1.2.3":                  "1.2.3",
		"v1.2.3-4-gabcdef0":      "1.2.3+4+gabcdef0",
		"v1.2.3-dirty":           "1.2.3+dirty",
		"abcdef0":                "0~abcdef0",
		"1234567":                "0~1234567",
		"78423f3-dirty":          "0~78423f3+dirty",
		"v1.0.0-rc.1-2-g1234567": "1.0.0~rc.1+2+g1234567",
	} {
		if got := packageVersion(in); got != want {
			t.Errorf("packageVersion(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestPackageFiles: each package has every file of a release, where its system has it.
func TestPackageFiles(t *testing.T) {
	var rest []entry
	for _, name := range []string{
		"README.md", "CHANGELOG.md", "LICENSE", "THIRD-PARTY-LICENSES", "man/vhdtool.1", "man/vhdtool-options.7", "schema/info.json",
		"schema/README.md", "completions/vhdtool.bash", "completions/_vhdtool", "completions/vhdtool.fish", "completions/vhdtool.ps1",
	} {
		rest = append(rest, entry{name, 0o644, []byte(name)})
	}
	for _, c := range []struct {
		kind  string
		files func([]entry, []byte) ([]entry, error)
		want  []string
	}{
		{"deb", debianFiles, []string{
			"usr/bin/vhdtool",
			"usr/share/bash-completion/completions/vhdtool",
			"usr/share/doc/vhdtool/README.md",
			"usr/share/doc/vhdtool/THIRD-PARTY-LICENSES.gz",
			"usr/share/doc/vhdtool/changelog.gz",
			"usr/share/doc/vhdtool/copyright",
			"usr/share/doc/vhdtool/schema/README.md",
			"usr/share/doc/vhdtool/schema/info.json",
			"usr/share/fish/vendor_completions.d/vhdtool.fish",
			"usr/share/man/man1/vhdtool.1.gz",
			"usr/share/man/man7/vhdtool-options.7.gz",
			"usr/share/zsh/vendor-completions/_vhdtool",
		}},
		{"rpm", rpmFiles, []string{
			"usr/bin/vhdtool",
			"usr/share/bash-completion/completions/vhdtool",
			"usr/share/doc/vhdtool/CHANGELOG.md",
			"usr/share/doc/vhdtool/README.md",
			"usr/share/doc/vhdtool/schema/README.md",
			"usr/share/doc/vhdtool/schema/info.json",
			"usr/share/fish/vendor_completions.d/vhdtool.fish",
			"usr/share/licenses/vhdtool/LICENSE",
			"usr/share/licenses/vhdtool/THIRD-PARTY-LICENSES",
			"usr/share/man/man1/vhdtool.1.gz",
			"usr/share/man/man7/vhdtool-options.7.gz",
			"usr/share/zsh/site-functions/_vhdtool",
		}},
	} {
		files, err := c.files(rest, []byte("program"))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range byName(files) {
			got = append(got, e.name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.kind, got, c.want)
		}
	}
}

// TestHomebrew: the formula has the address and the checksum of each archive that was made,
// and nothing of those that were not.
func TestHomebrew(t *testing.T) {
	r := release{out: t.TempDir(), version: "v1.2.3"}
	for _, name := range []string{"vhdtool_1.2.3_darwin_arm64.tar.gz", "vhdtool_1.2.3_darwin_amd64.tar.gz", "vhdtool_1.2.3_linux_amd64.tar.gz"} {
		if err := os.WriteFile(filepath.Join(r.out, name), []byte(name), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.homebrew(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(r.out, "vhdtool.rb")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	archives := regexp.MustCompile(`(?m)on_(\w+) do\n +url "https://github\.com/vhdtool/vhdtool/releases/download/v1\.2\.3/(.*)"\n +sha256 "(.*)"$`)
	var got []string
	for _, m := range archives.FindAllStringSubmatch(string(b), -1) {
		got = append(got, m[1]+" "+m[2])
		if want := fmt.Sprintf("%x", sha256.Sum256([]byte(m[2]))); m[3] != want {
			t.Errorf("%s: checksum %s, want %s", m[2], m[3], want)
		}
	}
	want := []string{"arm vhdtool_1.2.3_darwin_arm64.tar.gz", "intel vhdtool_1.2.3_darwin_amd64.tar.gz", "intel vhdtool_1.2.3_linux_amd64.tar.gz"}
	if !slices.Equal(got, want) || !bytes.Contains(b, []byte("\n  version \"1.2.3\"\n")) {
		t.Errorf("the formula has the archives %q, want %q:\n%s", got, want, b)
	}
	if ruby, err := exec.LookPath("ruby"); err == nil {
		if out, err := exec.Command(ruby, "-c", name).CombinedOutput(); err != nil {
			t.Errorf("ruby: %v\n%s", err, out)
		}
	}
}

// TestContainerfile: the container image has the program alone, and starts it.
func TestContainerfile(t *testing.T) {
	b, err := os.ReadFile("../../Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	var instructions []string
	copied := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		instructions = append(instructions, fields[0])
		rest := strings.TrimSpace(strings.TrimPrefix(line, fields[0]))
		switch fields[0] {
		case "FROM":
			if rest != "scratch" {
				t.Errorf("the image is made from %s, want scratch", rest)
			}
		case "COPY":
			dir := fields[len(fields)-1]
			for _, name := range fields[1 : len(fields)-1] {
				copied[path.Join(dir, name)] = true
			}
		case "ENTRYPOINT":
			var args []string
			if err := json.Unmarshal([]byte(rest), &args); err != nil || len(args) != 1 || !copied[args[0]] {
				t.Errorf("the entry point is %s, want one of the copied files (%v)", rest, err)
			}
		}
	}
	if want := []string{"FROM", "COPY", "WORKDIR", "ENTRYPOINT"}; !slices.Equal(instructions, want) {
		t.Errorf("the instructions are %q, want %q", instructions, want)
	}
}
