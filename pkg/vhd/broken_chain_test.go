package vhd_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// chainFiles makes a chain of images in dir, each named by its level. It then removes the
// images whose levels are in without. It returns the disk and the path of the last image.
func chainFiles(t *testing.T, dir string, levels int, without ...int) (contents []byte, leaf string) {
	t.Helper()
	contents, base := parentDisk(1, text(68, levelID(0)))
	files := map[string][]byte{"0.vhd": base}
	for i := 1; i < levels; i++ {
		files[fmt.Sprintf("%d.vhd", i)] = level(i)
	}
	for _, i := range without {
		delete(files, fmt.Sprintf("%d.vhd", i))
	}
	tree(t, dir, files)
	return contents, filepath.Join(dir, fmt.Sprintf("%d.vhd", levels-1))
}

// A broken chain is opened as far as possible, and the error says where it breaks.
func TestPartialChain(t *testing.T) {
	for missing := range 3 {
		t.Run(fmt.Sprintf("without %d", missing), func(t *testing.T) {
			_, leaf := chainFiles(t, t.TempDir(), 4, missing)
			var want *vhd.ParentError
			if img, err := vhd.Open(leaf, nil); !errors.As(err, &want) {
				t.Fatalf("opened %v, %v; want a ParentError", img, err)
			}
			img, err := vhd.Open(leaf, &vhd.OpenOptions{Parents: disk.ParentSearch{Partial: true}})
			must(t, err)
			defer img.Close()
			var paths []string
			last := img
			for last.Parent() != nil {
				if last.ParentErr() != nil {
					t.Errorf("%v of an image with a parent", last.ParentErr())
				}
				paths = append(paths, last.ParentPath())
				last = last.Parent().(*vhd.Image)
			}
			var got *vhd.ParentError
			if !errors.As(last.ParentErr(), &got) || got.Error() != want.Error() {
				t.Fatalf("%v; want %v", last.ParentErr(), want)
			}
			if len(paths) != 2-missing || !slices.Equal(got.Opened, paths) {
				t.Errorf("opened %q, and the error says %q", paths, got.Opened)
			}
			if _, err := img.ReadAt(make([]byte, sector), 0); !errors.Is(err, vhd.ErrNoParent) {
				t.Errorf("read: %v; want ErrNoParent", err)
			}
		})
	}
	_, leaf := chainFiles(t, t.TempDir(), 3)
	img, err := vhd.Open(leaf, &vhd.OpenOptions{Parents: disk.ParentSearch{Partial: true}})
	must(t, err)
	defer img.Close()
	base := img.Parent().(*vhd.Image).Parent().(*vhd.Image)
	if img.ParentErr() != nil || base.ParentErr() != nil {
		t.Errorf("a whole chain: %v, %v", img.ParentErr(), base.ParentErr())
	}
}

// The caller can name a parent file for each level of a chain.
func TestParentFilesByLevel(t *testing.T) {
	dir := t.TempDir()
	contents, leaf := chainFiles(t, dir, 4)
	for _, i := range []string{"0", "1", "2"} {
		must(t, os.Rename(filepath.Join(dir, i+".vhd"), filepath.Join(dir, "renamed "+i)))
	}
	at := func(i int) string { return filepath.Join(dir, fmt.Sprintf("renamed %d", i)) }
	for _, c := range []struct {
		name   string
		files  []string
		opened int
		want   error
	}{
		{"all", []string{at(2), at(1), at(0)}, 3, nil},
		{"one more", []string{at(2), at(1), at(0), at(3)}, 3, nil},
		{"the base is missing", []string{at(2), at(1)}, 2, vhd.ErrParentNotFound},
		{"none", nil, 0, vhd.ErrParentNotFound},
		{"the grandparent as the parent", []string{at(1)}, 0, vhd.ErrParentMismatch},
		{"the parent twice", []string{at(2), at(2)}, 1, vhd.ErrParentLoop},
		{"a level is searched for", []string{at(2), "", at(0)}, 1, vhd.ErrParentNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			img, err := vhd.Open(leaf, &vhd.OpenOptions{Parents: disk.ParentSearch{Files: c.files}})
			if err == nil {
				sameBytes(t, "the chain", readAll(t, img), contents)
				must(t, img.Close())
			}
			var e *vhd.ParentError
			if !errors.Is(err, c.want) || errors.As(err, &e) && len(e.Opened) != c.opened {
				t.Errorf("%v; want %v after %d parents", err, c.want, c.opened)
			}
		})
	}
}

// Renamed parents are found by their unique ids, only in the caller's directories. No other
// file is accepted as the parent.
func TestParentByID(t *testing.T) {
	_, wrong := parentDisk(2, text(68, "another image id"))
	for _, c := range []struct {
		name  string
		place func(t *testing.T, store string, base []byte)
		want  error
		tells string
	}{
		{"renamed", func(t *testing.T, store string, base []byte) {
			tree(t, store, map[string][]byte{"a": wrong, "b": base, "c": pattern(3000, 1), "empty": nil})
		}, nil, ""},
		{"the name is another image's", func(t *testing.T, store string, base []byte) {
			tree(t, store, map[string][]byte{"0.vhd": wrong, "b": base})
		}, nil, ""},
		{"not there", func(t *testing.T, store string, _ []byte) {
			tree(t, store, map[string][]byte{"a": wrong, "b": pattern(3000, 1)})
		}, vhd.ErrParentNotFound, "none of its 2 files"},
		{"further below", func(t *testing.T, store string, base []byte) {
			tree(t, store, map[string][]byte{"sub/b": base})
		}, vhd.ErrParentNotFound, "none of its 0 files"},
		{"two", func(t *testing.T, store string, base []byte) {
			tree(t, store, map[string][]byte{"a": base, "b": base})
		}, vhd.ErrParentAmbiguous, "it has this unique id"},
		{"two, of which one has the name", func(t *testing.T, store string, base []byte) {
			tree(t, store, map[string][]byte{"a": wrong, "0.vhd": base, "c": base})
		}, nil, ""},
		{"one with two names", func(t *testing.T, store string, base []byte) {
			tree(t, store, map[string][]byte{"a": base})
			if err := os.Link(filepath.Join(store, "a"), filepath.Join(store, "b")); err != nil {
				t.Skip(err)
			}
		}, nil, ""},
		{"as many files as are read", func(t *testing.T, store string, base []byte) {
			fill(t, store, 4095)
			tree(t, store, map[string][]byte{"z": base})
		}, nil, ""},
		{"more files than are read", func(t *testing.T, store string, base []byte) {
			fill(t, store, 4096)
			tree(t, store, map[string][]byte{"z": base})
		}, vhd.ErrParentNotFound, "more than 4096 files"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, store := t.TempDir(), t.TempDir()
			contents, leaf := chainFiles(t, dir, 3)
			base, err := os.ReadFile(filepath.Join(dir, "0.vhd"))
			must(t, err)
			// The image's own directory is not searched for ids.
			must(t, os.Rename(filepath.Join(dir, "0.vhd"), filepath.Join(dir, "renamed")))
			c.place(t, store, base)
			img, err := vhd.Open(leaf, &vhd.OpenOptions{Parents: disk.ParentSearch{Dirs: []string{store}}})
			if err == nil {
				sameBytes(t, "the chain", readAll(t, img), contents)
				must(t, img.Close())
			}
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.tells) {
				t.Errorf("%v; want %v, and %q", err, c.want, c.tells)
			}
		})
	}
}

// fill makes n empty files.
func fill(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.txt", i)), nil, 0o644))
	}
}

// A parent that differs from its child's record is reported with that child, both by an open
// image and by a check.
func TestParentFindings(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	changed := time.Date(2021, 3, 4, 5, 6, 8, 0, time.UTC)
	child := func(size int64, own, parent string, recorded time.Time) []byte {
		b := childOfSize(size, own, "", path{code: "W2ru", text: wide(parent)})
		be.PutUint32(b[512+56:], uint32(vhd.NearestTimestamp(recorded)))
		sum(b[512:1536], 36)
		return b
	}
	for _, c := range []struct {
		name     string
		recorded time.Time // by low, of its parent base; the file of base changes then
		size     int64     // size of low
		want     []string  // severity, id and file
	}{
		{"as recorded", changed, 16 * kib, nil},
		{"newer", changed.Add(-time.Hour), 16 * kib, []string{"warning parent-time low.vhd"}},
		{"older", changed.Add(time.Hour), 16 * kib, []string{"warning parent-time low.vhd"}},
		{"larger", changed, 12 * kib, []string{"error parent-size low.vhd", "warning parent-size "}},
		{"smaller", changed, 20 * kib, []string{"warning parent-size low.vhd", "error parent-size "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, base := parentDisk(1)
			tree(t, dir, map[string][]byte{
				"base.vhd": base,
				"low.vhd":  child(c.size, parentID, "base.vhd", c.recorded),
				"top.vhd":  childOf("id of this child", "", path{code: "W2ru", text: wide("low.vhd")}),
			})
			top, err := os.ReadFile(at("top.vhd"))
			must(t, err)
			for _, end := range []int{0, len(top) - 512} {
				copy(top[end+68:], "id of the leaf..")
				sum(top[end:end+512], 64)
			}
			must(t, os.WriteFile(at("top.vhd"), top, 0o644))
			must(t, os.Chtimes(at("base.vhd"), changed, changed))

			var got []string
			list := func(fs []vhd.Finding) {
				for _, f := range fs {
					if f.ID != "parent-time" && f.ID != "parent-size" {
						continue
					}
					file := f.File
					if file != "" {
						file = filepath.Base(file)
					}
					got = append(got, fmt.Sprintf("%v %s %s", f.Severity, f.ID, file))
					if !strings.Contains(f.Note, "low.vhd") || f.ID == "parent-time" && !strings.Contains(f.Note, at("base.vhd")) {
						t.Errorf("%s: note %q does not name the files", f.ID, f.Note)
					}
				}
				slices.Sort(got)
			}
			img, err := vhd.Open(at("top.vhd"), nil)
			must(t, err)
			list(img.ParentFindings())
			must(t, img.Close())
			want := slices.Sorted(slices.Values(c.want))
			if !slices.Equal(got, want) {
				t.Errorf("open: %q, want %q", got, want)
			}
			got = nil
			f, size, err := disk.OpenFile(at("top.vhd"), false, nil)
			must(t, err)
			defer f.Close()
			var found []vhd.Finding
			_, err = checkImage(f, size, &vhd.CheckOptions{Chain: true}, func(f vhd.Finding) { found = append(found, f) })
			must(t, err)
			list(found)
			if !slices.Equal(got, want) {
				t.Errorf("check: %q, want %q", got, want)
			}
		})
	}
}
