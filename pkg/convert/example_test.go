package convert_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// exampleDisk creates a raw disk of 64 MiB with 1 MiB of data in a new directory.
func exampleDisk() (dir string, d disk.Disk) {
	dir, err := os.MkdirTemp("", "convert-example-")
	if err != nil {
		log.Fatal(err)
	}
	name := filepath.Join(dir, "disk.raw")
	f, err := os.Create(name)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte("data"), 1<<18), 8<<20); err != nil {
		log.Fatal(err)
	}
	if err := f.Truncate(64 << 20); err != nil {
		log.Fatal(err)
	}
	if err := f.Close(); err != nil {
		log.Fatal(err)
	}
	if d, _, err = disk.Open(name, disk.Formats{&raw.Format}, nil); err != nil {
		log.Fatal(err)
	}
	return dir, d
}

// A raw disk becomes a dynamic VHD. Holes and zeros are not allocated.
func ExampleCopy() {
	dir, src := exampleDisk()
	defer os.RemoveAll(dir)
	defer src.Close()

	dst, err := vhd.Create(filepath.Join(dir, "disk.vhd"), &vhd.CreateOptions{Size: src.Size(), Exact: true})
	if err != nil {
		log.Fatal(err)
	}
	last := int64(-1)
	err = convert.Copy(context.Background(), dst, src, &convert.Options{
		Progress: func(done, total int64) {
			if quarter := done * 4 / total; quarter > last { // report each quarter once
				last = quarter
			}
		},
	})
	if err != nil {
		dst.Discard() // leaves no half-written file
		log.Fatal(err)
	}
	_, allocated := dst.BlockCounts()
	fmt.Printf("%d quarters done, %d block in use\n", last, allocated)
	if err := dst.Close(); err != nil {
		log.Fatal(err)
	}
	// Output: 4 quarters done, 1 block in use
}

// The size of a pipe is known only at its end.
func ExampleReadFrom() {
	dir, err := os.MkdirTemp("", "convert-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	dst, err := vhd.Create(filepath.Join(dir, "disk.vhd"), &vhd.CreateOptions{Exact: true, Growing: true})
	if err != nil {
		log.Fatal(err)
	}
	pipe := io.MultiReader(bytes.NewReader(make([]byte, 3<<20)), bytes.NewReader([]byte("the end")))
	n, err := convert.ReadFrom(context.Background(), dst, pipe, nil, nil)
	if err != nil {
		dst.Discard()
		log.Fatal(err)
	}
	fmt.Printf("%d bytes on a disk of %d\n", n, dst.Size())
	if err := dst.Close(); err != nil {
		log.Fatal(err)
	}
	// Output: 3145735 bytes on a disk of 3146240
}

// Compare compares the contents of two disks, whatever their formats.
func ExampleCompare() {
	dir, a := exampleDisk()
	defer os.RemoveAll(dir)
	defer a.Close()

	b, err := vhd.Create(filepath.Join(dir, "disk.vhd"), &vhd.CreateOptions{Size: a.Size(), Exact: true})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Discard()
	off, err := convert.Compare(context.Background(), a, b, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the first difference is at MiB", off>>20)
	// Output: the first difference is at MiB 8
}
