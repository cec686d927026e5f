package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/internal/target"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// fileOptions are the options of the file itself, for every format, in the order in which qemu-img
// prints them. The extent size hint for XFS is accepted and ignored.
var fileOptions = []optionSpec{
	{name: "nocow", kind: boolValue, help: "Turn off copy-on-write (valid only on btrfs)"},
	{name: "preallocation", kind: textValue, values: []string{"off", "falloc", "full"}, help: "Preallocation mode (allowed values: off, falloc, full)"},
	{name: "extent_size_hint", kind: sizeValue, help: "Extent size hint for the image file, 0 to disable"},
}

// withoutFileOptions returns only the options of the format.
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

// parsePreallocation parses a mode; "" is off.
func parsePreallocation(mode string) (target.Preallocation, error) {
	switch mode {
	case "", "off":
		return target.PreallocateOff, nil
	case "falloc":
		return target.PreallocateSpace, nil
	case "full":
		return target.PreallocateFull, nil
	case "metadata":
		return 0, qemuErrorf("Unsupported preallocation mode: %s", mode)
	}
	return 0, &hintError{qemuErrorf("invalid parameter value: %s", mode), allowedHint("preallocation", mode)}
}

// applyFileOptions applies the file options to a new file. If the size of the disk is not known
// yet, space is reserved on completion. progress may be nil.
func applyFileOptions(ctx context.Context, out *target.File, set disk.Options, sizeKnown bool, progress disk.Progress) error {
	p, err := parsePreallocation(set["preallocation"])
	if err != nil {
		return err
	}
	if f := out.OSFile(); f != nil {
		if on, _ := optlist.ParseBool(set["nocow"]); on {
			filesystem.SetNoCOW(f)
		}
	}
	return withoutPath(out.Preallocate(ctx, p, sizeKnown, progress))
}

// resizeFunc is [disk.Resizer.Resize].
type resizeFunc = func(ctx context.Context, size int64, progress disk.Progress) error

// growReserved resizes a raw or fixed disk in the named file, and allocates the added space. If
// there is not enough, or ctx is cancelled, it restores the old size.
func growReserved(ctx context.Context, d disk.Disk, name string, p target.Preallocation, resize resizeFunc, size int64, progress disk.Progress) error {
	old := d.Size()
	if err := resize(ctx, size, progress); err != nil || p == target.PreallocateOff {
		return err
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err == nil {
		if st, serr := f.Stat(); serr == nil && st.Mode().IsRegular() {
			err = p.Fill(ctx, f, old, d.Size()-old, progress)
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return errors.Join(withoutPath(err), resize(context.WithoutCancel(ctx), old, nil))
	}
	return nil
}
