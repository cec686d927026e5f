package vhd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

// OpenToCommit opens a differencing image to merge it into one of its parents: the
// one in the file base, or the next one if that is "". The image and that parent
// are open for writing, and depth is how many levels are above it: what the image
// has at less depth is what is to be written into the parent. Closing the image
// closes all.
//
// ErrParentNotFound is returned for an image that has no parent, or not this one. A nil o
// means the zero value.
func OpenToCommit(name, base string, o *OpenOptions) (leaf *Image, into disk.Disk, depth int, err error) {
	if o == nil {
		o = &OpenOptions{}
	}
	files, err := chainFiles(name, o)
	if err != nil {
		return nil, nil, 0, err
	}
	depth = 1
	if base != "" {
		depth = 0
		st, err := os.Stat(base)
		if err != nil {
			return nil, nil, 0, err
		}
		for i := 1; i < len(files); i++ {
			if x, err := os.Stat(files[i].name); err == nil && os.SameFile(st, x) {
				depth = i
			}
		}
	}
	if depth == 0 || depth >= len(files) {
		return nil, nil, 0, fmt.Errorf("%s: %w among the image's parents: %s", name, ErrParentNotFound, base)
	}
	// From the bottom up, because the parents of an image are open before it is.
	again := OpenOptions{NoLock: o.NoLock, Force: o.Force, IgnoreChecksums: o.IgnoreChecksums, SizeRule: o.SizeRule, Write: true}
	if depth+1 < len(files) {
		again.Parents = o.Parents
		again.Parents.File = files[depth+1].name
		for _, f := range files {
			again.Parents.Dirs = append(again.Parents.Dirs, filepath.Dir(f.name))
		}
	}
	if files[depth].raw {
		into, err = openRaw(files[depth].name, o.NoLock)
	} else {
		var img *Image
		img, err = Open(files[depth].name, &again)
		into = img
	}
	if err != nil {
		return nil, nil, 0, err
	}
	below := into
	for i := depth - 1; i >= 0; i-- {
		again.Parents, again.Parent, again.Write = disk.ParentSearch{}, below, i == 0
		if leaf, err = Open(files[i].name, &again); err != nil {
			below.Close()
			return nil, nil, 0, err
		}
		leaf.parentPath = files[i+1].name
		below = leaf
	}
	return leaf, into, depth, nil
}

// chainFile is one level of a chain.
type chainFile struct {
	name string
	raw  bool
}

// chainFiles returns the files of an image and all its parents.
func chainFiles(name string, o *OpenOptions) ([]chainFile, error) {
	look := *o
	look.Write = false
	img, err := Open(name, &look)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	files := []chainFile{{name: name}}
	for level := img; level.parent != nil; {
		next, ok := level.parent.(*Image)
		files = append(files, chainFile{level.parentPath, !ok})
		if !ok {
			break
		}
		level = next
	}
	return files, nil
}

// openRaw opens a raw parent for writing.
func openRaw(name string, noLock bool) (disk.Disk, error) {
	var lock disk.LockFunc
	if !noLock {
		lock = Lock
	}
	f, size, err := disk.OpenFile(name, true, lock)
	if errors.Is(err, ErrLocked) {
		err = fmt.Errorf("%s: %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	return raw.Format.Open(f, size, &disk.OpenOptions{Write: true, Closer: f})
}
