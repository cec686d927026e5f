package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// slots is the number of temporary names of a target. Create removes leftovers of each of them.
// Programs that write one target at the same time use different ones.
const slots = 10

// slotName is a temporary name of a target, in its directory.
func slotName(target string, slot int) string {
	dir, base := filepath.Split(target)
	if len(base) > 200 {
		base = strings.ToValidUTF8(base[:200], "")
	}
	return fmt.Sprintf("%s.%s.vhdtool-%d.tmp", dir, base, slot)
}

// tempNames yields the temporary names of a target, and then random ones.
func tempNames(target string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for slot := range slots {
			if !yield(slotName(target, slot)) {
				return
			}
		}
		for range 100 {
			if !yield(slotName(target, slots+int(rand.Uint32()))) {
				return
			}
		}
	}
}

// create creates the file that will replace the target.
func create(target string, perm fs.FileMode) (*File, error) {
	for slot := range slots {
		removeLeftover(slotName(target, slot))
	}
	if f := createUnnamed(target, perm); f != nil {
		return &File{File: f, target: target}, nil
	}
	return createNamed(target, perm)
}

// createNamed creates a file with a temporary name, and holds it.
func createNamed(target string, perm fs.FileMode) (*File, error) {
	var err error
	for name := range tempNames(target) {
		var f *os.File
		f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
		if err == nil && !hold(f, name) { // removed as a leftover before it was held
			f.Close()
			continue
		}
		if err == nil {
			return &File{File: f, target: target, temp: name}, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	return nil, err
}

// takeTemp gives an unnamed file a temporary name.
func (f *File) takeTemp() error {
	err := fs.ErrExist
	for name := range tempNames(f.target) {
		if err = linkUnnamed(f.File, name); err == nil {
			f.temp = name
			return nil
		}
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return err
}

// takeTarget gives an unnamed file the name of the target, or a temporary one if that is
// used. It reports which.
func (f *File) takeTarget() (named bool, err error) {
	if err := linkUnnamed(f.File, f.target); err == nil {
		return true, nil
	}
	return false, f.takeTemp()
}
