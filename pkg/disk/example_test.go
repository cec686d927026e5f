package disk_test

import (
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// A program lists the formats that it supports. Open detects the format of a file from its
// contents.
func ExampleOpen() {
	formats := disk.Formats{&vhd.Format, &raw.Format} // raw is last, because it accepts every file
	dir, err := os.MkdirTemp("", "disk-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "image")
	img, err := vhd.Create(name, &vhd.CreateOptions{Size: 1 << 20, Exact: true})
	if err != nil {
		log.Fatal(err)
	}
	if err := img.Close(); err != nil {
		log.Fatal(err)
	}

	d, format, err := disk.Open(name, formats, &disk.OpenOptions{Lock: vhd.Lock})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	n, err := io.Copy(io.Discard, io.NewSectionReader(d, 0, d.Size()))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(format.Name, n)
	// Output: vpc 1048576
}
