package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/internal/sparse"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// fileOptions are the options of the file itself, whatever its format, in the order in which
// qemu-img prints them. The hint for XFS is accepted, and not used.
var fileOptions = []optionSpec{
	{name: "nocow", kind: boolValue, help: "Turn off copy-on-write (valid only on btrfs)"},
	{name: "preallocation", kind: textValue, values: []string{"off", "falloc", "full"}, help: "Preallocation mode (allowed values: off, falloc, full)"},
	{name: "extent_size_hint", kind: sizeValue, help: "Extent size hint for the image file, 0 to disable"},
}

// withoutFileOptions returns the options of the format alone.
func withoutFileOptions(all disk.Options) disk.Options {
	own := disk.Options{}
	for key, value := range all {
		if !isFileOption(key) {
			own[key] = value
		}
	}
	return own
}

func isFileOption(name string) bool {
	for _, s := range fileOptions {
		if s.name == name {
			return true
		}
	}
	return false
}

// checkFileOptions checks the values that qemu-img checks before it creates the file.
func checkFileOptions(set disk.Options) error {
	for _, s := range fileOptions {
		value, given := set[s.name]
		var err error
		switch {
		case !given:
		case s.kind == boolValue:
			_, err = optlist.Bool(s.name, value)
		case s.kind == sizeValue:
			_, err = optlist.Size(s.name, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// printedValue is the value of an option as create shows it.
func printedValue(s optionSpec, value string) string {
	if n, err := sizearg.Parse(value); err == nil && isFileOption(s.name) && s.kind == sizeValue {
		return fmt.Sprint(n)
	}
	return value
}

// preallocation says how much of a file gets storage before it is written.
type preallocation uint8

const (
	preallocateOff   preallocation = iota // none
	preallocateSpace                      // space is reserved
	preallocateFull                       // zeros are written
)

// parsePreallocation reads a mode; "" is off.
func parsePreallocation(mode string) (preallocation, error) {
	switch mode {
	case "", "off":
		return preallocateOff, nil
	case "falloc":
		return preallocateSpace, nil
	case "full":
		return preallocateFull, nil
	case "metadata":
		return 0, qemuErrorf("Unsupported preallocation mode: %s", mode)
	}
	return 0, qemuErrorf("invalid parameter value: %s", mode)
}

// fill gives n bytes of a file, from off on, the storage that the mode asks for.
func (p preallocation) fill(f *os.File, off, n int64) error {
	if p == preallocateOff {
		return nil
	}
	return sparse.Fill(f, off, n, p == preallocateFull)
}

// applyFileOptions applies the options of the file to a new one. If the size of the disk is
// not known yet, space is reserved when it is complete. Files of dynamic images grow, and
// nothing is reserved for them, as in qemu-img; nor on devices.
func (o *output) applyFileOptions(set disk.Options, sizeKnown bool) error {
	p, err := parsePreallocation(set["preallocation"])
	if err != nil {
		return err
	}
	if o.file == nil {
		return nil
	}
	if on, _ := optlist.ParseBool(set["nocow"]); on {
		setNoCOW(o.file.File)
	}
	if b, ok := o.disk.(disk.Blocker); ok && b.BlockSize() != 0 {
		return nil
	}
	if !sizeKnown {
		o.preallocation = p
		return nil
	}
	return o.fill(p)
}

// fill gives the whole file the storage that the mode asks for.
func (o *output) fill(p preallocation) error {
	st, err := o.file.Stat()
	if err != nil {
		return err
	}
	return withoutPath(p.fill(o.file.File, 0, st.Size()))
}

// growReserved resizes a raw or fixed disk in the named file, and gives what it gains storage.
// If there is no space for that, the disk gets its old size back.
func growReserved(d disk.Disk, name string, p preallocation, resize func(size int64) error, size int64) error {
	old := d.Size()
	if err := resize(size); err != nil || p == preallocateOff {
		return err
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err == nil {
		if st, serr := f.Stat(); serr == nil && st.Mode().IsRegular() {
			err = p.fill(f, old, d.Size()-old)
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return errors.Join(withoutPath(err), resize(old))
	}
	return nil
}
