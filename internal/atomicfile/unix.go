//go:build unix && !portable

package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil // not supported by the file system
	}
	return err
}

// isReadOnly reports whether the file system is read-only.
func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }

// takeAttributes sets the attributes of f to those of old, the file to replace, open as w. An
// fs.ErrPermission means that the owner cannot be kept.
func takeAttributes(f, w *os.File, old os.FileInfo) error {
	st, ok := old.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if mine, ok := now.Sys().(*syscall.Stat_t); !ok || mine.Uid != st.Uid || mine.Gid != st.Gid {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if err := f.Chmod(old.Mode().Perm()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return copyXattrs(f, w, old)
}

// cannotReplace returns why the target cannot be replaced by a rename, or nil.
func cannotReplace(target string, old os.FileInfo) error {
	if isMountPoint(target) {
		return errors.New("it is a mount point")
	}
	dir, err := os.Stat(filepath.Dir(target))
	if err != nil || dir.Mode()&os.ModeSticky == 0 || os.Geteuid() == 0 {
		return nil
	}
	for _, info := range []os.FileInfo{old, dir} {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Geteuid() {
			return nil
		}
	}
	return errors.New("its directory is sticky, and another user owns the file")
}

// Links returns the number of hard links of the file.
func Links(info os.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink)
	}
	return 1
}
