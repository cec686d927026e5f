package filesystem

import "github.com/vhdtool/vhdtool/pkg/disk"

// NewDense is NewFile on a file system that cannot extend a file.
func NewDense(f disk.File) disk.File { return &denseFile{f: f} }
