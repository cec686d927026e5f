package main

import (
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// foreignFormats are formats that are detected and refused, so that their images are not read as
// raw disks.
var foreignFormats = []*format{
	foreign("qed", 0, "QED\x00"),
	foreign("vdi", 64, "\x7f\x10\xda\xbe"),
	foreign("vmdk", 0, "KDMV", "COWD", "# Disk DescriptorFile"),
}

// foreign returns a format that has one of the magics at the offset. It can be detected and named,
// but not opened or created.
func foreign(name string, offset int64, magics ...string) *format {
	refusal := func(hint string) error {
		return &hintError{fmt.Errorf("format %s is not supported", name), fmt.Sprintf(hint, name)}
	}
	refuse := func() error {
		return refusal("convert it with another program first: qemu-img convert -f %s -O raw IMAGE disk.raw")
	}
	return &format{foreign: true, Format: &disk.Format{
		Name:     name,
		Suffixes: []string{"." + name},
		Probe: func(r io.ReaderAt, _ int64) error {
			for _, m := range magics {
				b := make([]byte, len(m))
				if n, _ := r.ReadAt(b, offset); n == len(b) && string(b) == m {
					return refuse()
				}
			}
			return disk.ErrNotThisFormat
		},
		Open: func(io.ReaderAt, int64, *disk.OpenOptions) (disk.Disk, error) { return nil, refuse() },
		Create: func(disk.File, int64, disk.Options) (disk.Disk, error) {
			return nil, refusal("create a raw disk or a VHD, and convert it with another program: qemu-img convert -f raw -O %s disk.raw IMAGE")
		},
	}}
}
