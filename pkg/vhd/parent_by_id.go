package vhd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/vhdtool/vhdtool/internal/parentfile"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// maxIndexed is the most files in a directory that are read to find a parent by its unique id.
const maxIndexed = 4096

// idIndex has the images in the directories that the caller named, by unique id.
type idIndex struct {
	images map[uuid.UUID][]string // paths, sorted by name
	looked []TriedParent          // the directories, and what to report about each
}

// withID returns the images with a unique id in the caller's directories, without their
// subdirectories. It omits images that are in the chain already. It also returns what to report
// if there is none.
func (c *parentSearch) withID(id uuid.UUID) (paths []string, looked []TriedParent) {
	if len(c.o.Parents.Dirs) == 0 || id == uuid.Nil { // a raw disk has no id
		return nil, nil
	}
	if c.index == nil {
		c.index = &idIndex{images: map[uuid.UUID][]string{}}
		for _, dir := range c.o.Parents.Dirs {
			n, err := c.addToIndex(dir)
			if err == nil {
				err = fmt.Errorf("none of its %d files has this unique id", n)
			}
			c.index.looked = append(c.index.looked, TriedParent{dir, parentfile.Reason(err)})
		}
	}
	return slices.DeleteFunc(slices.Clone(c.index.images[id]), c.inChain), c.index.looked
}

// addToIndex reads the unique ids of the images in a directory. It returns the number of files
// that it examined.
func (c *parentSearch) addToIndex(dir string) (int, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	d, err := root.Open(".")
	if err != nil {
		return 0, err
	}
	defer d.Close()
	entries, err := d.ReadDir(maxIndexed + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if len(entries) > maxIndexed {
		return 0, fmt.Errorf("more than %d files, too many to search for a unique id", maxIndexed)
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	n := 0
	for _, e := range entries {
		id, err := c.idIn(root, e.Name())
		if errors.Is(err, parentfile.ErrSpecial) {
			continue
		}
		n++
		path := filepath.Join(dir, e.Name())
		same := func(other string) bool { return disk.SameFile(other, path) }
		if err == nil && !slices.ContainsFunc(c.index.images[id], same) {
			c.index.images[id] = append(c.index.images[id], path)
		}
	}
	return n, nil
}

// idIn reads the unique id of the image in a file of a directory. It does not lock the file,
// which may not belong to the chain.
func (c *parentSearch) idIn(dir *os.Root, name string) (uuid.UUID, error) {
	f, size, err := parentfile.OpenRegular(dir, name, nil)
	if err != nil {
		return uuid.Nil, err
	}
	defer f.Close()
	fs, err := locateFooters(f, size)
	if err != nil {
		return uuid.Nil, err
	}
	choose := fs.choose
	if c.o.IgnoreChecksums {
		choose = fs.ignoringChecksum
	}
	chosen, err := choose()
	if err != nil {
		return uuid.Nil, err
	}
	return chosen.UniqueID, nil
}

// inChain reports whether a file is in the chain already.
func (c *parentSearch) inChain(path string) bool {
	st, err := os.Stat(path)
	return err == nil && c.files.Has(st)
}
