//go:build !unix

package main

import "io/fs"

// actualSize returns the file's length: the allocated size is not known here.
func actualSize(st fs.FileInfo) int64 { return st.Size() }
