package main

import (
	"fmt"
	"path"
)

// debian makes the package of Debian and Ubuntu.
func (r *release) debian(arch string, program []byte, rest []entry) error {
	files, err := debianFiles(rest, program)
	if err != nil {
		return err
	}
	return r.nfpm("deb", arch, fmt.Sprintf("vhdtool_%s_%s.deb", packageVersion(r.version), arch), files)
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
		base := path.Base(e.name)
		if page, ok := manPage(e); ok {
			err = packed(page, e)
		}
		switch {
		case base == "CHANGELOG.md":
			err = packed("usr/share/doc/vhdtool/changelog", e)
		case base == "LICENSE":
			add("usr/share/doc/vhdtool/copyright", e)
		case base == "THIRD-PARTY-LICENSES":
			err = packed("usr/share/doc/vhdtool/"+base, e)
		case base == "README.md" && path.Dir(e.name) == ".":
			add("usr/share/doc/vhdtool/"+base, e)
		case path.Dir(e.name) == "schema":
			add("usr/share/doc/vhdtool/"+e.name, e)
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
