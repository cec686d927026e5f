//go:build unix

package main

import (
	"io/fs"
	"syscall"
)

// actualSize is what a file takes on its file system, in bytes.
func actualSize(st fs.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return int64(sys.Blocks) * 512
	}
	return st.Size()
}
