package main

import (
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// foreignFormats are recognised so that they are not taken for raw disks, and
// refused.
var foreignFormats = []*format{
	foreign("qcow2", 0, "QFI\xfb"),
	foreign("qed", 0, "QED\x00"),
	foreign("vdi", 64, "\x7f\x10\xda\xbe"),
	foreign("vmdk", 0, "KDMV", "COWD", "# Disk DescriptorFile"),
}

// foreign is a format that has one of the magics at the offset. It can be
// probed and named, but neither opened nor made.
func foreign(name string, offset int64, magics ...string) *format {
	refusal := func(hint string) error {
		return &hintError{fmt.Errorf("format %s is not supported", name), fmt.Sprintf(hint, name)}
	}
	refuse := func() error {
		return refusal("let another program go between: qemu-img convert -f %s -O raw IMAGE disk.raw")
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
			return nil, refusal("make a raw disk or a VHD, and let another program go on: qemu-img convert -f raw -O %s disk.raw IMAGE")
		},
	}}
}
