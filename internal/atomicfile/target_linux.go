//go:build linux && !portable

package atomicfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// aclXattr stores the access control list of a file.
const aclXattr = "system.posix_acl_access"

// copyXattrs copies the extended attributes of old, open as w, to f, including the access control
// list. Attributes that only the system sets are left out. f already has the permissions of old. If
// the list cannot be copied, the group gets no permissions, because those shown for it are the mask
// of the list.
func copyXattrs(f, w *os.File, old os.FileInfo) error {
	want, got := listXattrs(w), listXattrs(f)
	if slices.Contains(got, aclXattr) && !slices.Contains(want, aclXattr) {
		// The list that the directory's default list has set.
		if err := unix.Fremovexattr(int(f.Fd()), aclXattr); err != nil {
			return fmt.Errorf("access control list: %w", err)
		}
		if err := f.Chmod(old.Mode().Perm()); err != nil {
			return err
		}
	}
	for _, name := range want {
		err := copyXattr(f, w, name)
		if err != nil && name == aclXattr {
			if err := f.Chmod(old.Mode().Perm() &^ 0o070); err != nil {
				return err
			}
		}
	}
	return nil
}

func copyXattr(f, w *os.File, name string) error {
	n, err := unix.Fgetxattr(int(w.Fd()), name, nil)
	if err != nil {
		return err
	}
	value := make([]byte, n)
	if n, err = unix.Fgetxattr(int(w.Fd()), name, value); err != nil {
		return err
	}
	return unix.Fsetxattr(int(f.Fd()), name, value[:n], 0)
}

// listXattrs lists the names of the extended attributes of a file. It is empty if they cannot be
// listed.
func listXattrs(f *os.File) []string {
	n, err := unix.Flistxattr(int(f.Fd()), nil)
	if err != nil || n == 0 {
		return nil
	}
	b := make([]byte, n)
	if n, err = unix.Flistxattr(int(f.Fd()), b); err != nil {
		return nil
	}
	var names []string
	for name := range bytes.SplitSeq(bytes.TrimRight(b[:n], "\x00"), []byte{0}) {
		names = append(names, string(name))
	}
	return names
}

// isMountPoint reports whether something is mounted on the named file, as containers do with single
// files.
func isMountPoint(name string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, name, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// LoopDevice returns the path of a loop device whose backing file this is, or "".
func LoopDevice(info os.FileInfo) string {
	all, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, name := range all {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		backing, err := os.Stat(strings.TrimSuffix(string(b), "\n"))
		if err == nil && os.SameFile(info, backing) {
			return "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(name)))
		}
	}
	return ""
}
