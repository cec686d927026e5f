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

// nfpm packs files into a package of this kind ("deb" or "rpm") and adds it to the
// release. nfpm gets the files as a tree.
func (r *release) nfpm(kind, arch, name string, files []entry) error {
	root := filepath.Join(r.scratch, kind, arch)
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
	// The package has the modes and times of the tree, which must not be those of today.
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(name, 0o755)
		}
		if err == nil {
			err = os.Chtimes(name, r.time, r.time)
		}
		return err
	})
	if err != nil {
		return err
	}
	made := filepath.Join(r.scratch, name)
	env := []string{
		"VERSION=" + packageVersion(r.version), "ARCH=" + arch, "ROOT=" + root,
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.time.Unix()),
	}
	if _, err := command(env, filepath.Join(r.tools, "nfpm"), "package", "-f", "scripts/dist/nfpm.yaml", "-p", kind, "-t", made); err != nil {
		return err
	}
	b, err := os.ReadFile(made)
	if err != nil {
		return err
	}
	return r.write(name, b)
}

// manPage returns where a man page is installed, and whether e is one.
func manPage(e entry) (name string, ok bool) {
	if path.Dir(e.name) != "man" {
		return "", false
	}
	return "usr/share/man/man" + path.Ext(e.name)[1:] + "/" + path.Base(e.name), true
}

var released = regexp.MustCompile(`^v?(\d+\.\d+.*)$`)

// packageVersion is a version as dpkg and rpm order it. The version of a release is its
// number, after those of its candidates (v1.2-rc1). A commit after a release
// (v1.2-3-gabcdef0) follows it, and one without any release precedes all of them.
func packageVersion(version string) string {
	v := strings.ReplaceAll(strings.Replace(version, "-rc", "~rc", 1), "-", "+")
	if m := released.FindStringSubmatch(v); m != nil {
		return m[1]
	}
	return "0~" + v
}
