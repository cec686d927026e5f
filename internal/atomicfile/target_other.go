//go:build unix && !linux && !portable

package atomicfile

import "os"

// copyXattrs does nothing: extended attributes are kept on Linux only.
func copyXattrs(_, _ *os.File, _ os.FileInfo) error { return nil }

// isMountPoint reports nothing: files are not mounted over here.
func isMountPoint(string) bool { return false }

// LoopDevice returns "": there are no loop devices here.
func LoopDevice(os.FileInfo) string { return "" }
