//go:build !unix || portable

package atomicfile

import "os"

// syncDir does nothing: there is no flushing a directory here.
func syncDir(string) error { return nil }

// keepOwner does nothing: files have no numbered owners here.
func keepOwner(*os.File, os.FileInfo) {}
