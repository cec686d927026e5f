package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// repository is where releases are downloaded from.
const repository = "https://github.com/vhdtool/vhdtool"

//go:embed vhdtool.rb.tmpl
var formulaText string

var formula = template.Must(template.New("vhdtool.rb").Parse(formulaText))

// formulaSystem is a system that Homebrew runs on, and the archives for it.
type formulaSystem struct {
	Name     string
	Archives []formulaArchive
}

type formulaArchive struct{ CPU, URL, Sum string }

// homebrew writes the formula of Homebrew for the archives of the release, if there are
// any for its systems.
func (r *release) homebrew() error {
	var systems []formulaSystem
	for _, s := range []struct{ goos, name string }{{"darwin", "macos"}, {"linux", "linux"}} {
		system := formulaSystem{Name: s.name}
		for _, a := range []struct{ arch, name string }{{"arm64", "arm"}, {"amd64", "intel"}} {
			archive := r.stem(s.goos, a.arch) + ".tar.gz"
			b, err := os.ReadFile(filepath.Join(r.out, archive))
			if os.IsNotExist(err) {
				continue
			}
			if err != nil {
				return err
			}
			url := fmt.Sprintf("%s/releases/download/%s/%s", repository, r.version, archive)
			system.Archives = append(system.Archives, formulaArchive{a.name, url, fmt.Sprintf("%x", sha256.Sum256(b))})
		}
		if len(system.Archives) > 0 {
			systems = append(systems, system)
		}
	}
	if len(systems) == 0 {
		return nil
	}
	var b bytes.Buffer
	err := formula.Execute(&b, map[string]any{
		"Repository": repository, "Version": strings.TrimPrefix(r.version, "v"), "Systems": systems,
	})
	if err != nil {
		return err
	}
	return r.write("vhdtool.rb", b.Bytes())
}
