// Command prose checks the text that people read in this repository: Markdown, Go
// comments, Go strings such as help and messages, and the comments of shell scripts,
// testscripts and the Makefile.
//
// It reports banned words and phrases, lines that are too long, and sentences that are
// too long. With -extract it writes the checked text into a directory, for a spelling
// checker. Every other byte becomes a space there, so lines and columns stay valid.
//
// Usage: prose [-extract DIR] [PATH...], in the root of the repository. Without PATH it checks
// everything except the paths in uncovered.
package main

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// uncovered lists the paths that do not follow the rules yet, as patterns of [path.Match]. The
// aim is an empty list: remove a path when its text is rewritten.
var uncovered []string

// generated lists the paths whose text comes from other files, which are checked.
var generated = []string{
	"docs/man", // from the help in cmd/vhdtool
}

// skipped lists the paths that hold no text of this repository.
var skipped = []string{".git", "bin", "dist"}

func main() {
	extract := flag.String("extract", "", "write the checked text into `DIR` instead of checking it")
	flag.Parse()
	paths, excluded := flag.Args(), generated
	if len(paths) == 0 {
		paths, excluded = []string{"."}, slices.Concat(uncovered, generated, skipped)
	}
	if err := run(paths, excluded, *extract); err != nil {
		fmt.Fprintln(os.Stderr, "prose:", err)
		os.Exit(1)
	}
}

func run(paths, excluded []string, extractDir string) error {
	root := os.DirFS(".")
	var files []string
	for _, p := range paths {
		inTree, err := textFiles(root, filepath.ToSlash(filepath.Clean(p)), excluded)
		if err != nil {
			return err
		}
		files = append(files, inTree...)
	}
	found := 0
	for _, name := range files {
		source, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		passages := passagesOf(name, string(source))
		if extractDir != "" {
			if err := writeText(filepath.Join(extractDir, name), string(source), passages); err != nil {
				return err
			}
			continue
		}
		for _, f := range checkText(string(source), passages) {
			fmt.Printf("%s:%s\n", name, f)
			found++
		}
	}
	if found > 0 {
		return fmt.Errorf("%d findings in %d files", found, len(files))
	}
	return nil
}

// textFiles returns the paths of the files to check in a tree, sorted. Paths that
// match a pattern in excluded are left out.
func textFiles(root fs.FS, tree string, excluded []string) ([]string, error) {
	var files []string
	err := fs.WalkDir(root, tree, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, pattern := range excluded {
			switch match, err := path.Match(pattern, name); {
			case err != nil:
				return err
			case match && entry.IsDir():
				return fs.SkipDir
			case match:
				return nil
			}
		}
		if !entry.IsDir() && passagesFunc(name) != nil {
			files = append(files, name)
		}
		return nil
	})
	return files, err
}

// writeText writes source to name with every byte outside the passages blanked.
func writeText(name, source string, passages []passage) error {
	text := []byte(blank(source))
	for _, p := range passages {
		copy(text[p.offset:], p.text)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o666)
}

// blank replaces every byte of s by a space, except line ends.
func blank(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] != '\n' {
			b[i] = ' '
		}
	}
	return string(b)
}
