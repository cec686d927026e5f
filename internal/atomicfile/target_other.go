//go:build unix && !linux && !portable

package atomicfile

import "os"

// copyXattrs does nothing: only Linux keeps extended attributes.
func copyXattrs(_, _ *os.File, _ os.FileInfo) error { return nil }

// isMountPoint returns false: nothing is mounted on files here.
func isMountPoint(string) bool { return false }

// LoopDevice returns "": there are no loop devices here.
func LoopDevice(os.FileInfo) string { return "" }
