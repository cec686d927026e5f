// Package chain merges differencing VHDs into their parents and moves them to other
// parents, in an order that an error, a cancelled context or a crash does not harm.
//
// [Commit] and [Rebase] open the files that they need, lock them, and close them
// again. [CommitImage] and [RebaseImage] do the same to images that the caller has
// open, in whatever storage.
//
// At every moment of either operation the differencing image reads as before. What
// else may have changed is said with each function.
package chain

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// file is one level of a chain.
type file struct {
	name string
	raw  bool
}

// filesOf returns the files of a differencing image and all its parents, the image
// first.
func filesOf(name string, o vhd.OpenOptions) ([]file, error) {
	img, err := vhd.Open(name, &o)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	if err := differencing(img); err != nil {
		return nil, inFile(name, err)
	}
	files := []file{{name: name}}
	for level := img; level.Parent() != nil; {
		next, isVHD := level.Parent().(*vhd.Image)
		files = append(files, file{level.ParentPath(), !isVHD})
		if !isVHD {
			break
		}
		level = next
	}
	return files, nil
}

// differencing refuses an image that has no parent.
func differencing(img *vhd.Image) error {
	if img.Type() != vhd.Differencing {
		return fmt.Errorf("%w: the image is %v, and has no parent", vhd.ErrUnsupported, img.Type())
	}
	return nil
}

// openRaw opens a raw disk and locks it, unless noLock is set.
func openRaw(name string, write, noLock bool) (disk.Disk, error) {
	f, _, err := disk.OpenFile(name, write)
	if err != nil {
		return nil, err
	}
	if !noLock {
		err = imagelock.Lock(f, write)
	}
	var size int64
	if err == nil { // only now: until it was locked, another process could change it
		size, err = disk.FileSize(f)
	}
	if err != nil {
		f.Close()
		return nil, inFile(name, err)
	}
	return raw.Open(f, size), nil
}

// inFile names the file that an error is about, unless the error does.
func inFile(name string, err error) error {
	var pe *fs.PathError
	if err == nil || errors.As(err, &pe) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}
