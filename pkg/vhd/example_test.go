package vhd_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

// exampleDir makes a directory for the files of an example.
func exampleDir() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "vhd-example-")
	if err != nil {
		log.Fatal(err)
	}
	return dir, func() { os.RemoveAll(dir) }
}

// exampleImage makes a dynamic image of 10 MiB with "hello" at 4 MiB.
func exampleImage(dir string) string {
	name := filepath.Join(dir, "disk.vhd")
	img, err := vhd.Create(name, &vhd.CreateOptions{Size: 10 << 20, Exact: true})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("hello"), 4<<20); err != nil {
		log.Fatal(err)
	}
	if err := img.Close(); err != nil {
		log.Fatal(err)
	}
	return name
}

// An image is a disk with random access.
func ExampleOpen() {
	dir, remove := exampleDir()
	defer remove()
	img, err := vhd.Open(exampleImage(dir), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer img.Close()
	b := make([]byte, 5)
	if _, err := img.ReadAt(b, 4<<20); err != nil {
		log.Fatal(err)
	}
	total, allocated := img.BlockCounts()
	fmt.Printf("%v, %d bytes, %d of %d blocks in use: %s\n", img.Type(), img.Size(), allocated, total, b)
	// Output: dynamic, 10485760 bytes, 1 of 5 blocks in use: hello
}

// Three errors distinguish the kinds of faults, and a FormatError has the offset.
func ExampleOpen_errors() {
	dir, remove := exampleDir()
	defer remove()
	name := exampleImage(dir)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	// A block that overlaps the header.
	if _, err := f.WriteAt([]byte{0, 0, 0, 1}, 1536+4); err != nil {
		log.Fatal(err)
	}
	_, err = vhd.Open(name, nil)
	var fe *vhd.FormatError
	switch {
	case errors.Is(err, vhd.ErrNotVHD):
		fmt.Println("something else")
	case errors.Is(err, vhd.ErrUnsupported):
		fmt.Println("fine, perhaps, but not for this package")
	case errors.As(err, &fe):
		fmt.Printf("damaged at byte %d: %s is %s\n", fe.Offset, fe.Field, fe.Got)
	}
	// Output:
	// damaged at byte 1540: BAT entry 1 is sector 1, a block that overlaps the dynamic disk header
}

// A new file appears under its name when the image is closed. Until then Discard removes it,
// and an older file of that name is unchanged.
func ExampleCreate() {
	dir, remove := exampleDir()
	defer remove()
	name := filepath.Join(dir, "disk.vhd")
	img, err := vhd.Create(name, &vhd.CreateOptions{
		Type:  vhd.Fixed,
		Size:  10 << 20,
		Exact: true, // without it the size is rounded up to a geometry
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("hello"), 4096); err != nil {
		img.Discard()
		log.Fatal(err)
	}
	if err := img.Close(); err != nil {
		log.Fatal(err)
	}
	st, err := os.Stat(name)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(st.Size() - 10<<20)
	// Output: 512
}

// The options of a product are a start for own options.
func ExampleCreateOptions_product() {
	azure, err := product.Find("azure")
	if err != nil {
		log.Fatal(err)
	}
	o, err := azure.CreateOptions(100<<20 + 1)
	if err != nil {
		log.Fatal(err)
	}
	size, err := o.VirtualSize()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%v, %d MiB\n", o.Type, size>>20)
	// Output: fixed, 101 MiB
}

// Format creates and opens images of a format that a user names, with options by name.
func ExampleFormat() {
	dir, err := os.MkdirTemp("", "vhd-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	formats := disk.Formats{&vhd.Format, &raw.Format} // raw last: it accepts everything
	format, err := formats.ByName("vhd")
	if err != nil {
		log.Fatal(err)
	}
	name := filepath.Join(dir, "disk.vhd")
	f, err := os.Create(name)
	if err != nil {
		log.Fatal(err)
	}
	d, err := format.Create(f, 10<<20, disk.Options{"subformat": "dynamic", "force_size": "on", "block_size": "512k"})
	if err != nil {
		log.Fatal(err)
	}
	if err := d.Close(); err != nil { // completes the image
		log.Fatal(err)
	}
	if err := f.Close(); err != nil {
		log.Fatal(err)
	}

	d, format, err = disk.Open(name, formats, &disk.OpenOptions{Lock: vhd.Lock})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	fmt.Println(format.Name, d.(disk.Describer).Subformat(), d.Size(), d.(disk.Blocker).BlockSize())
	// Output: vpc dynamic 10485760 524288
}

// An image can be in any io.ReaderAt: here it is in memory.
func ExampleNewImage() {
	var file bytes.Buffer
	o := &vhd.CreateOptions{Type: vhd.Fixed, Size: 512, Exact: true}
	if err := vhd.WriteStream(context.Background(), &file, o, strings.NewReader(strings.Repeat("disk", 128)), nil, nil); err != nil {
		log.Fatal(err)
	}
	img, err := vhd.NewImage(bytes.NewReader(file.Bytes()), int64(file.Len()), nil)
	if err != nil {
		log.Fatal(err)
	}
	b, err := io.ReadAll(io.NewSectionReader(img, 0, 8))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", b)
	// Output: diskdisk
}

// A chain need not be in files. OpenParent opens each parent, here from an archive in memory.
// The unique id identifies the parent.
func ExampleOpenOptions_openParent() {
	archive := exampleZip()
	images := map[uuid.UUID]*bytes.Reader{}
	var leaf *bytes.Reader
	for _, entry := range archive.File {
		r, err := entry.Open()
		if err != nil {
			log.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			log.Fatal(err)
		}
		file := bytes.NewReader(b)
		img, err := vhd.NewImage(file, file.Size(), &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
		if err != nil {
			log.Fatal(err)
		}
		f := img.Footer()
		images[f.UniqueID] = file
		if entry.Name == "child.vhd" {
			leaf = file
		}
	}

	img, err := vhd.NewImage(leaf, leaf.Size(), &vhd.OpenOptions{
		OpenParent: func(r vhd.ParentRecord) (disk.Disk, error) {
			file, ok := images[r.ID]
			if !ok {
				return nil, fmt.Errorf("%s is not in the archive", r.Name)
			}
			return vhd.NewImage(file, file.Size(), &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer img.Close()
	b := make([]byte, 11)
	if _, err := img.ReadAt(b, 0); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%v: %s\n", img.Type(), b)
	// Output: differencing: base, child
}

// exampleZip is an archive of base.vhd and its child child.vhd.
func exampleZip() *zip.Reader {
	dir, err := os.MkdirTemp("", "vhd-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	base, child := filepath.Join(dir, "base.vhd"), filepath.Join(dir, "child.vhd")
	img, err := vhd.Create(base, &vhd.CreateOptions{Size: 1 << 20, Exact: true})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("base, base."), 0); err != nil {
		log.Fatal(err)
	}
	if err := img.Close(); err != nil {
		log.Fatal(err)
	}
	parent, err := vhd.Open(base, nil)
	if err != nil {
		log.Fatal(err)
	}
	record, err := vhd.ParentRecordOf(child, base, parent, vhd.PathsAll)
	if err != nil {
		log.Fatal(err)
	}
	if img, err = vhd.Create(child, &vhd.CreateOptions{Parent: parent, ParentRecord: record}); err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("child"), 6); err != nil {
		log.Fatal(err)
	}
	if err := img.Close(); err != nil {
		log.Fatal(err)
	}
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	r, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		log.Fatal(err)
	}
	return r
}

// A check continues where Open stops, and reports all faults.
func ExampleChecker() {
	dir, remove := exampleDir()
	defer remove()
	b, err := os.ReadFile(exampleImage(dir))
	if err != nil {
		log.Fatal(err)
	}
	b = b[:len(b)-512] // remove the trailing footer
	c := vhd.NewChecker(bytes.NewReader(b), int64(len(b)), nil)
	for f, err := range c.Findings(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%v: %s: %s\n", f.Severity, f.ID, f.Field)
	}
	n := c.Counts()
	fmt.Printf("%d errors, %d of %d blocks in use\n", n.Errors, n.Allocated, n.Blocks)
	// Output:
	// error: trailing-footer: trailing footer
	// 1 errors, 1 of 5 blocks in use
}

// Extents describe the parts of the disk that need reading; the others are zeros.
func ExampleImage_Extents() {
	dir, remove := exampleDir()
	defer remove()
	img, err := vhd.Open(exampleImage(dir), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer img.Close()
	for e, err := range img.Extents(0, img.Size()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%8d %8d %v", e.Off, e.Len, e.State)
		if e.State == disk.Data {
			fmt.Printf(" at %d in the file", e.FileOff)
		}
		fmt.Println()
	}
	// Output:
	//        0  4194304 unallocated
	//  4194304  2097152 data at 4096 in the file
	//  6291456  4194304 unallocated
}

// The file map describes the uses of the bytes of the file.
func ExampleImage_FileMap() {
	dir, remove := exampleDir()
	defer remove()
	name := exampleImage(dir)
	st, err := os.Stat(name)
	if err != nil {
		log.Fatal(err)
	}
	img, err := vhd.Open(name, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer img.Close()
	for e := range img.FileMap(st.Size()) {
		fmt.Printf("%8d %8d %v", e.Off, e.Len, e.Use)
		if e.Block >= 0 {
			fmt.Printf(" of block %d", e.Block)
		}
		fmt.Println()
	}
	// Output:
	//        0      512 copy of the footer
	//      512     1024 header
	//     1536      512 BAT
	//     2048     1536 padding
	//     3584      512 sector bitmap of block 2
	//     4096  2097152 data of block 2
	//  2101248      512 footer
}

// A child stores its own writes, and reads the rest from its parent.
func ExampleCreate_differencing() {
	dir, remove := exampleDir()
	defer remove()
	base, child := exampleImage(dir), filepath.Join(dir, "child.vhd")

	parent, err := vhd.Open(base, nil)
	if err != nil {
		log.Fatal(err)
	}
	o := &vhd.CreateOptions{Parent: parent} // the child closes it
	if o.ParentRecord, err = vhd.ParentRecordOf(child, base, parent, vhd.PathsAll); err != nil {
		log.Fatal(err)
	}
	img, err := vhd.Create(child, o)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("J"), 4<<20); err != nil {
		log.Fatal(err)
	}
	if err := img.Close(); err != nil {
		log.Fatal(err)
	}

	if img, err = vhd.Open(child, nil); err != nil { // Open opens its parents
		log.Fatal(err)
	}
	defer img.Close()
	b := make([]byte, 5)
	if _, err := img.ReadAt(b, 4<<20); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%v, of %s: %s\n", img.Type(), filepath.Base(img.ParentPath()), b)
	// Output: differencing, of disk.vhd: Jello
}
