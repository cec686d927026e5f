//go:build !unix

package atomicfile

// syncDir does nothing: there is no flushing a directory here.
func syncDir(string) error { return nil }
