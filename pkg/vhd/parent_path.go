package vhd

import (
	"errors"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// candidate is a path where a parent may be, or a text that is not a path here.
type candidate struct {
	path    string
	refused error
}

// candidates returns the paths where the parent of an image may be. dirs are the directories of
// the image. First come the paths of the locators, relative ones before absolute ones, and then
// the name. Last come the file names of all of these, in dirs and in the directories that the
// caller named.
func (c *parentSearch) candidates(p *ParentRecord, dirs []string) []candidate {
	var list []candidate
	seen := map[string]bool{}
	add := func(path string, refused error) {
		key := path
		if abs, err := filepath.Abs(path); err == nil && refused == nil {
			key = abs
		}
		if !seen[key] {
			seen[key] = true
			list = append(list, candidate{path, refused})
		}
	}
	dirs = append(dirs, c.o.Parents.Dirs...)
	var texts []string
	for _, code := range []string{"W2ru", "Wi2r", "W2ku", "Wi2k", "MacX"} {
		for _, l := range p.Locators {
			if l.Code == code {
				texts = append(texts, l.Path)
			}
		}
	}
	texts = append(texts, p.Name)
	var names []string
	for _, text := range texts {
		if text == "" {
			continue
		}
		path, err := localPath(text)
		if base := lastPart(path); base != "" && !slices.Contains(names, base) {
			names = append(names, base)
		}
		switch {
		case err != nil:
			add(text, err)
		case filepath.IsAbs(path):
			add(filepath.Clean(path), nil)
		default:
			for _, d := range dirs {
				add(filepath.Join(d, path), nil)
			}
		}
	}
	for _, d := range dirs {
		for _, name := range names {
			add(filepath.Join(d, name), nil)
		}
	}
	return list
}

// The reasons why a text is not a path here.
var (
	errNetworkPath = errors.New("not followed: a path to another machine")
	errDrivePath   = errors.New("a Windows path: only its file name was searched")
	errSpecialPath = errors.New("not followed: not a regular file")
)

// localPath converts a locator's text to a path of this system. With an error only the last
// part of the returned path is usable.
func localPath(text string) (string, error) {
	if rest, ok := cutPrefixFold(text, "file:"); ok {
		path, err := url.PathUnescape(rest)
		if err != nil || strings.ContainsRune(path, 0) {
			return "", errors.New("not a URL")
		}
		host, ok := strings.CutPrefix(path, "//")
		if !ok {
			return filepath.FromSlash(path), nil
		}
		switch name, after, _ := strings.Cut(host, "/"); name {
		case "", "localhost":
			return filepath.FromSlash("/" + after), nil
		case ".", "..": // XenServer's relative URLs
			return filepath.FromSlash(host), nil
		}
		return host, errNetworkPath
	}
	path := strings.ReplaceAll(text, `\`, "/")
	switch {
	case strings.HasPrefix(path, "//"):
		return path, errNetworkPath
	case len(path) >= 2 && path[1] == ':' && runtime.GOOS != "windows":
		return path[2:], errDrivePath
	}
	return filepath.FromSlash(path), nil
}

// cutPrefixFold is strings.CutPrefix, but ignores the case of ASCII letters.
func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// lastPart returns the file name at the end of a path, or "".
func lastPart(path string) string {
	path = filepath.ToSlash(path)
	name := path[strings.LastIndexByte(path, '/')+1:]
	if name == "." || name == ".." {
		return ""
	}
	return name
}
