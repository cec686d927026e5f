package raw_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

// A disk has whole sectors. If the file ends within a sector, the rest reads as zeros.
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
	f, size, err := disk.OpenFile(name, false, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close() // a raw.Disk does not close its file
	d := raw.Open(f, size)
	n, err := d.ReadAt(make([]byte, 512), 512)
	fmt.Println(d.Size(), n, err)
	// Output: 1024 512 <nil>
}
