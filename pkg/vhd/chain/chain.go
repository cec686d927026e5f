// Package chain merges differencing VHDs into their parents and moves them to other parents.
// The order of the steps is safe against errors, a cancelled context and crashes.
//
// [Commit] and [Rebase] open the files that they need, lock them, and close them again.
// [CommitImage] and [RebaseImage] do the same with images that the caller has opened, in any
// storage.
//
// At every moment of either operation the differencing image reads as before. Each function
// documents what else may have changed.
package chain

import (
	"errors"
	"fmt"
	"io/fs"

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

// differencing returns an error for an image without a parent.
func differencing(img *vhd.Image) error {
	if img.Type() != vhd.Differencing {
		return fmt.Errorf("%w: the image is %v, and has no parent", vhd.ErrUnsupported, img.Type())
	}
	return nil
}

// openRaw opens a raw disk, and locks it unless noLock is set.
func openRaw(name string, write, noLock bool) (disk.Disk, error) {
	lock := vhd.Lock
	if noLock {
		lock = nil
	}
	d, _, err := disk.Open(name, disk.Formats{&raw.Format}, &disk.OpenOptions{Write: write, Lock: lock})
	return d, inFile(name, err)
}

// inFile adds the name of the file to err, unless err names a file.
func inFile(name string, err error) error {
	var pe *fs.PathError
	if err == nil || errors.As(err, &pe) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}
