//go:build unix

package main

import (
	"io/fs"
	"syscall"
)

// actualSize returns the bytes that a file uses on its file system.
func actualSize(st fs.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return int64(sys.Blocks) * 512
	}
	return st.Size()
}
