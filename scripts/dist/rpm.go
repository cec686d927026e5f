package main

import (
	"fmt"
	"path"
)

// rpmArchs are the names of the architectures in rpm.
var rpmArchs = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// rpm makes the package of Fedora, RHEL and openSUSE.
func (r *release) rpm(arch string, program []byte, rest []entry) error {
	files, err := rpmFiles(rest, program)
	if err != nil {
		return err
	}
	return r.nfpm("rpm", arch, fmt.Sprintf("vhdtool-%s-1.%s.rpm", packageVersion(r.version), rpmArchs[arch]), files)
}

// rpmFiles are the files of the package, where Fedora has such files.
func rpmFiles(rest []entry, program []byte) ([]entry, error) {
	files := []entry{{"usr/bin/vhdtool", 0o755, program}}
	add := func(name string, e entry) { files = append(files, entry{name, e.mode, e.content}) }
	for _, e := range rest {
		if page, ok := manPage(e); ok {
			b, err := gzipped(e.content)
			if err != nil {
				return nil, err
			}
			files = append(files, entry{page + ".gz", e.mode, b})
			continue
		}
		switch base := path.Base(e.name); base {
		case "LICENSE", "THIRD-PARTY-LICENSES":
			add("usr/share/licenses/vhdtool/"+base, e)
		case "vhdtool.bash":
			add("usr/share/bash-completion/completions/vhdtool", e)
		case "_vhdtool":
			add("usr/share/zsh/site-functions/_vhdtool", e)
		case "vhdtool.fish":
			add("usr/share/fish/vendor_completions.d/vhdtool.fish", e)
		case "vhdtool.ps1":
		default:
			add("usr/share/doc/vhdtool/"+e.name, e)
		}
	}
	return files, nil
}
