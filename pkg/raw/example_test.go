package raw_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

// A file is a disk in whole sectors. What it lacks of the last one reads as zeros.
func ExampleOpen() {
	dir, err := os.MkdirTemp("", "raw-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(name, make([]byte, 1000), 0o666); err != nil {
		log.Fatal(err)
	}
	f, size, err := disk.OpenFile(name, false)
	if err != nil {
		log.Fatal(err)
	}
	d := raw.Open(f, size)
	defer d.Close()
	n, err := d.ReadAt(make([]byte, 512), 512)
	fmt.Println(d.Size(), n, err)
	// Output: 1024 512 <nil>
}
