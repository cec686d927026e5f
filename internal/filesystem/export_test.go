package filesystem

import "github.com/vhdtool/vhdtool/pkg/disk"

// NewDense is NewFile for a file system that cannot make a file longer.
func NewDense(f disk.File) disk.File { return &denseFile{f: f} }
