package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// debian makes the package of Debian and Ubuntu: nfpm packs the tree that is
// laid out for it here.
func (r *release) debian(arch string, program []byte, rest []entry) error {
	root := filepath.Join(r.scratch, "debian", arch)
	files, err := debianFiles(rest, program)
	if err != nil {
		return err
	}
	for _, e := range files {
		name := filepath.Join(root, filepath.FromSlash(e.name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, e.content, e.mode); err != nil {
			return err
		}
		if err := os.Chmod(name, e.mode); err != nil {
			return err
		}
	}
	// The package has the folders' modes too, which must not be the umask's.
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(name, 0o755)
		}
		return err
	})
	if err != nil {
		return err
	}
	version := debianVersion(r.version)
	name := fmt.Sprintf("vhdtool_%s_%s.deb", version, arch)
	deb := filepath.Join(r.scratch, name)
	env := []string{
		"VERSION=" + version, "ARCH=" + arch, "ROOT=" + root,
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.time.Unix()),
	}
	if _, err := command(env, filepath.Join(r.tools, "nfpm"), "package", "-f", "scripts/dist/nfpm.yaml", "-p", "deb", "-t", deb); err != nil {
		return err
	}
	b, err := os.ReadFile(deb)
	if err != nil {
		return err
	}
	return r.write(name, b)
}

// debianFiles returns the files of the package, with the paths that Debian prescribes.
func debianFiles(rest []entry, program []byte) ([]entry, error) {
	files := []entry{{"usr/bin/vhdtool", 0o755, program}}
	add := func(name string, e entry) { files = append(files, entry{name, e.mode, e.content}) }
	packed := func(name string, e entry) error {
		b, err := gzipped(e.content)
		files = append(files, entry{name + ".gz", e.mode, b})
		return err
	}
	for _, e := range rest {
		var err error
		switch base := path.Base(e.name); {
		case path.Dir(e.name) == "man":
			err = packed("usr/share/man/man1/"+base, e)
		case base == "CHANGELOG.md":
			err = packed("usr/share/doc/vhdtool/changelog", e)
		case base == "LICENSE":
			add("usr/share/doc/vhdtool/copyright", e)
		case base == "THIRD-PARTY-LICENSES":
			err = packed("usr/share/doc/vhdtool/"+base, e)
		case base == "README.md":
			add("usr/share/doc/vhdtool/"+base, e)
		case base == "vhdtool.bash":
			add("usr/share/bash-completion/completions/vhdtool", e)
		case base == "_vhdtool":
			add("usr/share/zsh/vendor-completions/_vhdtool", e)
		case base == "vhdtool.fish":
			add("usr/share/fish/vendor_completions.d/vhdtool.fish", e)
		}
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

var released = regexp.MustCompile(`^v?(\d+\.\d+.*)$`)

// debianVersion is a version as dpkg takes and compares it: a release is its
// number, which stands behind its candidates (v1.2-rc1); what is on the way to the
// next one (v1.2-3-gabcdef0) stands behind it, and what knows of no release before
// all of them.
func debianVersion(version string) string {
	v := strings.ReplaceAll(strings.Replace(version, "-rc", "~rc", 1), "-", "+")
	if m := released.FindStringSubmatch(v); m != nil {
		return m[1]
	}
	return "0~" + v
}
